"""Keep checkpoints of TensorFlow objects: a drop-in for ``tf.train.CheckpointManager`` that loses nothing.

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with ckptkit.CheckpointManager(checkpoint, "runs/digits", max_to_keep=3, async_save=True) as manager:
        manager.restore_or_initialize()
        ...
        manager.save()

Change the import line and the rest stays: the same arguments, methods, properties, file names and state file.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import tensorflow as tf

from ckptkit import config_changes, restoring
from ckptkit.cluster import Cluster, is_in_cluster
from ckptkit.coordination import Session
from ckptkit.errors import (
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    ReadOnlyError,
)
from ckptkit.finding import best_of
from ckptkit.held import Held
from ckptkit.interval import Interval
from ckptkit.ledger import Ledger
from ckptkit.monitors import modes_of, require_measured
from ckptkit.options import WORKER_TIMEOUT_SECS, CheckpointManagerOptions
from ckptkit.overview import Overview
from ckptkit.policies import SavePolicy
from ckptkit.preservation import PreservationPolicy
from ckptkit.reader import Before, Reader, Which
from ckptkit.records import CheckpointRecord
from ckptkit.save_options import read_save_options
from ckptkit.saver import Saver
from ckptkit.schedule import Schedule
from ckptkit.snapshot import CheckpointGraph
from ckptkit.stats import SaveStats
from ckptkit.store import Store
from ckptkit.tensorboard import SaveScalars
from ckptkit.tolerance import MAX_SAVE_ERRORS, Tolerance

__all__ = ["CheckpointManager"]

_log = logging.getLogger("ckptkit")


class CheckpointManager:
    """Save, keep, list and restore the checkpoints of one directory.

    The first nine arguments are those of ``tf.train.CheckpointManager`` and mean the same.

    Args:
        checkpoint: The ``tf.train.Checkpoint`` to save. What Keras 3 keeps in lists, dicts, seeds and metrics is saved
            as well, which TensorFlow's manager does not; from now on ``checkpoint.restore`` restores it, too.
        directory: Folder of the checkpoints; made at the first save.
        max_to_keep: Number of newest checkpoints to keep, at least 1; None keeps all, or leaves the decision to
            ``preservation_policy`` alone.
        keep_checkpoint_every_n_hours: Also keep one checkpoint every so many hours. These leave :attr:`checkpoints`.
        checkpoint_name: Stem of the file names, ``ckpt`` in ``ckpt-1200``.
        step_counter: A ``tf.Variable`` with the current step; needed for ``checkpoint_interval``.
        checkpoint_interval: Fewest steps between two saves.
        init_fn: Called by :meth:`restore_or_initialize` where there is nothing to restore.
        last_checkpoint_step: Step of the last save, for ``checkpoint_interval``.
        save_policy: When :meth:`maybe_save` saves; None for at every call.
        preservation_policy: What to keep beside the ``max_to_keep`` newest. The newest checkpoint and the one the run
            was resumed from stay in any case.
        async_save: Whether :meth:`save` returns at once and the files are written by a background thread.
        durable: Whether files and folders are flushed to the disk before a checkpoint counts as saved.
        on_save_error: ``"raise"`` at the next call, or ``"warn"`` to log a failed save, count it in :meth:`stats`, and
            go on without it.
        max_save_errors: With ``"warn"`` the error of so many failed saves in a row is raised after all; None for never.
        read_only: Look on without ever writing; needs no lock and always shows what is on the disk now.
        worker_timeout_secs: How long the workers of a ``MultiWorkerMirroredStrategy`` wait for each other at a save,
            None for as long as it takes; while the chief is writing they wait on. All of them make a manager of the
            same directory, and save and restore at the same steps; the first one writes.
        tensorboard_dir: Folder of TensorBoard's files, where what saves cost and how often the run was resumed is
            written as scalars; None for nowhere.
        verbose: 1 shows a bar on a terminal while a large checkpoint is restored, and logs a line for each restore and
            each save at the level INFO. 0 is silent; warnings and errors are told in any case.

    Attributes:
        config: What each checkpoint says that the run is configured with, as JSON has it: these arguments by default.

    Raises:
        ValueError: An argument is out of its range, or TensorFlow runs in graph mode.
        TypeError: ``checkpoint`` is no ``tf.train.Checkpoint``.

    Source: https://www.tensorflow.org/api_docs/python/tf/train/CheckpointManager

    Example:
        >>> checkpoint = tf.train.Checkpoint(model=model)
        >>> with ckptkit.CheckpointManager(checkpoint, "runs/digits", max_to_keep=3) as manager:
        ...     manager.restore_or_initialize()
        ...     manager.save(1200, metrics={"val_loss": 0.31})
        'runs/digits/ckpt-1200'
        >>> manager
        <CheckpointManager runs/digits: 1 checkpoint, latest ckpt-1200 (step 1200, ... ago, ... kB)>
        >>> manager.restore("latest").metrics
        {'val_loss': 0.31}
    """

    def __init__(
        self,
        checkpoint: tf.train.Checkpoint,
        directory: str | os.PathLike[str],
        max_to_keep: int | None,
        keep_checkpoint_every_n_hours: float | None = None,
        checkpoint_name: str = "ckpt",
        step_counter: tf.Variable | None = None,
        checkpoint_interval: int | None = None,
        init_fn: Callable[[], object] | None = None,
        last_checkpoint_step: int | None = None,
        *,
        save_policy: SavePolicy | None = None,
        preservation_policy: PreservationPolicy | None = None,
        async_save: bool = False,
        durable: bool = True,
        on_save_error: str = "raise",
        max_save_errors: int | None = MAX_SAVE_ERRORS,
        read_only: bool = False,
        worker_timeout_secs: float | None = WORKER_TIMEOUT_SECS,
        tensorboard_dir: str | os.PathLike[str] | None = None,
        verbose: int = 1,
    ) -> None:
        _require_checkpoint(checkpoint)
        options = CheckpointManagerOptions(
            directory=directory,
            max_to_keep=max_to_keep,
            keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
            checkpoint_name=checkpoint_name,
            checkpoint_interval=checkpoint_interval,
            last_checkpoint_step=last_checkpoint_step,
            save_policy=save_policy,
            preservation_policy=preservation_policy,
            async_save=async_save,
            durable=durable,
            on_save_error=on_save_error,
            max_save_errors=max_save_errors,
            read_only=read_only,
            worker_timeout_secs=worker_timeout_secs,
            tensorboard_dir=tensorboard_dir,
            verbose=verbose,
        )
        self._checkpoint = checkpoint
        self.config: dict[str, Any] = {options.section: options.effective()}
        self._directory = os.fspath(options.directory)
        self._name = checkpoint_name
        self._interval = Interval(step_counter, options.checkpoint_interval, options.last_checkpoint_step)
        self._init_fn = init_fn
        self._save_policy = save_policy
        self._async_save = async_save
        self._read_only = read_only
        self._verbose = options.verbose
        self._graph = graph = CheckpointGraph(checkpoint)
        self._is_in_cluster = is_in_cluster() and not read_only
        self._cluster: Cluster | None = None
        store = Store(self._directory, durable=durable)
        self._history = store.history
        if options.tensorboard_dir is not None:
            self._history.listen(SaveScalars(os.fspath(options.tensorboard_dir), self._directory))
        weakref.finalize(self, store.history.end_with_process)  # if nobody closes it
        newest, hours = options.max_to_keep, options.keep_checkpoint_every_n_hours
        keep_every_secs = hours * 3600.0 if hours else None
        now, modes = time.time(), modes_of(save_policy, preservation_policy)
        self._ledger = Ledger(checkpoint_name, newest, keep_every_secs, preservation_policy, now, modes)
        self._schedule = Schedule(save_policy, now, modes)
        state_lock = threading.RLock()  # the background thread enters its commits in the ledger
        tolerance = Tolerance(on_save_error, max_save_errors)
        self._saver = Saver(
            store,
            self._ledger,
            state_lock,
            graph,
            checkpoint_name,
            tolerance,
            options.worker_timeout_secs,
            options.verbose,
        )
        self._reader = reader = Reader(store, self._ledger, state_lock, graph, options.verbose)
        graph.after_restore(lambda prefix, done: restoring.complete(graph, prefix, done, reader.index))
        self._reader.refresh()
        self._pending: restoring.Pending | None = None

    # What is there ---------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> str:
        """The folder of the checkpoints, as it was given."""
        return self._directory

    @property
    def checkpoint(self) -> tf.train.Checkpoint:
        """The ``tf.train.Checkpoint`` that is saved."""
        return self._checkpoint

    @property
    def checkpoint_interval(self) -> int | None:
        """Fewest steps between two saves, or None."""
        return self._interval.fewest

    @property
    def workers(self) -> int:
        """How many workers train together and share these checkpoints; 1 where it is this process alone."""
        cluster = self._workers()
        return 1 if cluster is None else cluster.count

    @property
    def worker(self) -> int:
        """The number of this worker, 0 for the one that writes."""
        cluster = self._workers()
        return 0 if cluster is None else cluster.index

    @property
    def verbose(self) -> int:
        """Whether it tells what goes well: 1, or 0 for silence."""
        return self._verbose

    @property
    def save_policy(self) -> SavePolicy | None:
        """The policy that :meth:`maybe_save` asks."""
        return self._save_policy

    @property
    def saved_step(self) -> int | None:
        """Step of the newest save that is committed or under way, or of what was restored; None if there is none."""
        return self._schedule.saved_step

    @property
    def latest_checkpoint(self) -> str | None:
        """Prefix of the newest committed checkpoint, None if there is none. A save under way does not count."""
        latest = self._look().latest
        return None if latest is None else latest.prefix

    @property
    def best_checkpoint(self) -> str | None:
        """Prefix of the best checkpoint by the ``Best`` policy's metric; None if none carries it.

        Raises:
            ValueError: No ``Best`` is part of the preservation policy.
        """
        best = best_of(self._look())
        return None if best is None else best.prefix

    @property
    def best_record(self) -> CheckpointRecord | None:
        """Record of :attr:`best_checkpoint`."""
        return best_of(self._look())

    @property
    def checkpoints(self) -> list[str]:
        """Prefixes of the managed checkpoints, oldest first, without those kept for every n hours."""
        return self._look().active

    def records(self) -> tuple[CheckpointRecord, ...]:
        """Return what is known of every checkpoint in the directory, oldest first."""
        return self._look().records

    def __repr__(self) -> str:
        return object.__repr__(self) if self._is_half_made() else self._overview().line()

    def _repr_html_(self) -> str | None:
        return None if self._is_half_made() else self._overview().table()

    # Saving ----------------------------------------------------------------------------------------------------------

    def save(
        self,
        checkpoint_number: Any = None,
        check_interval: bool = True,
        options: tf.train.CheckpointOptions | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        epoch: int | None = None,
        batch: int | None = None,
        state: Mapping[str, Any] | None = None,
        held: Held | None = None,
    ) -> str | None:
        """Save the objects as they are now, or as they were.

        Args:
            checkpoint_number: Number in the file name; an int, or a scalar integer variable or tensor. None takes the
                checkpoint's ``save_counter``, which counts up in any case.
            check_interval: Whether ``checkpoint_interval`` is respected.
            options: ``tf.train.CheckpointOptions``: io device, write callbacks and async are honoured.
            metrics: Numbers measured at this very moment; they are stored with the checkpoint and rank it.
            epoch: Epochs done.
            batch: Batches done in the epoch that follows.
            state: Further values to store, bytes, arrays or tensors by name; :meth:`state` reads them back.
            held: What :meth:`take` has returned, to be saved in place of what is there now.

        Returns:
            The checkpoint's prefix; None if the interval says that it is too early, or if it failed and
            ``on_save_error`` puts up with that. With ``async_save`` the files are there after
            :meth:`wait_until_finished`; variables may be changed at once.

        Raises:
            CheckpointSaveError: It could not be written, or an earlier background save could not, or the disk has no
                room for it, which is looked at before anything is written. Older ones stand, and all variables but
                ``save_counter`` are as they were; to save again at the same step is no duplicate.
            DirectoryLockedError: Another process writes to this directory.
            CheckpointMismatchError: Values of the restored checkpoint still wait for objects that never came.
        """
        self._require_writable()
        self._saver.raise_errors()
        self._require_nothing_pending()
        callbacks, in_background = read_save_options(options, self._async_save)
        if self._interval.is_too_early(check_interval=check_interval):
            return None
        if not self._saver.become_writer(self._reader.refresh, self._workers()):
            return None
        self.begin_history()
        counter = self._checkpoint.save_counter
        counter.assign_add(1, read_value=False)
        number = int(tf.convert_to_tensor(counter if checkpoint_number is None else checkpoint_number))
        if number < 0:
            raise ValueError(f"checkpoint_number must not be negative, got {number}.")
        measured = {str(name): float(value) for name, value in (metrics or {}).items()}
        is_saved = self._saver.save(
            number,
            {"epoch": epoch, "batch": batch, "metrics": measured, "config": self.config},
            state=state,
            held=held,
            in_background=in_background,
            callbacks=callbacks,
            begin=lambda: (
                self._schedule.save_began(None if checkpoint_number is None else number, time.time(), measured),
                self._interval.save_began(),
            ),
        )
        return os.path.join(self._directory, f"{self._name}-{number}") if is_saved else None

    def meet(self) -> Session | None:
        """Begin to save together with the other workers, before the first save; all of them call this.

        Returns:
            Where they meet, None if this process trains alone.
        """
        cluster = self._workers()
        return None if cluster is None else self._saver.meet(cluster, self._reader.refresh)

    def take(self, state: Mapping[str, Any] | None = None) -> Held:
        """Return all values as they are now, for a :meth:`save` that may come later; nothing is copied.

        What is changed meanwhile takes its memory twice: ``release()`` lets go of the values where no save comes.

        Args:
            state: Further values to store.
        """
        return self._graph.take(state)

    def maybe_save(
        self,
        step: int,
        *,
        epoch: int | None = None,
        batch: int | None = None,
        metrics: Mapping[str, float] | None = None,
        state: Callable[[], Mapping[str, Any]] | None = None,
    ) -> str | None:
        """Ask ``save_policy`` and save if a checkpoint is due, numbered by ``step``.

        Args:
            step: Optimizer steps done.
            epoch: Epochs done.
            batch: Batches done in the epoch that follows.
            metrics: Numbers measured at this very moment.
            state: Called for further values to store, only if a save is due.

        Returns:
            The checkpoint's prefix; None if none is due, if this step is saved already, if two saves are still under
            way, which is logged, or if it failed and ``on_save_error`` puts up with that.

        Raises:
            CheckpointSaveError: As :meth:`save` does. Asked again at the same step, it saves.
            ValueError: A policy looks at a metric that is not among those of an epoch's end. What was due is saved.
        """
        is_epochs_end = epoch is not None and epoch > self._schedule.epoch
        saved = None
        # At the end of an epoch there is something new to say even of a step that is saved: what was measured.
        is_new = step != self._schedule.saved_step or (is_epochs_end and bool(metrics))
        if self.is_due(step, epoch=epoch, metrics=metrics) and is_new:
            extra = state() if state is not None else None
            try:
                saved = self.save(step, False, metrics=metrics, epoch=epoch, batch=batch, state=extra)
            except CheckpointSaveError:
                self._schedule.retry()
                raise
        if is_epochs_end and metrics:
            self.require_monitors(metrics, epoch or 0)
        return saved

    def is_due(self, step: int, *, epoch: int | None = None, metrics: Mapping[str, float] | None = None) -> bool:
        """Ask ``save_policy`` whether to save now; each question counts as the last one before the next.

        Args:
            step: Optimizer steps done.
            epoch: Epochs done.
            metrics: Numbers measured at this very moment.

        Returns:
            False if no save is due, or if two are still under way, which is logged. One that is the best so far is due
            all the same, and waits for its turn.

        Raises:
            CheckpointSaveError: An earlier background save failed.
        """
        epoch = epoch or 0
        # Between two epochs lies more than a step: a validation, perhaps.
        self._saver.step_boundary(is_step=epoch == self._schedule.epoch)
        now, recorder = time.time(), self._saver.recorder
        is_due = self._schedule.is_due(
            step,
            epoch,
            now,
            metrics=metrics or {},
            best=self._ledger.best_values,
            lost_secs=recorder.lost_secs,
            is_saving=recorder.is_saving,
        )
        if not (is_due or metrics) and self._schedule.is_same_everywhere:
            return False
        is_too_early = self._async_save and self._saver.writer.busy and not self._schedule.is_best
        if (cluster := self._workers()) is not None:
            is_due, is_too_early = cluster.told([is_due, is_too_early])  # clock and disk are the chief's
        if not is_due:
            return False
        if not is_too_early:
            return True
        self._schedule.save_skipped(now)
        recorder.skipped()
        self._history.note("skipped", step=step)
        _log.warning(
            "skipped the save of step %d to %s: one is being written and one is waiting (%d skipped so far).",
            step,
            self._directory,
            recorder.stats().skipped,
        )
        return False

    def begin_at(self, step: int, epoch: int = 0) -> None:
        """Let ``save_policy`` count from here, where nothing has to be saved; :meth:`restore` does it by itself.

        Args:
            step: Optimizer steps done.
            epoch: Epochs done.
        """
        self._schedule.begin_at(step, epoch, time.time())

    def require_monitors(
        self, metrics: Mapping[str, float], epoch: int, *, is_complete: bool = False, is_validated: bool = True
    ) -> None:
        """Refuse policies that look at a metric which nobody measures; :meth:`maybe_save` does it by itself.

        Waits for the saves under way before it raises: nothing is lost by a name that was mistyped.

        Args:
            metrics: What was measured at the end of an epoch.
            epoch: Epochs done.
            is_complete: Whether these are all that an epoch measures, but for those of a validation. If not, a name
                that is not there is refused only if one that is there is near.
            is_validated: Whether there are validations. Then an epoch without one decides nothing on ``val_`` metrics.

        Raises:
            ValueError: One that was never measured is not there; the message lists those that are, and the nearest.
        """
        unseen = self._schedule.unseen - self._ledger.best_values.keys()
        try:
            require_measured(sorted(unseen), metrics, epoch, is_complete=is_complete, is_validated=is_validated)
        except ValueError:
            self._saver.writer.wait()
            raise

    def wait_until_finished(self, timeout_secs: float | None = None) -> bool:
        """Wait until every save is committed.

        Args:
            timeout_secs: How long to wait at the most; None for as long as it takes.

        Returns:
            False if the time ran out.

        Raises:
            CheckpointSaveError: One of them failed; raised once.
        """
        return self._saver.wait(timeout_secs)

    def let_go(self, exit_code: int) -> None:
        """Wait no more for the saves under way, neither here nor when the interpreter ends: the disk may hang.

        Args:
            exit_code: What the process ends with, at once, if the script has ended and a save has not.
        """
        self._saver.writer.let_go(exit_code)

    def sync(self) -> None:
        """Wait until every save is committed; TensorFlow's name for :meth:`wait_until_finished`."""
        self.wait_until_finished()

    def close(self) -> None:
        """Finish what is under way and let another process write here. A later save takes the lock again.

        In a ``finally`` or ``except`` of a function that another exception passes through, a failed save is logged.

        Raises:
            CheckpointSaveError: A save failed; raised once.
        """
        passing = sys.exc_info()[1]
        # One that is being handled further up is the business of whoever handles it there.
        at = None if passing is None else passing.__traceback__
        self._close(passing if at is not None and at.tb_frame is sys._getframe(1) else None)

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(error)

    def stats(self) -> SaveStats:
        """Return what the saves of this manager have cost so far: seconds blocked, lost, staged, written and synced.

        The time lost counts the steps that :meth:`is_due` or :meth:`maybe_save` was asked at: without them it is the
        time blocked. The same is logged for each save, one line at the level INFO, unless ``verbose`` is 0.
        """
        return self._saver.recorder.stats()

    # Restoring -------------------------------------------------------------------------------------------------------

    def restore(
        self,
        which: Which = "latest",
        *,
        strict: bool = True,
        before: Before | None = None,
    ) -> CheckpointRecord:
        """Restore the objects, all of them or none.

        Args:
            which: ``"latest"``, ``"best"``, a step, or a prefix. If the latest is damaged the one before it is taken,
                and said; one that was asked for by step, prefix or as the best is never replaced by another.
            strict: Whether anything that does not fit is an error. False restores what fits and logs the rest.
                Values of Keras objects that are not built yet are restored when they are.
            before: Called with the record and what was saved as ``state`` when both are read, and before anything is
                assigned. What it raises is the error of this call; for a ``CheckpointDamagedError`` the latest is
                damaged.

        Returns:
            The record of the checkpoint that was restored. If it is the latest and says that the run was configured
            otherwise, what has changed is logged.

        Raises:
            CheckpointNotFoundError: There is no such checkpoint.
            CheckpointDamagedError: Its files are not what was written, or no checkpoint here can be read.
            CheckpointMismatchError: It does not fit the objects; the message shows both sides. Nothing was assigned.
            WorkerError: Another worker of a cluster could not restore it. Nothing was assigned in any of them.
        """
        self._saver.writer.wait()
        record, pending = self._reader.restore(which, strict=strict, before=before, cluster=self._workers())
        self._pending = pending if strict else None
        if record.workers != self.workers and not (record.foreign or self._read_only):
            _log.warning("%s", restoring.of_other_workers(record.prefix, record.workers, self.workers))
        self._ledger.resumed_from = record.name
        self._history.note("restored", name=record.name, step=record.step)
        self.begin_at(record.step, record.epoch or 0)
        self._interval.begin_here()
        if which == "latest" and not self._read_only:
            changes = config_changes.report(self._directory, record.step, record.config, self.config)
            if changes is not None:
                _log.warning("%s", changes)
        return record

    def restore_or_initialize(self) -> str | None:
        """Restore the latest checkpoint, or call ``init_fn`` where there is none.

        Returns:
            The prefix that was restored, None if there was none.

        Raises:
            CheckpointDamagedError: Checkpoints are there, and none of them can be read: never a silent fresh start.
        """
        try:
            return self.restore("latest").prefix
        except CheckpointNotFoundError:
            if self._init_fn is not None:
                self._init_fn()
            return None

    @contextmanager
    def borrowed(self, record: CheckpointRecord) -> Iterator[None]:
        """Hold the values of a checkpoint in the objects for a while, and put the live ones back after.

        Args:
            record: The checkpoint, one of :meth:`records`.
        """
        put_back = self.hold()
        self._reader.borrow(record)
        try:
            yield
        finally:
            put_back()

    def hold(self) -> Callable[[], None]:
        """Hold every value as it is now; calling the result puts them back."""
        held = self._graph.variables()

        def put_back() -> None:
            for variable, value in held:
                variable.assign(value)

        return put_back

    def state(self, record: CheckpointRecord) -> dict[str, tf.Tensor]:
        """Return what :meth:`save` stored under ``state`` with a checkpoint, as tensors on the host.

        Args:
            record: The checkpoint, one of :meth:`records`.
        """
        return self._reader.state(record)

    def objects(self) -> list[Any]:
        """Return every object that is saved, variables and what contains them."""
        return [data.trackable for data in self._graph.live()]

    def leftovers(self) -> list[str]:
        """Return the names of restored values that still wait for their objects to be built."""
        return self._pending.leftovers() if self._pending is not None else []

    def begin_history(self) -> None:
        """Enter in the directory's history that a run begins here, or goes on; the first save does it by itself."""
        if not self._read_only and self.worker == 0:
            self._history.begin(
                step=self._schedule.saved_step or 0, resumed_from=self._ledger.resumed_from, workers=self.workers
            )

    def note(self, kind: str, **facts: Any) -> None:
        """Enter in the directory's history what has happened, if the run has begun there; see ``ckptkit.history``.

        Args:
            kind: What it was, in a word.
            facts: Whatever JSON can hold.
        """
        self._history.note(kind, **facts)

    def end_history(self, kind: str = "ended", **facts: Any) -> None:
        """Enter that the run has come to its end.

        Args:
            kind: In what way, in a word.
            facts: Whatever JSON can hold.
        """
        self._history.end(kind, **facts)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _close(self, passing: BaseException | None) -> None:
        try:
            self._saver.close(passing=passing)
        finally:
            self.end_history(error=None if passing is None else type(passing).__name__)

    def _overview(self) -> Overview:
        with suppress(OSError):  # else what was known before it is shown: a debugger asks at any moment
            self._look()
        return Overview(type(self).__name__, self._directory, self._ledger, time.time())

    def _is_half_made(self) -> bool:
        """Say whether an argument was refused: tracebacks with values show the object all the same."""
        return "_pending" not in vars(self)

    def _look(self) -> Ledger:
        if self._read_only or self._saver.is_following:
            self._reader.refresh()
        return self._ledger

    def _workers(self) -> Cluster | None:
        """Return the workers that train together; they may be known only when there are variables."""
        if self._cluster is None and self._is_in_cluster:
            self._cluster = self._graph.cluster()
        return self._cluster

    def _require_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyError(
                f"cannot save to {self._directory}: this manager was opened with read_only=True.\n"
                "Open one without it to save; only one process at a time may."
            )
        if not tf.executing_eagerly():
            raise ValueError("ckptkit saves in eager mode only: call save() outside of tf.function and graph mode.")

    def _require_nothing_pending(self) -> None:
        left = self.leftovers()
        self._pending = None if not left else self._pending
        if left:
            raise CheckpointMismatchError(
                f"cannot save to {self._directory}: {len(left)} values of the restored checkpoint found no object, "
                f"so the new checkpoint would lose them: {', '.join(left[:5])}{' …' if len(left) > 5 else ''}.\n"
                "Build the model as it was saved before training goes on, or restore with strict=False to drop them."
            )


def _require_checkpoint(checkpoint: Any) -> None:
    if not tf.executing_eagerly():
        raise ValueError("ckptkit works in eager mode only; graph mode of TensorFlow 1 is not supported.")
    if not isinstance(checkpoint, tf.train.Checkpoint):
        raise TypeError(
            f"checkpoint must be a tf.train.Checkpoint, got {type(checkpoint).__name__}. "
            "Wrap the objects: tf.train.Checkpoint(model=model, optimizer=optimizer)."
        )
