"""Whether the checkpoints of a directory are what was written: a verdict on each, without TensorFlow.

    verification = Verification(DirectoryReader("runs/digits"), deep=True)
    for verdict in verification.verdicts():
        print(verdict.name, verdict.state, verdict.reason)
    verification.notes()        # what lies there beside checkpoints

A quick look compares a manifest with the sizes of the files and with the checksum of the index. A deep one reads every
tensor as well, and compares it with its checksum in the index, and the index with the manifest's table of tensors. What
plain TensorFlow wrote has no manifest: whether the index is whole and the shards are long enough is all that is known.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ckptkit.errors import CheckpointDamagedError, UnsupportedBundleError
from ckptkit.listing import MANIFEST, DirectoryReader
from ckptkit.progress import progress
from ckptkit.records import CheckpointRecord, Manifest, ManifestError, NewerManifestError

if TYPE_CHECKING:
    from ckptkit.bundle import Bundle

__all__ = ["Verdict", "Verification", "is_for_others"]

State: TypeAlias = Literal["ok", "damaged", "not checked", "unreadable"]

_THREADS = min(os.cpu_count() or 1, 8)
_SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """What a look at one checkpoint found.

    Attributes:
        name: Its name, ``ckpt-1200``.
        state: ``ok``; ``damaged``; ``not checked`` where only TensorFlow reads files of its kind; ``unreadable`` where
            nothing is known to be wrong, but a newer ckptkit wrote it or this user may not read it.
        reason: Why that is so, and what could not be known; "" where there is nothing to say.
        bytes_read: How many bytes of its files were read.
        record: The checkpoint; None where there is none to speak of.
    """

    name: str
    state: State
    reason: str = ""
    bytes_read: int = 0
    record: CheckpointRecord | None = None


class Verification:
    """A look at the checkpoints of a directory.

    Args:
        reader: The directory.
        deep: Read every tensor, too.
        ignoring: As :meth:`DirectoryReader.scan` has it.
    """

    def __init__(
        self,
        reader: DirectoryReader,
        *,
        deep: bool = False,
        ignoring: Collection[str] = (),
    ) -> None:
        self._reader = reader
        self._deep = deep
        self._ignoring = ignoring
        self.listing = reader.scan(ignoring=ignoring)
        self.unlisted = reader.unlisted(self.listing)
        self._listed = {record.prefix for record in self.listing.records}

    @property
    def names(self) -> list[str]:
        """The checkpoints there are, oldest first, then those that no list has and those that are damaged at a look."""
        records = (*self.listing.records, *self.unlisted.records)
        return [*(record.name for record in records), *self.listing.damaged]

    def verdicts(self, only: str | None = None) -> Iterator[Verdict]:
        """Look at one checkpoint after the other, or at one alone; those that a run deletes meanwhile are left out."""
        for record in (*self.listing.records, *self.unlisted.records):
            if only in (None, record.name) and (verdict := self._of_what_stays(record)) is not None:
                yield verdict
        for name, reason in self.listing.damaged.items():
            if only in (None, name):
                yield self._of_damaged(name, reason)

    def notes(self) -> list[str]:
        """Return what is to be said of the directory beside its checkpoints; none of it is damage."""
        under_way = {
            "tmp-": "a save under way, or what is left of one",
            "replace-": "a checkpoint on its way over one of the same name, or what is left of it",
            "damaged-": "what was damaged and moved aside",
        }
        told = [
            f"{os.path.relpath(path, self._reader.directory)} is {what}"
            for start, what in under_way.items()
            for path in self._reader.folders(start)
        ]
        told += [f"{name} is no checkpoint: {reason}" for name, reason in self.unlisted.damaged.items()]
        if (why := self._why_not_found()) is not None:
            told.append(f"plain TensorFlow may not find what is here: the file 'checkpoint' {why}")
        return told

    def verdict_on(self, record: CheckpointRecord) -> Verdict:
        """Look at a checkpoint."""
        meter = _Meter()
        try:
            state, reason = self._look(record, meter)
        except (CheckpointDamagedError, UnsupportedBundleError) as error:
            state = "damaged" if isinstance(error, CheckpointDamagedError) else "not checked"
            state = "unreadable" if _is_refused(error) else state
            reason = _without_prefix(str(error), record.prefix)
        except OSError as error:
            state = "damaged" if error.errno == errno.EIO else "unreadable"
            reason = f"{error.filename or record.name}: {error.strerror or error}"
        return Verdict(record.name, state, reason, meter.bytes_read, record)

    def _why_not_found(self) -> str | None:
        state, there = self.listing.state, {record.name for record in self.listing.records}
        if state is None:
            return "is missing or cannot be read" if there else None
        there |= self.listing.damaged.keys()
        gone = [path for path in state.all_model_checkpoint_paths if os.path.basename(path) not in there]
        return f"names {gone[-1]}, which is gone" if gone else None

    def _of_what_stays(self, record: CheckpointRecord) -> Verdict | None:
        verdict = self.verdict_on(record)
        if verdict.state == "ok":
            return verdict
        # While it was being read, a run may have deleted it, or put another one in its place.
        found = {r.name: r for r in self._reader.scan(ignoring=self._ignoring).records}.get(record.name)
        if found is not None and found != record:
            return self.verdict_on(found)
        is_there = os.path.lexists(record.prefix + (".index" if record.foreign else MANIFEST))
        return verdict if is_there else None

    def _of_damaged(self, name: str, reason: str) -> Verdict:
        if not is_for_others(os.path.join(self._reader.directory, name + MANIFEST)):
            return Verdict(name, "damaged", reason)
        return Verdict(name, "unreadable", f"{reason}. A newer ckptkit may read it, or another user")

    def _look(self, record: CheckpointRecord, meter: _Meter) -> tuple[State, str]:
        manifest = self._reader.verify(record)
        if not record.foreign:
            meter.add(os.path.getsize(record.prefix + MANIFEST))
        meter.add(os.path.getsize(record.prefix + ".index"))
        if manifest is not None and not self._deep:
            return "ok", ""
        from ckptkit.bundle import Bundle  # NumPy and protobuf: a quick look at our own needs neither

        with Bundle(record.prefix) as bundle:
            for entry in bundle.entries.values():
                bundle.require(entry)
            if manifest is not None:
                _compare_tables(manifest, bundle)
            if self._deep:
                told = f"verifying {record.name}", f"verified {record.prefix}"
                with progress(*told, size_bytes=record.size_bytes) as work:
                    _read_all(bundle, meter.also(work.advance))
        return "ok", "" if manifest is not None else self._what_is_not_known(record)

    def _what_is_not_known(self, record: CheckpointRecord) -> str:
        listed = "" if record.prefix in self._listed else ", and on no list"
        read = "" if self._deep else "; none was read"
        return f"written by plain TensorFlow{listed}: no manifest says which tensors belong in it{read}"


def is_for_others(manifest: str) -> bool:
    """Say whether a manifest that cannot be read may be sound: of a newer format, or another user's."""
    try:
        with open(manifest, "rb") as file:
            Manifest.read(file)
    except (NewerManifestError, PermissionError):
        return True
    except (OSError, ManifestError):
        pass
    return False


def _is_refused(error: Exception) -> bool:
    """Say whether what cannot be read may be read by another user: it is no damage then."""
    return isinstance(error.__cause__, PermissionError)


class _Meter:
    """Counts bytes, in several threads at once."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.bytes_read += size

    def also(self, told: Callable[[int], None]) -> Callable[[int], None]:
        def add(size: int) -> None:
            self.add(size)
            told(size)

        return add


def _without_prefix(message: str, prefix: str) -> str:
    message = message.removeprefix(f"checkpoint {prefix} is damaged: ").removesuffix(".")
    return message.removeprefix(os.path.join(os.path.dirname(prefix), ""))


def _compare_tables(manifest: Manifest, bundle: Bundle) -> None:
    from ckptkit.dtypes import OF_ANY_LENGTH

    listed = sorted((row.key, row.dtype, row.shape, row.size_bytes) for row in manifest.tensors)
    there = sorted(
        (entry.key, entry.dtype, entry.shape, 0 if entry.dtype in OF_ANY_LENGTH else entry.size_bytes)
        for entry in bundle.entries.values()
    )
    if listed == there:
        return
    left, right = ({row[0]: f"{row[1]} {row[2]}, {row[3]} bytes" for row in table} for table in (listed, there))
    keys = [key for key in dict.fromkeys([*left, *right]) if left.get(key) != right.get(key)]
    told = "; ".join(
        f"{key!r} is {left.get(key, 'not there')} in the manifest, {right.get(key, 'not there')} in the index"
        for key in keys[:_SHOWN]
    )
    more = f"; … and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    raise CheckpointDamagedError(f"manifest and index have different tensors: {told or 'one twice'}{more}.")


def _read_all(bundle: Bundle, told: Callable[[int], None]) -> None:
    """Check every tensor, in the order in which they lie on the disk, several at once."""
    todo = deque(sorted(bundle.entries.values(), key=lambda entry: (entry.shard, entry.offset)))
    rotten: list[str] = []

    def work() -> None:
        while True:
            try:
                entry = todo.popleft()
            except IndexError:
                return
            try:
                bundle.check(entry, told)
            except CheckpointDamagedError as error:
                if _is_refused(error):
                    raise
                rotten.append(str(error).removesuffix("."))

    with ThreadPoolExecutor(_THREADS, "ckptkit-verify") as pool:
        workers = [pool.submit(work) for _ in range(_THREADS)]
        try:
            wait(workers, return_when=FIRST_EXCEPTION)
        finally:
            todo.clear()  # one of them failed, or a person has had enough: the others need not go on
        for worker in workers:
            worker.result()
    if rotten:
        more = f"; {len(rotten) - 1} more are damaged" if len(rotten) > 1 else ""
        raise CheckpointDamagedError(f"{min(rotten)}{more}.")
