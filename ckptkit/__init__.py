"""Checkpoints for Keras and TensorFlow that survive: saved whole, resumed where the run was, exported verified.

    model.fit(x, y, epochs=20, callbacks=[ckptkit.TrainingCheckpoint("runs/digits")])

Names are loaded when they are used: ``import ckptkit`` brings in neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptkit import policies, preservation
    from ckptkit.callbacks import TrainingCheckpoint
    from ckptkit.completion import ExportOnCompletion
    from ckptkit.errors import (
        CheckpointDamagedError,
        CheckpointError,
        CheckpointMismatchError,
        CheckpointNotFoundError,
        CheckpointSaveError,
        DirectoryLockedError,
        ExportError,
        ReadOnlyError,
    )
    from ckptkit.loop import TrainingLoop
    from ckptkit.manager import CheckpointManager
    from ckptkit.records import CheckpointRecord

__version__ = "0.1.0"

_HOME = {
    "CheckpointDamagedError": "errors",
    "CheckpointError": "errors",
    "CheckpointManager": "manager",
    "CheckpointMismatchError": "errors",
    "CheckpointNotFoundError": "errors",
    "CheckpointRecord": "records",
    "CheckpointSaveError": "errors",
    "DirectoryLockedError": "errors",
    "ExportError": "errors",
    "ExportOnCompletion": "completion",
    "ReadOnlyError": "errors",
    "TrainingCheckpoint": "callbacks",
    "TrainingLoop": "loop",
    "policies": "policies",
    "preservation": "preservation",
}

__all__ = [
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointManager",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointRecord",
    "CheckpointSaveError",
    "DirectoryLockedError",
    "ExportError",
    "ExportOnCompletion",
    "ReadOnlyError",
    "TrainingCheckpoint",
    "TrainingLoop",
    "policies",
    "preservation",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ckptkit' has no attribute {name!r}")
    module = importlib.import_module(f"ckptkit.{_HOME[name]}")
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
