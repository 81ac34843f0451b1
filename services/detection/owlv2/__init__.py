"""OWLv2 (Minderer et al., "Scaling Open-Vocabulary Object Detection", NeurIPS 2023): objects by words or example."""
