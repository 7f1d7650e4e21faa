"""Saves into one directory: held in the caller, written there or in the background, counted, told when they fail.

saver = Saver(store, ledger, lock, graph, "ckpt", Tolerance("raise", None), worker_timeout_secs=300.0)
saver.become_writer(reader.refresh)
if not saver.save(1200, {"epoch": 2}, in_background=True):
    ...                                          # it failed, and that is put up with
saver.close()
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ckptkit.cluster import Cluster, said
from ckptkit.coordination import SaveRound, Session
from ckptkit.errors import CheckpointError, CheckpointSaveError, WorkerError
from ckptkit.failures import failure
from ckptkit.following import FollowJob
from ckptkit.held import Held
from ckptkit.ledger import Ledger
from ckptkit.lock import DirectoryLock
from ckptkit.saving import SaveJob
from ckptkit.snapshot import CheckpointGraph
from ckptkit.staging import StagingBuffers
from ckptkit.stats import SaveRecorder, Took
from ckptkit.store import Store
from ckptkit.tolerance import Tolerance
from ckptkit.writer import BackgroundWriter

__all__ = ["Saver"]

_log = logging.getLogger("ckptkit")


class Saver:
    """The writing side of a manager.

    Args:
        store: The directory.
        ledger: What is known of it; entered under ``lock``.
        lock: Guards the ledger, which the background thread enters its commits in.
        graph: The objects to save.
        name: Stem of the file names.
        tolerance: How many failed saves are put up with.
        worker_timeout_secs: How long to wait for another worker of a cluster, None for as long as it takes.
        verbose: 0 for no line in the log about what a save has cost.

    Attributes:
        writer: The background thread.
        recorder: What saves have cost.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        lock: threading.RLock,
        graph: CheckpointGraph,
        name: str,
        tolerance: Tolerance,
        worker_timeout_secs: float | None,
        verbose: int = 1,
    ) -> None:
        self.writer = BackgroundWriter()
        self.recorder = SaveRecorder()
        self._store = store
        self._ledger = ledger
        self._lock = lock
        self._graph = graph
        self._name = name
        self._tolerance = tolerance
        self._worker_timeout_secs = worker_timeout_secs
        self._verbose = verbose
        self._session: Session | None = None
        self._follows = False
        self._refresh: Callable[[], None] = lambda: None
        self._buffers = StagingBuffers()
        self._directory_lock: DirectoryLock | None = None
        self._free_lock: weakref.finalize[Any, Any] | None = None
        weakref.finalize(self, self.writer.abandon)  # at the end of the interpreter, if not before

    def become_writer(self, refresh: Callable[[], None], cluster: Cluster | None = None) -> bool:
        """Take the directory's lock, if it is not ours yet, and look at what others have written since.

        Args:
            refresh: Looks at the directory.
            cluster: The workers that train together, None if it is this process alone. The chief takes the lock, for
                all of them; they come to this at the same step.

        Returns:
            False if it could not be taken for a reason that ``tolerance`` puts up with.

        Raises:
            DirectoryLockedError: Another process writes there.
            CheckpointSaveError: The folder cannot be made or written to.
            WorkerError: Another worker does not see the folder.
        """
        try:
            if cluster is None:
                self._lock_directory(refresh)
            else:
                self.meet(cluster, refresh)
        except CheckpointSaveError as error:
            self.recorder.failed()
            self._tolerance.failed(error)
            return False
        return True

    def meet(self, cluster: Cluster, refresh: Callable[[], None]) -> Session:
        """Begin to save together: the chief locks the directory and tells the others where to meet.

        Raises:
            DirectoryLockedError: Another process writes there.
            CheckpointSaveError: The chief cannot write there.
            WorkerError: A worker does not see what the chief has made.
        """
        if self._session is not None:
            return self._session
        told: Any = None
        if cluster.is_chief:
            try:
                self._lock_directory(refresh)
                told = {"folder": self._store.begin_session()}
            except BaseException as error:
                cluster.told({"error": said(error)})
                cluster.settle()
                raise
        told = cluster.told(told)
        if "error" in told:
            cluster.settle()
            raise CheckpointSaveError(f"{cluster.name(0)} cannot write checkpoints: {told['error']}")
        names = [cluster.name(number) for number in range(cluster.count)]
        folder = self._store.session_folder(told["folder"])
        session = Session(folder, cluster.index, names, self._worker_timeout_secs, self._store.written_so_far)
        blind = cluster.failed(fine=session.is_there())
        if blind:
            self._free_directory()
            raise WorkerError(
                f"{cluster.names(blind)} of {cluster.count} cannot see what the chief has made in "
                f"{self._store.directory}.\nGive all workers the same directory, on a file system that they share."
            )
        self._session, self._refresh, self._follows = session, refresh, not cluster.is_chief
        if not cluster.is_chief:
            refresh()
        return session

    def save(
        self,
        number: int,
        facts: Mapping[str, Any],
        *,
        state: Mapping[str, Any] | None = None,
        held: Held | None = None,
        in_background: bool = False,
        callbacks: Sequence[Callable[..., object]] = (),
        begin: Callable[[], Iterable[Callable[[bool], None]]] = tuple,
    ) -> bool:
        """Save the objects as they are now, or as they were.

        Args:
            number: The number in the file name.
            facts: Of the manifest: epoch, batch, metrics.
            state: Further values to store.
            held: What the graph's ``take`` has returned, to be saved in place of what is there now.
            in_background: Whether to return as soon as the values are held.
            callbacks: Called after the commit, with the prefix if they take an argument.
            begin: Called when the values are held; what it returns is called when the save is committed, with True, or
                could not be written, with False.

        Returns:
            False if it failed and ``tolerance`` puts up with that. What fails in the background is raised later.

        Raises:
            CheckpointSaveError: It could not be written, or an earlier background save could not.
        """
        if not in_background:
            self.writer.wait()
            self.raise_errors()
        began = time.perf_counter()
        joined = None if self._session is None else self._session.begin(number, durable=self._store.durable)
        try:
            held = self._graph.take(state) if held is None else held
        except BaseException as error:
            if joined is not None and not self._follows:
                joined.end(str(error))
            raise
        now = time.perf_counter()
        self.recorder.save_began(number, now, now - began)
        listeners = begin()

        def ended(took: Took | None) -> None:
            for each in listeners:
                each(took is not None)
            if took is None:
                self.recorder.save_failed(number, time.perf_counter())
            else:
                self.recorder.save_finished(number, time.perf_counter(), took)
            if in_background:
                self.log_costs()

        job: SaveJob | FollowJob
        if joined is not None and self._follows:
            job = self._following(number, held, joined, ended)
        else:
            job = SaveJob(
                self._store,
                self._ledger,
                self._lock,
                f"{self._name}-{number}",
                held,
                {"step": number, "workers": self._workers, "seconds": {"blocked": now - began}, **facts},
                self._buffers,
                callbacks,
                ended,
                joined,
            )
        run = functools.partial(self._tolerance.run, job)
        try:
            if not in_background:
                return run()
            self.writer.submit(run)
            return True
        except BaseException:
            job.give_up()  # interrupted, perhaps, before it began
            raise
        finally:
            self.recorder.save_blocked(time.perf_counter(), time.perf_counter() - now)
            self.log_costs()

    def step_boundary(self, *, is_step: bool) -> None:
        """Say that a step has ended, or that what lies between the last one and here is none; log what is known now.

        Raises:
            CheckpointSaveError: A background save failed.
        """
        if not is_step:
            self.recorder.pause()
        if self.recorder.step_boundary(time.perf_counter()):
            self.log_costs()
        if errors := self.writer.take_errors():  # and not one call more: this is in every step's way
            _raise(errors)

    def wait(self, timeout_secs: float | None = None) -> bool:
        """Wait until every save is committed.

        Args:
            timeout_secs: How long to wait at the most; None for as long as it takes.

        Returns:
            False if the time ran out.

        Raises:
            CheckpointSaveError: One of them failed; raised once.
        """
        is_done = self.writer.wait(timeout_secs)
        self.recorder.settle()
        self.log_costs()
        self.raise_errors()
        return is_done

    def raise_errors(self) -> None:
        """Raise what went wrong in the background, once; what came after the first is logged."""
        if errors := self.writer.take_errors():
            _raise(errors)

    def close(self, *, passing: BaseException | None) -> None:
        """Wait, and let another process write to the directory.

        Args:
            passing: The error that passes through the caller: it is the one to see, and a failed save is logged.

        Raises:
            CheckpointSaveError: A save failed, and nothing else did.
        """
        if passing is not None and self._session is not None:
            self._session.hurry()
        try:
            self.wait()
        except Exception as error:
            if passing is None:
                raise
            _log.error("%s", error)
        finally:
            if not self.writer.is_running:  # else the waiting was interrupted: what is under way needs the lock
                self.writer.close()
                self._buffers.close()
                if self._session is not None:
                    self._session.close()
                    self._session = None
                self._free_directory()

    def log_costs(self) -> None:
        """Log a line for each save whose cost is known now."""
        if not self.recorder.counts_steps:
            self.recorder.settle()
        for cost in self.recorder.take_settled():
            name = f"{self._name}-{cost.step}"
            level = logging.DEBUG if self.is_following or not self._verbose else logging.INFO
            _log.log(level, "%s", cost.line(os.path.join(self._store.directory, name)))
            spent = {"blocked_secs": cost.blocked_secs, "lost_secs": cost.lost_secs}
            self._store.history.note("cost", name=name, step=cost.step, **spent)

    @property
    def _workers(self) -> int:
        return 1 if self._session is None else len(self._session.names)

    @property
    def is_following(self) -> bool:
        """Whether another worker of a cluster writes the checkpoints."""
        return self._follows

    def _following(self, number: int, held: Held, joined: SaveRound, ended: Callable[[Took | None], None]) -> FollowJob:
        assert self._session is not None
        return FollowJob(
            f"{self._name}-{number} to {self._store.directory}",
            held,
            (self._session.index, self._workers),
            joined,
            self._refresh,
            ended,
        )

    def _lock_directory(self, refresh: Callable[[], None]) -> None:
        if self._directory_lock is not None:
            return
        try:
            self._directory_lock = self._store.lock()
            self._free_lock = weakref.finalize(self, self._directory_lock.release)
            refresh()
        except BaseException as error:
            self._free_directory()
            if isinstance(error, OSError) and not isinstance(error, CheckpointError):
                told = failure(f"cannot write checkpoints to {self._store.directory}", error, self._ledger.latest)
                raise CheckpointSaveError(told) from error
            raise

    def _free_directory(self) -> None:
        self._directory_lock = None
        if self._free_lock is not None:
            self._free_lock()


def _raise(errors: Sequence[BaseException]) -> NoReturn:
    for error in errors[1:]:
        _log.error("%s", error)
    raise errors[0]
