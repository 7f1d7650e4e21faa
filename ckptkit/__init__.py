"""Checkpoints for Keras and TensorFlow that survive: saved whole, resumed where the run was, exported verified.

    model.fit(x, y, epochs=20, callbacks=[ckptkit.TrainingCheckpoint("runs/digits")])

Names are loaded when they are used: ``import ckptkit`` brings in neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptkit import policies, preservation
    from ckptkit.artifacts import (
        load_architecture,
        load_model,
        load_weights,
        publish_version,
        save_architecture,
        save_model,
        save_weights,
    )
    from ckptkit.callbacks import TrainingCheckpoint
    from ckptkit.completion import ExportOnCompletion
    from ckptkit.config import RunConfig, load_config
    from ckptkit.errors import (
        ArtifactError,
        CheckpointDamagedError,
        CheckpointError,
        CheckpointMismatchError,
        CheckpointNotFoundError,
        CheckpointSaveError,
        ConfigError,
        DirectoryLockedError,
        ExportError,
        MissingExtraError,
        ReadOnlyError,
        UnsupportedBundleError,
        WorkerError,
    )
    from ckptkit.export import versions
    from ckptkit.export.architecture import model_from_json, model_from_yaml, model_to_json, model_to_yaml
    from ckptkit.loop import TrainingLoop
    from ckptkit.manager import CheckpointManager
    from ckptkit.preemption import Preempted, request_preemption
    from ckptkit.records import CheckpointRecord

__version__ = "0.1.0"

_HOME = {
    "ArtifactError": "errors",
    "CheckpointDamagedError": "errors",
    "CheckpointError": "errors",
    "CheckpointManager": "manager",
    "CheckpointMismatchError": "errors",
    "CheckpointNotFoundError": "errors",
    "CheckpointRecord": "records",
    "CheckpointSaveError": "errors",
    "ConfigError": "errors",
    "DirectoryLockedError": "errors",
    "ExportError": "errors",
    "ExportOnCompletion": "completion",
    "MissingExtraError": "errors",
    "Preempted": "preemption",
    "ReadOnlyError": "errors",
    "RunConfig": "config",
    "TrainingCheckpoint": "callbacks",
    "TrainingLoop": "loop",
    "UnsupportedBundleError": "errors",
    "WorkerError": "errors",
    "load_architecture": "artifacts",
    "load_config": "config",
    "load_model": "artifacts",
    "load_weights": "artifacts",
    "model_from_json": "export.architecture",
    "model_from_yaml": "export.architecture",
    "model_to_json": "export.architecture",
    "model_to_yaml": "export.architecture",
    "policies": "policies",
    "preservation": "preservation",
    "publish_version": "artifacts",
    "request_preemption": "preemption",
    "save_architecture": "artifacts",
    "save_model": "artifacts",
    "save_weights": "artifacts",
    "versions": "export.versions",
}

__all__ = [
    "ArtifactError",
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointManager",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointRecord",
    "CheckpointSaveError",
    "ConfigError",
    "DirectoryLockedError",
    "ExportError",
    "ExportOnCompletion",
    "MissingExtraError",
    "Preempted",
    "ReadOnlyError",
    "RunConfig",
    "TrainingCheckpoint",
    "TrainingLoop",
    "UnsupportedBundleError",
    "WorkerError",
    "load_architecture",
    "load_config",
    "load_model",
    "load_weights",
    "model_from_json",
    "model_from_yaml",
    "model_to_json",
    "model_to_yaml",
    "policies",
    "preservation",
    "publish_version",
    "request_preemption",
    "save_architecture",
    "save_model",
    "save_weights",
    "versions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ckptkit' has no attribute {name!r}")
    module = importlib.import_module(f"ckptkit.{_HOME[name]}")
    value = module if _HOME[name].split(".")[-1] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
