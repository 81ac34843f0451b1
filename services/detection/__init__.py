"""The expert that finds objects: YOLO26n on the 80 classes of COCO."""
