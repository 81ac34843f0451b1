"""Weights by name: a manifest that says what each file must be, sources that may have it, and a verified
cache.
"""

from __future__ import annotations

from serving.weights.errors import SourceError, SourceFailure, UnknownArtifactError, WeightsUnavailableError
from serving.weights.manifest import Artifact, Manifest
from serving.weights.store import ArtifactInfo, ArtifactStatus, WeightStore

__all__ = [
    "Artifact",
    "ArtifactInfo",
    "ArtifactStatus",
    "Manifest",
    "SourceError",
    "SourceFailure",
    "UnknownArtifactError",
    "WeightStore",
    "WeightsUnavailableError",
]
