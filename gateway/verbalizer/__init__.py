"""Puts what the experts saw into exact sentences, with provenance: which observation produced which phrase.

Pure functions over frozen dataclasses: no protos, no grpc, no torch.
"""

from __future__ import annotations

from gateway.verbalizer.phrase import Box, Phrase, Verbalization
from gateway.verbalizer.polysight import SeenObject, SeenRelation, SeenText, verbalize_polysight

__all__ = ["Box", "Phrase", "SeenObject", "SeenRelation", "SeenText", "Verbalization", "verbalize_polysight"]
