"""What is exported: a classifier in torch with its contract."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medinfer.spec import ModelSpec
from medtrain.checkpoint import load_checkpoint
from medtrain.network import Classifier, predict_logits


@dataclass(frozen=True)
class Source:
    """A classifier and its contract; `spec.provenance` names the checkpoint's hash."""

    classifier: Classifier
    spec: ModelSpec

    def logits(self, tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return what torch says: float32 (n, classes) for uint8 (n, H, W, C); the reference of every verdict."""
        return predict_logits(self.classifier, tensors)


def read_checkpoint(path: str | os.PathLike[str]) -> Source:
    """Read a checkpoint that medtrain wrote; raises CheckpointError."""
    checkpoint = load_checkpoint(Path(path))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    provenance = replace(checkpoint.spec.provenance, checkpoint_sha256=digest)
    return Source(checkpoint.classifier(), replace(checkpoint.spec, provenance=provenance))
