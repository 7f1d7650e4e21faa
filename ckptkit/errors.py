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
    """Base of every error that ckptkit raises on purpose.

    Example:
        >>> try:
        ...     record = manager.restore(1200)
        ... except ckptkit.CheckpointError as error:  # whichever it is
        ...     print(error)
        no checkpoint 1200 in runs/digits; steps there, newest first: none.
    """


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint is there under the name that was asked for.

    Example:
        >>> try:
        ...     record = manager.restore()
        ... except ckptkit.CheckpointNotFoundError:
        ...     print("a fresh start")
        a fresh start
    """


class CheckpointDamagedError(CheckpointError, OSError):
    """The files of a checkpoint are missing, cut short or altered.

    Example:
        >>> prefix = manager.save()
        >>> os.truncate(f"{prefix}.index", 100)
        >>> try:
        ...     record = manager.restore(prefix)
        ... except ckptkit.CheckpointDamagedError as error:
        ...     print(error)
        checkpoint ckpt-1 in runs/digits is damaged: ckpt-1.index has 100 bytes, manifest says ...
    """


class UnsupportedBundleError(CheckpointError, NotImplementedError):
    """A checkpoint is sound as far as it goes, and of a kind that only TensorFlow reads.

    Example:
        >>> from ckptkit.dtypes import numpy_dtype
        >>> try:
        ...     numpy_dtype("resource")
        ... except ckptkit.UnsupportedBundleError as error:
        ...     print(error)
        cannot read values of dtype resource: NumPy and ml_dtypes have no such type.
    """


class CheckpointMismatchError(CheckpointError, ValueError):
    """A checkpoint and the objects it is restored into do not fit together.

    Example:
        >>> prefix = manager.save()
        >>> wider = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(1)])
        >>> other = ckptkit.CheckpointManager(tf.train.Checkpoint(model=wider), "runs/digits", max_to_keep=3)
        >>> try:
        ...     record = other.restore()
        ... except ckptkit.CheckpointMismatchError as error:
        ...     print(error)
        cannot restore step 1 from runs/digits/ckpt-1: ... variables differ.
          model/_functional/_operations/1/_kernel  checkpoint (4, 1) float32   model (5, 1) float32
          ...
        Build the model as it was saved, or pass strict=False to skip these.
    """


class CheckpointSaveError(CheckpointError, OSError):
    """A checkpoint could not be written; every older one still stands.

    Example:
        >>> blocked = ckptkit.CheckpointManager(checkpoint, "runs/blocked", max_to_keep=3)
        >>> os.mkdir("runs")
        >>> os.close(os.open("runs/blocked", os.O_CREAT))  # a file in the place of the directory
        >>> try:
        ...     prefix = blocked.save()
        ... except ckptkit.CheckpointSaveError as error:
        ...     print(error)
        cannot write checkpoints to runs/blocked: FileExistsError EEXIST File exists: '...'
        There is no complete checkpoint yet. Mend the cause, then save again; training state is unharmed.
    """


class DirectoryLockedError(CheckpointError, OSError):
    """Another process is writing checkpoints to the same directory.

    Example:
        >>> import fcntl
        >>> os.makedirs("runs/digits/.ckptkit")
        >>> with open("runs/digits/.ckptkit/lock", "w") as lock:
        ...     fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does
        ...     try:
        ...         prefix = manager.save()
        ...     except ckptkit.DirectoryLockedError as error:
        ...         print(error)
        cannot write checkpoints to runs/digits: another process is writing there.
        Give each run a directory of its own, or stop the other one. Reading needs no lock: ...
    """


class ReadOnlyError(CheckpointError, PermissionError):
    """A manager opened with ``read_only=True`` was asked to write.

    Example:
        >>> reader = ckptkit.CheckpointManager(checkpoint, "runs/digits", max_to_keep=3, read_only=True)
        >>> try:
        ...     prefix = reader.save()
        ... except ckptkit.ReadOnlyError as error:
        ...     print(error)
        cannot save to runs/digits: this manager was opened with read_only=True.
        Open one without it to save; only one process at a time may.
    """


class WorkerError(CheckpointError, RuntimeError):
    """Another worker of a cluster did not do its part of a save or a restore, or not in time.

    Example:
        >>> try:
        ...     for step, (x, y) in ckptkit.TrainingLoop(manager, dataset, epochs=3):
        ...         loss = train_step(x, y)
        ... except ckptkit.WorkerError as error:  # names who is missing
        ...     raise SystemExit(f"start all workers again: {error}")
    """


class ExportError(CheckpointError, RuntimeError):
    """A finished artifact could not be written; nothing was left behind.

    Example:
        >>> path = ckptkit.save_model(model, "digits.keras", verify=False)
        >>> try:
        ...     path = ckptkit.save_model(model, "digits.keras")
        ... except ckptkit.ExportError as error:
        ...     print(error)
        digits.keras is there already. ...
    """


class ArtifactError(CheckpointError, ValueError):
    """A finished artifact cannot be loaded: damaged, of an unknown format, or without its code.

    Example:
        >>> with open("digits.keras", "w") as file:
        ...     count = file.write("half a file")
        >>> try:
        ...     model = ckptkit.load_model("digits.keras")
        ... except ckptkit.ArtifactError as error:
        ...     print(error)
        digits.keras ...
    """


class ConfigError(CheckpointError, ValueError):
    """A file of options, or a configuration made of one, says something that cannot be meant.

    Example:
        >>> with open("run.yaml", "w") as file:
        ...     count = file.write("training_checkpoint: {directry: runs/digits}")
        >>> try:
        ...     config = ckptkit.load_config("run.yaml")
        ... except ckptkit.ConfigError as error:
        ...     print(error)
        run.yaml, line 1: training_checkpoint has no option 'directry'.
        Did you mean 'directory'?
    """


class MissingExtraError(CheckpointError, ImportError):
    """A package that is installed on demand, and does what was asked for, is not here.

    Example:
        >>> from ckptkit.report.page import chart_library
        >>> try:
        ...     source = chart_library()
        ... except ckptkit.MissingExtraError as error:
        ...     print(error)
    """
