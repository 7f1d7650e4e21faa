"""Every error ckptkit raises on purpose, each also a child of the built-in that it refines.

CheckpointError
├── CheckpointNotFoundError   (FileNotFoundError)  nothing there under that name
├── CheckpointDamagedError    (OSError)            files are there, but are not what was written
├── UnsupportedBundleError    (NotImplementedError) a sound checkpoint of a kind that only TensorFlow reads
├── CheckpointMismatchError   (ValueError)         the model and the checkpoint do not fit together
├── CheckpointSaveError       (OSError)            a save failed; older checkpoints stand
├── DirectoryLockedError      (OSError)            another process writes to this directory
├── ReadOnlyError             (PermissionError)    a manager opened with read_only=True was asked to write
├── WorkerError               (RuntimeError)       another worker of a cluster did not do its part, or not in time
├── ExportError               (RuntimeError)       an artifact could not be written; nothing was left behind
├── ArtifactError             (ValueError)         an artifact cannot be loaded: damaged, unknown, or without its code
├── ConfigError               (ValueError)         a file of options, or a configuration, that cannot be meant
└── MissingExtraError         (ImportError)        a part of ckptkit that is installed on demand is not installed

Beside the tree stands :class:`ckptkit.Preempted` (SystemExit): a run was told to end and leaves, which is no error.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointSaveError",
    "ConfigError",
    "DirectoryLockedError",
    "ExportError",
    "MissingExtraError",
    "ReadOnlyError",
    "UnsupportedBundleError",
    "WorkerError",
]


class CheckpointError(Exception):
    """Base of every error that ckptkit raises on purpose."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint is there under the name that was asked for."""


class CheckpointDamagedError(CheckpointError, OSError):
    """The files of a checkpoint are missing, cut short or altered."""


class UnsupportedBundleError(CheckpointError, NotImplementedError):
    """A checkpoint is sound as far as it goes, and of a kind that ckptkit leaves to TensorFlow's own reader."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """A checkpoint and the objects it is restored into do not fit together."""


class CheckpointSaveError(CheckpointError, OSError):
    """A checkpoint could not be written; every older one still stands."""


class DirectoryLockedError(CheckpointError, OSError):
    """Another process is writing checkpoints to the same directory."""


class ReadOnlyError(CheckpointError, PermissionError):
    """A manager opened with ``read_only=True`` was asked to write."""


class WorkerError(CheckpointError, RuntimeError):
    """Another worker of a cluster did not do its part of a save or a restore, or not in time."""


class ExportError(CheckpointError, RuntimeError):
    """A finished artifact could not be written; nothing was left behind."""


class ArtifactError(CheckpointError, ValueError):
    """A finished artifact cannot be loaded: it is damaged, of an unknown format, or needs code that is not here."""


class ConfigError(CheckpointError, ValueError):
    """A file of options, or a configuration made of one, says something that cannot be meant."""


class MissingExtraError(CheckpointError, ImportError):
    """What was asked for is done by a package that is installed on demand, and that is not here."""
