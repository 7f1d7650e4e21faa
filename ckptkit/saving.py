"""One save, from held tensors to a commit and what follows from it.

writer.submit(SaveJob(store, ledger, lock, "ckpt-1200", held, facts))
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import tensorflow as tf

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry
from ckptkit.checksums import crc32c
from ckptkit.coordination import SaveRound
from ckptkit.dtypes import OF_ANY_LENGTH
from ckptkit.errors import CheckpointSaveError
from ckptkit.failures import cause_of, failure, remedy_for
from ckptkit.free_space import require_room
from ckptkit.held import Held, sums_of
from ckptkit.ledger import Ledger
from ckptkit.records import CheckpointRecord, Manifest, TensorInfo
from ckptkit.staging import StagingBuffers
from ckptkit.stats import Took
from ckptkit.store import Store
from ckptkit.which_keras import NAME, keras

__all__ = ["SaveJob"]

_log = logging.getLogger("ckptkit")


class SaveJob:
    """Write held tensors, commit them, rewrite the state file and delete what nothing keeps.

    Args:
        store: The directory.
        ledger: What is known of it; entered under ``lock``.
        lock: Guards the ledger.
        name: The checkpoint's name, ``ckpt-1200``.
        held: Its values.
        facts: Step, epoch, batch, metrics and seconds so far, for the manifest.
        buffers: Warm memory to go through.
        callbacks: Called after the commit, with the prefix if they take an argument.
        ended: Called once, when it is committed with what it took, or with None if it could not be written.
        joined: The save as the workers of a cluster tell each other of it; this one is the chief.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        lock: threading.RLock,
        name: str,
        held: Held,
        facts: dict[str, Any],
        buffers: StagingBuffers,
        callbacks: Sequence[Callable[..., object]] = (),
        ended: Callable[[Took | None], None] = lambda took: None,
        joined: SaveRound | None = None,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._lock = lock
        self._name = name
        self._held = held
        self._facts = facts
        self._buffers = buffers
        self._callbacks = callbacks
        self._ended = ended
        self._round = joined
        self._error: str | None = "it was given up"
        self._has_ended = False
        self._manifest: Manifest | None = None

    def __call__(self) -> None:
        """Do it.

        Raises:
            CheckpointSaveError: It could not be written; older checkpoints stand as they did. Or it is written, and
                the state file or a deletion failed.
        """
        try:
            self._save()
        finally:
            self.give_up()
            # Let go of the values and of who is told: our error, which may be kept, has this object in its frames.
            self._held.release()
            self._ended = lambda took: None

    def give_up(self) -> None:
        """Say that it failed, unless it has ended."""
        self._end(None)
        self._end_round(self._error)

    def _end_round(self, error: str | None) -> None:
        joined, self._round = self._round, None
        if joined is not None:
            with suppress(OSError):  # the others then wait in vain, and say so
                joined.end(error)

    def _end(self, took: Took | None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._ended(took)

    def _save(self) -> None:
        try:
            record, took = self._write()
        except BaseException as error:
            self._error = told = self._told(error)
            self._store.history.note("failed", step=self._facts["step"], why=told)
            if isinstance(error, Exception):
                raise CheckpointSaveError(told) from error
            raise
        with self._lock:
            self._ledger.add(record)
        self._note(record, took)
        self._end(took)
        self._error = None  # whatever comes now, it is committed
        try:
            self._clean_up()
        except OSError as error:
            self._ledger.is_stale = True
            raise CheckpointSaveError(
                f"{record.prefix} is saved, but the directory could not be brought up to date: {cause_of(error)}\n"
                f"{remedy_for(error)}; the next save tries again."
            ) from error
        self._end_round(None)  # not before: what another worker sees then is the directory as it is to be
        for callback in self._callbacks:
            callback(*([record.prefix] if inspect.signature(callback).parameters else []))

    def _write(self) -> tuple[CheckpointRecord, Took]:
        if self._store.mend() or self._ledger.is_stale:
            with self._lock:
                self._ledger.adopt(self._store.scan(), time.time())
        require_room(self._store.directory, self._held.size_bytes())
        pending = self._store.begin(self._name)
        try:
            began = time.perf_counter()
            written = self._held.write(pending.prefix, self._buffers, None if self._round is None else self._gather)
            with open(pending.prefix + ".index", "rb") as index:
                checksum = crc32c(index.read())
            written_at = time.perf_counter()
            seconds = {**self._facts["seconds"], "staged": written.staged_secs, "written": written_at - began}
            self._manifest = manifest = Manifest(
                name=self._name,
                sequence=self._ledger.next_sequence,
                created_at=time.time(),
                files=self._store.sizes(pending),
                index_crc32c=checksum,
                run_id=self._ledger.run_id,
                best=self._ledger.best_with(self._facts["metrics"]),
                found_damaged=self._ledger.found_damaged,
                versions={"tensorflow": tf.__version__, NAME: keras.__version__},
                tensors=tuple(
                    TensorInfo(
                        entry.key, entry.dtype, entry.shape, 0 if entry.dtype in OF_ANY_LENGTH else entry.size_bytes
                    )
                    for entry in written.entries
                ),
                **{**self._facts, "seconds": seconds},
            )
            record = self._store.commit(pending, manifest)
            synced_secs = time.perf_counter() - written_at
            return record, Took(record.size_bytes, written.staged_secs, written_at - began, synced_secs)
        except BaseException:
            self._store.discard(pending)
            raise

    def _gather(self, entries: Sequence[Entry]) -> Iterator[Bundle]:
        """Tell the other workers what is written, and take what they have beside it."""
        assert self._round is not None
        self._round.tell_common(sums_of(entries))
        return map(Bundle, self._round.parts())

    def _clean_up(self) -> None:
        with self._lock:
            # The state file first: whoever reads it while old ones are deleted already sees the new one.
            written = self._ledger.state_file()
            self._store.write_state(written)
            superfluous = self._ledger.take_out_superfluous(time.time())
            state = self._ledger.state_file()
        self._store.delete(*superfluous)
        if superfluous:
            self._store.history.note("pruned", names=[record.name for record in superfluous])
        # Again, but only now: what is still to be deleted stays listed, or after a crash nothing would manage it.
        if state != written:
            self._store.write_state(state)

    def _note(self, record: CheckpointRecord, took: Took) -> None:
        self._store.history.note(
            "saved",
            name=record.name,
            step=record.step,
            epoch=record.epoch,
            batch=record.batch,
            metrics=record.metrics,
            blocked_secs=self._facts["seconds"]["blocked"],
            **asdict(took),
        )

    def _told(self, error: BaseException) -> str:
        self._ledger.is_stale = True
        what = f"save of {self._name} to {self._store.directory} failed"
        committed = None if self._manifest is None else self._store.committed(self._manifest)
        if committed is not None:
            with self._lock:
                self._ledger.add(committed)
            what = f"save of {self._name} to {self._store.directory} failed after its commit, which power loss may undo"
        return failure(what, error, self._ledger.latest)
