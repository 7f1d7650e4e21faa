"""Checkpoints for Keras and TensorFlow that survive: saved whole, resumed where the run was, exported verified.

    >>> callback = ckptkit.TrainingCheckpoint("runs/digits")
    >>> history = model.fit(x, y, epochs=20, callbacks=[callback], verbose=0)

Names are loaded when they are used: ``import ckptkit`` brings in neither TensorFlow nor Keras.

Training
    CheckpointManager        Save, keep, list and restore the checkpoints of one directory.
    TrainingCheckpoint       Save a run of ``model.fit`` whole, and go on with it when the same script is started again.
    TrainingLoop             Go over a dataset for some epochs, save between steps, resume from the newest checkpoint.
    ExportOnCompletion       Write finished artifacts when ``fit`` ends normally; one that is killed or fails has none.
    CheckpointRecord         One checkpoint in a directory.

When to save and what to keep
    policies                 When to save: small frozen policies that read one context and combine with ``|`` and ``&``.
    preservation             What to keep: small frozen policies over records that combine with ``|`` and ``&``.
    RunConfig                The options of one run.
    load_config              Read a configuration from a YAML file.

Being told to end
    Preempted                A run was told to end, has saved, and leaves: with exit code 143 if nobody catches it.
    request_preemption       Let every run in this process save at its next batch, and leave with ``Preempted``.

Finished models
    save_model               Save a whole model: architecture, weights, compile config and the optimizer's state.
    load_model               Load a model that ``save_model`` or Keras has saved, in any format.
    save_weights             Save the weights of a built model to a file.
    load_weights             Load weights into a built model, all of them or none.
    save_architecture        Save what a model is made of, without its weights and what it was compiled with.
    load_architecture        Make a new model of a file that ``save_architecture`` has written, with fresh weights.
    model_to_json            Return a model's architecture as JSON.
    model_from_json          Make a new model of JSON, by ``model_to_json`` or by Keras' ``model.to_json()``.
    model_to_yaml            Return a model's architecture as YAML that any reader takes.
    model_from_yaml          Make a new model of YAML, by ``model_to_yaml`` or by Keras 2's ``model.to_yaml()``.
    publish_version          Publish a model as the next version below a folder that TensorFlow Serving polls.
    versions                 Numbered versions of a model, as TensorFlow Serving polls them: each comes and goes whole.

Errors
    CheckpointError          Base of every error that ckptkit raises on purpose.
    CheckpointNotFoundError  No checkpoint is there under the name that was asked for.
    CheckpointDamagedError   The files of a checkpoint are missing, cut short or altered.
    UnsupportedBundleError   A checkpoint is sound as far as it goes, and of a kind that only TensorFlow reads.
    CheckpointMismatchError  A checkpoint and the objects it is restored into do not fit together.
    CheckpointSaveError      A checkpoint could not be written; every older one still stands.
    DirectoryLockedError     Another process is writing checkpoints to the same directory.
    ReadOnlyError            A manager opened with ``read_only=True`` was asked to write.
    WorkerError              Another worker of a cluster did not do its part of a save or a restore, or not in time.
    ExportError              A finished artifact could not be written; nothing was left behind.
    ArtifactError            A finished artifact cannot be loaded: damaged, of an unknown format, or without its code.
    ConfigError              A file of options, or a configuration made of one, says something that cannot be meant.
    MissingExtraError        A package that is installed on demand, and does what was asked for, is not here.

In the examples ``model`` is a compiled Keras model, ``x`` and ``y`` are its data as arrays and ``dataset`` as batches,
``train_step`` does a step with one, ``checkpoint`` is ``tf.train.Checkpoint(model=model)``, and ``manager`` is
``ckptkit.CheckpointManager(checkpoint, "runs/digits", max_to_keep=3)``.
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
