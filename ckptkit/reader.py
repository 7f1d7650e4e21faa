"""Restores out of one directory: what was asked for, or the newest checkpoint that is whole, whoever prunes meanwhile.

reader = Reader(store, ledger, lock, graph)
record, pending = reader.restore("latest")
values = reader.state(record)                # what was saved beside the objects
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

import tensorflow as tf

from ckptkit import restoring
from ckptkit.agreement import Agreement, ChiefFailedError, proposed
from ckptkit.cluster import Cluster
from ckptkit.errors import CheckpointDamagedError, CheckpointMismatchError, CheckpointNotFoundError, WorkerError
from ckptkit.finding import find, nothing_to_restore
from ckptkit.ledger import Ledger
from ckptkit.listing import MANIFEST, DirectoryReader, read_manifest
from ckptkit.progress import progress
from ckptkit.readable import age_text
from ckptkit.reading import CheckpointFile
from ckptkit.records import CheckpointRecord
from ckptkit.snapshot import CheckpointGraph, read_extras
from ckptkit.store import Store
from ckptkit.which_keras import NAME, keras

__all__ = ["Before", "Reader", "Which"]

_log = logging.getLogger("ckptkit")

Before: TypeAlias = Callable[[CheckpointRecord, Mapping[str, tf.Tensor]], None]
Which: TypeAlias = str | int | os.PathLike[str]


class _GoneError(Exception):
    """A checkpoint that was chosen is not there any more."""


class Reader:
    """The reading side of a manager.

    Args:
        store: The directory.
        ledger: What is known of it; entered under ``lock``.
        lock: Guards the ledger.
        graph: The objects to restore.
        verbose: 0 for neither a bar nor a line in the log when something is restored.

    Attributes:
        index: The number of this worker of a cluster.
    """

    def __init__(
        self, store: Store, ledger: Ledger, lock: threading.RLock, graph: CheckpointGraph, verbose: int = 1
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._lock = lock
        self._graph = graph
        self._verbose = verbose
        self.index = 0

    def refresh(self) -> None:
        """Look at the directory, and enter what is there."""
        listing = self._store.scan()
        with self._lock:
            self._ledger.adopt(listing, time.time())

    def restore(
        self, which: Which, *, strict: bool = True, before: Before | None = None, cluster: Cluster | None = None
    ) -> tuple[CheckpointRecord, restoring.Pending]:
        """Restore the objects, all of them or none; see :meth:`ckptkit.CheckpointManager.restore`.

        Args:
            which: What to restore; in a cluster the chief looks for it.
            strict: Whether anything that does not fit is an error.
            before: Called before anything is assigned.
            cluster: The workers that do this together: all of them restore the same checkpoint, or none does.

        Returns:
            The record of the checkpoint that was restored, and what still waits for its objects.

        Raises:
            WorkerError: Another worker could not.
        """
        if cluster is not None:
            self.index = cluster.index
            if not cluster.is_chief:
                return self._follow(which, strict, before, cluster)
        agreement = Agreement(cluster)
        try:
            return self._lead(which, strict, before, agreement)
        except Exception as error:
            agreement.give_up(error)
            raise

    def state(self, record: CheckpointRecord) -> dict[str, tf.Tensor]:
        """Return what was saved beside the objects, as tensors on the host."""
        with self._opened(record) as file:
            return read_extras(file)

    def borrow(self, record: CheckpointRecord) -> None:
        """Assign a checkpoint's values, as one that nobody resumes from."""
        with self._opened(record) as file:
            restoring.restore(self._graph, file)

    def _lead(
        self, which: Which, strict: bool, before: Before | None, agreement: Agreement
    ) -> tuple[CheckpointRecord, restoring.Pending]:
        while True:
            self.refresh()
            try:
                return self._first_of(self._wanted(which), which, strict, before, agreement)
            except _GoneError as error:
                _log.info("%s was deleted by its writer while it was read; looking again.", error)

    def _follow(
        self, which: Which, strict: bool, before: Before | None, cluster: Cluster
    ) -> tuple[CheckpointRecord, restoring.Pending]:
        """Restore what the chief proposes, as soon as it can read it itself."""
        while True:
            name, agreement = proposed(cluster), Agreement(cluster)
            agreement.propose(name)
            try:
                record = self._proposed(name, which)
                return record, self._restored(record, strict, before, agreement)
            except ChiefFailedError:
                continue
            except Exception:
                with suppress(tf.errors.OpError):  # who has heard it has ended, perhaps, before this worker knows
                    try:
                        agreement.failed()
                    except ChiefFailedError:
                        continue
                raise

    def _proposed(self, name: str, which: Which) -> CheckpointRecord:
        self.refresh()
        for record in self._ledger.records:
            if record.name == name:
                return record
        if which in ("latest", "best"):
            raise WorkerError(  # and no CheckpointNotFoundError, which means a fresh start to whoever asks
                f"the chief restores {name}, and this worker does not see it in {self._store.directory}.\n"
                "Give all workers the same directory, on a file system that they share."
            )
        return find(self._ledger, self._store.directory, which)

    def _wanted(self, which: Which) -> list[CheckpointRecord]:
        """Return what to restore, in order of preference."""
        if which != "latest":
            return [find(self._ledger, self._store.directory, which)]
        for name, reason in self._ledger.damaged.items():
            _log.warning("%s: checkpoint %s is damaged and left out: %s.", self._store.directory, name, reason)
        return self._ledger.newest_first()

    def _first_of(
        self,
        records: Sequence[CheckpointRecord],
        which: Which,
        strict: bool,
        before: Before | None,
        agreement: Agreement,
    ) -> tuple[CheckpointRecord, restoring.Pending]:
        for record in records:
            agreement.propose(record.name)
            try:
                return record, self._restored(record, strict, before, agreement)
            except CheckpointDamagedError as error:
                agreement.failed()
                if not _is_there(record):
                    raise _GoneError(record.prefix) from error
                if which != "latest":
                    raise
                _log.warning("%s Falling back to the one before it.", error)
                self._ledger.damaged[record.name] = str(error)
        raise nothing_to_restore(self._ledger, self._store.directory)

    def _restored(
        self,
        record: CheckpointRecord,
        strict: bool,
        before: Before | None,
        agreement: Agreement,
    ) -> restoring.Pending:
        age = age_text(time.time() - record.created_at)
        told = f"restoring {record.name}", f"restored {record.prefix}, saved {age} ago"
        with (
            progress(*told, size_bytes=record.size_bytes, verbose=self._verbose) as work,
            # Opened first: what is verified, and what is deleted from here on, is what is read.
            self._opened(record, work.advance) as file,
        ):
            try:
                self._store.verify(record)
            except CheckpointNotFoundError as error:  # it was there when it was chosen: no reason for a fresh start
                raise CheckpointDamagedError(f"checkpoint {record.prefix} cannot be read: {error}") from error
            try:
                if before is not None:
                    before(record, read_extras(file))
                return restoring.restore(
                    self._graph,
                    file,
                    strict=strict,
                    foreign=record.foreign,
                    ready=lambda: agreement.ready(record.prefix),
                )
            except CheckpointMismatchError as error:
                why = _why_of_keras(record)
                if why is None:
                    raise
                raise CheckpointMismatchError(f"{error}\n{why}") from error

    @contextmanager
    def _opened(
        self, record: CheckpointRecord, told: Callable[[int], None] = lambda size: None
    ) -> Iterator[CheckpointFile]:
        """Open a checkpoint, and keep it from being deleted by our own saves while it is read; remember its damage."""
        with self._lock:
            self._ledger.being_read.append(record.name)
        try:
            with CheckpointFile(record.prefix, (self.index, record.workers), told) as file:
                yield file
        except CheckpointDamagedError:
            with self._lock:
                self._ledger.doubt(record)
            raise
        finally:
            with self._lock:
                self._ledger.being_read.remove(record.name)


def _why_of_keras(record: CheckpointRecord) -> str | None:
    """Say that a checkpoint is the other Keras', None if it is not: their objects have other names and variables."""
    manifest = read_manifest(record.prefix + MANIFEST)
    versions = {} if manifest is None else manifest.versions
    other = next((name for name in ("keras", "tf_keras") if name in versions and name != NAME), None)
    if other is None:
        return None
    how = "without TF_USE_LEGACY_KERAS" if other == "keras" else "with TF_USE_LEGACY_KERAS=1"
    return (
        f"It was saved with {other} {versions[other]}, and this process uses {NAME} {keras.__version__}: "
        f"start it {how}, as it was then."
    )


def _is_there(record: CheckpointRecord) -> bool:
    """Say whether a checkpoint is still the one that was chosen: another process may have deleted it since."""
    found = DirectoryReader(os.path.dirname(record.prefix)).scan().records
    return _identity(record) in map(_identity, found)


def _identity(record: CheckpointRecord) -> tuple[str, int, float, int]:
    return record.name, record.sequence, record.created_at, record.size_bytes
