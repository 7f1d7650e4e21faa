"""A checkpoint directory: what is in it, how a checkpoint gets in whole or not at all, and how one goes.

store = Store("runs/digits")
store.scan().records                        # committed and foreign checkpoints, oldest first
pending = store.begin("ckpt-1200")          # write ckpt-1200.data-… and .index at pending.prefix, then
store.commit(pending, manifest)

runs/digits/
  checkpoint                         TF's state file, derived
  ckpt-1200.index, .data-?????-of-?????
  ckpt-1200.manifest.json            THE COMMIT, written last
  .ckptkit/lock                      one writer at a time
  .ckptkit/tmp-<random>/             a save under way; swept by the next writer
  .ckptkit/replace-<random>/         a committed checkpoint on its way over an older one of the same name;
                                     readers read it here, the next writer finishes the move
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ckptkit.durability import link_or_copy, make_directory, sync_directory, sync_file, write_file
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError
from ckptkit.lock import DirectoryLock
from ckptkit.records import CheckpointRecord, Manifest, ManifestError, split_number
from ckptkit.state_file import StateFile

__all__ = ["Listing", "Pending", "Store", "crc32c"]

_log = logging.getLogger("ckptkit")
_MANIFEST = ".manifest.json"
_SHARD = re.compile(r"(?P<name>.+)\.data-(?P<shard>\d{5})-of-(?P<shards>\d{5})\Z", re.DOTALL)


@dataclass(frozen=True)
class Listing:
    """What a directory holds: good records oldest first, and why each damaged checkpoint is one."""

    records: tuple[CheckpointRecord, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    state: StateFile | None = None


@dataclass(frozen=True)
class Pending:
    """A save under way: a folder of its own, and the prefix in it to write shards and index at."""

    folder: str
    name: str

    @property
    def prefix(self) -> str:
        """The path stem to write at."""
        return os.path.join(self.folder, self.name)


class Store:
    """The files of one checkpoint directory. Reading needs no lock; writing needs :meth:`lock`."""

    def __init__(self, directory: str, *, durable: bool = True) -> None:
        self.directory = directory
        self._durable = durable
        self._meta = os.path.join(directory, ".ckptkit")

    # Reading ---------------------------------------------------------------------------------------------------------

    def scan(self) -> Listing:
        """Read the directory. A state file that cannot be read is no excuse: the listing is the truth."""
        files = _sizes(self.directory)
        state = self._read_state(files)
        committed, damaged = self._committed(files)
        listed = [os.path.basename(path) for path in state.all_model_checkpoint_paths] if state else []
        if state and os.path.basename(state.model_checkpoint_path) not in listed:
            listed.append(os.path.basename(state.model_checkpoint_path))
        if state is None and not committed:
            listed = _indexed(files)
        ordered = sorted(committed.values(), key=lambda record: record.sequence)
        after = 0  # a foreign checkpoint comes after the one that the state file lists before it
        passing = self._passing()
        for name in listed:
            if name in passing and name not in committed:
                continue
            if name in committed:
                after = 1 + ordered.index(committed[name])
            elif name not in damaged or self._is_overwritten(name):
                reason = _why_incomplete(name, files)
                if reason is None:
                    damaged.pop(name, None)
                    ordered.insert(after, self._foreign(name, files, state))
                    after += 1
                elif name + ".index" in files or _shards(name, files):
                    damaged[name] = reason
        if not ordered and not damaged and listed:  # not a file is left of what the state file names
            there = [name for name in _indexed(files) if _why_incomplete(name, files) is None]
            ordered = [self._foreign(name, files, None) for name in there]
            damaged = {} if there else {name: _why_incomplete(name, files) or "" for name in listed}
        return Listing(tuple(ordered), damaged, state)

    def manifest(self, record: CheckpointRecord) -> Manifest:
        """Read the manifest of a committed checkpoint."""
        try:
            with open(record.prefix + _MANIFEST, "rb") as file:
                return Manifest.from_json(file.read())
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(f"no checkpoint {record.prefix}: it has no manifest.") from error
        except ManifestError as error:
            raise CheckpointDamagedError(f"manifest of {record.prefix} is damaged: {error}.") from error

    def verify(self, record: CheckpointRecord) -> None:
        """Check a checkpoint's files against its manifest: sizes, and the index's checksum.

        Raises:
            CheckpointDamagedError: A file is missing, of another size, or the index was altered.
        """
        if record.foreign:
            return
        manifest = self.manifest(record)
        reason = _why_damaged(manifest, _sizes(os.path.dirname(record.prefix) or "."))
        if reason is None:
            with open(record.prefix + ".index", "rb") as file:
                found = crc32c(file.read())
            if found != manifest.index_crc32c and not self._is_overwritten(record.name):
                reason = f"{record.name}.index has checksum {found:#010x}, manifest says {manifest.index_crc32c:#010x}"
        if reason is not None:
            raise CheckpointDamagedError(f"checkpoint {record.prefix} is damaged: {reason}.")

    # Writing ---------------------------------------------------------------------------------------------------------

    def lock(self) -> DirectoryLock:
        """Become the directory's writer, and clean up after a writer that died."""
        make_directory(self._meta, durable=self._durable)
        lock = DirectoryLock(self.directory, os.path.join(self._meta, "lock"))
        try:
            if lock.is_first:  # else what is under way is this very process's
                self._recover()
        except BaseException:
            lock.release()
            raise
        return lock

    def begin(self, name: str) -> Pending:
        """Open a folder for a save under way."""
        folder = os.path.join(self._meta, f"tmp-{uuid.uuid4().hex}")
        os.makedirs(folder)
        return Pending(folder, name)

    def sizes(self, pending: Pending) -> dict[str, int]:
        """Return the size in bytes of each file written so far."""
        return _sizes(pending.folder)

    def commit(self, pending: Pending, manifest: Manifest) -> CheckpointRecord:
        """Make a checkpoint visible. Whatever happens before the last step, older ones stand as they did."""
        for file in manifest.files:
            sync_file(os.path.join(pending.folder, file), durable=self._durable)
        self._write(pending.prefix + _MANIFEST, manifest.to_json())
        if self._is_taken(manifest.name):
            # Its files cannot take the place of the old ones in one step, so the folder as a whole is the commit.
            journal = os.path.join(self._meta, f"replace-{uuid.uuid4().hex}")
            os.rename(pending.folder, journal)
            sync_directory(self._meta, durable=self._durable)
            self._finish_replacing(journal, manifest)
        else:
            for file in _index_last(manifest.files):
                os.rename(os.path.join(pending.folder, file), os.path.join(self.directory, file))
            sync_directory(self.directory, durable=self._durable)
            # The manifest last: it is the commit.
            os.rename(pending.prefix + _MANIFEST, os.path.join(self.directory, manifest.name + _MANIFEST))
            sync_directory(self.directory, durable=self._durable)
            os.rmdir(pending.folder)
            self._drop_journals(manifest.name, but=None)
        return CheckpointRecord.of(manifest, self.directory)

    def discard(self, pending: Pending) -> None:
        """Undo a save that failed: remove its folder and what it had moved out of it."""
        self._roll_back(pending.folder)

    def write_state(self, state: StateFile) -> None:
        """Rewrite TensorFlow's state file in one step."""
        self._write(os.path.join(self.directory, "checkpoint"), state.to_text())

    def delete(self, record: CheckpointRecord) -> None:
        """Delete a checkpoint, the manifest first: what is half deleted is no checkpoint any more."""
        self._drop_journals(record.name, but=None)
        self._delete_files(record.name)

    def _delete_files(self, name: str) -> None:
        if not os.path.lexists(os.path.join(self.directory, name + _MANIFEST)):  # foreign, or gone by hand
            self._delete_foreign(name)
            return
        # Moved, not removed: should we die now, the next writer reads there which files are left to delete.
        going = self.begin(name)
        os.rename(os.path.join(self.directory, name + _MANIFEST), going.prefix + _MANIFEST)
        self._roll_back(going.folder)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _write(self, path: str, text: str) -> None:
        temporary = os.path.join(self._meta, f"tmp-{uuid.uuid4().hex}")  # where the next writer sweeps
        write_file(path, text.encode(), temporary=temporary, durable=self._durable)

    def _read_state(self, files: Mapping[str, int]) -> StateFile | None:
        if "checkpoint" not in files:
            return None
        try:
            with open(os.path.join(self.directory, "checkpoint"), "rb") as file:
                return StateFile.parse(file.read())
        except (OSError, ValueError) as error:
            _log.warning("%s/checkpoint cannot be read (%s); going by the files instead.", self.directory, error)
            return None

    def _is_overwritten(self, name: str) -> bool:
        """Say whether index and shards are all younger than the manifest beside them: plain TensorFlow wrote them."""
        shards = [match[0] for match in _shards(name, _sizes(self.directory))]
        try:
            manifest, *files = (self._written_at(file) for file in (name + _MANIFEST, name + ".index", *shards))
        except OSError:
            return False
        return bool(shards) and min(files) > manifest

    def _written_at(self, file: str) -> int:
        return os.stat(os.path.join(self.directory, file)).st_mtime_ns

    def _passing(self) -> set[str]:
        """Return the names whose files are on their way in or out: without a manifest these are no foreign ones."""
        manifests = {folder: _manifest_in(folder) for folder in self._folders("tmp-")}
        return {
            m.name for folder, m in manifests.items() if m is not None and not m.files.keys() <= _sizes(folder).keys()
        }

    def _committed(self, files: Mapping[str, int]) -> tuple[dict[str, CheckpointRecord], dict[str, str]]:
        good: dict[str, CheckpointRecord] = {}
        damaged: dict[str, str] = {}
        for folder, file, beside in self._manifests(files):
            name = file[: -len(_MANIFEST)]
            try:
                with open(os.path.join(folder, file), "rb") as opened:
                    manifest = Manifest.from_json(opened.read())
            except FileNotFoundError:
                continue  # deleted while we were reading
            except (OSError, ManifestError) as error:
                damaged[name] = f"its manifest cannot be read: {error}"
                continue
            if name in good and good[name].sequence >= manifest.sequence:
                continue  # the move is over, only the journal is still there
            if not beside.keys() & manifest.files.keys():
                continue  # plain TensorFlow has pruned it
            reason = "its manifest is another's" if manifest.name != name else _why_damaged(manifest, beside)
            if reason is None:
                good[name] = CheckpointRecord.of(manifest, folder)
                damaged.pop(name, None)
            elif name not in good:
                damaged[name] = reason
        return good, damaged

    def _manifests(self, files: Mapping[str, int]) -> Iterator[tuple[str, str, Mapping[str, int]]]:
        for file in files:
            if file.endswith(_MANIFEST):
                yield self.directory, file, files
        # What is being replaced is read in the journal, whichever of its files have moved already.
        for journal in self._folders("replace-"):
            inside = _sizes(journal)
            for file in inside:
                if file.endswith(_MANIFEST):
                    yield journal, file, inside

    def _foreign(self, name: str, files: Mapping[str, int], state: StateFile | None) -> CheckpointRecord:
        created_at = os.stat(os.path.join(self.directory, f"{name}.index")).st_mtime
        if state is not None:
            paths = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
            created_at = dict(zip(paths, state.all_model_checkpoint_timestamps)).get(name, created_at)
        number = split_number(name)
        return CheckpointRecord(
            prefix=os.path.join(self.directory, name),
            step=0 if number is None else number[1],
            created_at=created_at,
            size_bytes=files[f"{name}.index"] + sum(files[match[0]] for match in _shards(name, files)),
            foreign=True,
        )

    def _is_taken(self, name: str) -> bool:
        return any(os.path.lexists(os.path.join(self.directory, name + end)) for end in (_MANIFEST, ".index"))

    def _folders(self, start: str) -> list[str]:
        try:
            return [entry.path for entry in os.scandir(self._meta) if entry.name.startswith(start)]
        except OSError:
            return []

    def _recover(self) -> None:
        for journal in self._folders("replace-"):
            manifest = _manifest_in(journal)
            if manifest is not None and _why_damaged(manifest, _sizes(journal)) is None:
                self._finish_replacing(journal, manifest)
            else:
                _log.warning("%s holds a replacement that is not whole; it is left for a person to look at.", journal)
        for folder in self._folders("tmp-"):
            self._roll_back(folder)

    def _finish_replacing(self, journal: str, manifest: Manifest) -> None:
        self._drop_journals(manifest.name, but=journal)  # an earlier replacement that could not be finished
        self._delete_files(manifest.name)
        for file in (*_index_last(manifest.files), manifest.name + _MANIFEST):
            link_or_copy(os.path.join(journal, file), os.path.join(self.directory, file), durable=self._durable)
        sync_directory(self.directory, durable=self._durable)
        done = os.path.join(self._meta, f"tmp-{uuid.uuid4().hex}")
        os.rename(journal, done)
        self._roll_back(done)

    def _drop_journals(self, name: str, but: str | None) -> None:
        for journal in self._folders("replace-"):
            manifest = _manifest_in(journal)
            if journal != but and manifest is not None and manifest.name == name:
                _unlink(os.path.join(journal, name + _MANIFEST))  # first: without it nothing is taken for committed
                shutil.rmtree(journal, ignore_errors=True)

    def _delete_foreign(self, name: str) -> None:
        _unlink(os.path.join(self.directory, name + ".index"))
        for file in os.listdir(self.directory):
            match = _SHARD.match(file)
            if match and match["name"] == name:
                _unlink(os.path.join(self.directory, file))

    def _roll_back(self, path: str) -> None:
        """Remove a temporary file or folder, and what it tells of a checkpoint that is not committed."""
        # The manifest is written before anything is moved, so it tells what may have been.
        manifest = _manifest_in(path)
        if manifest is not None:
            final = os.path.join(self.directory, manifest.name + _MANIFEST)
            committed = _read_manifest(final)
            for file in _index_last(manifest.files)[::-1]:  # the index first: without it TensorFlow sees nothing
                moved = not os.path.lexists(os.path.join(path, file))
                ours = not os.path.lexists(final) or (committed is not None and file not in committed.files)
                if moved and ours:
                    _unlink(os.path.join(self.directory, file))
            # Before the rest of the folder: a file that is missing in it would be taken for moved the next time.
            _unlink(os.path.join(path, manifest.name + _MANIFEST))
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            _unlink(path)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes; in Python, so for small files like an index."""
    table, crc = _CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _why_damaged(manifest: Manifest, files: Mapping[str, int]) -> str | None:
    for file, size in manifest.files.items():
        if file not in files:
            return f"{file} is missing"
        if files[file] != size:
            return f"{file} has {files[file]} bytes, manifest says {size}"
    return None


def _why_incomplete(name: str, files: Mapping[str, int]) -> str | None:
    """Say what a checkpoint without a manifest lacks, None if it has an index and all of its shards."""
    if f"{name}.index" not in files:
        return f"{name}.index is missing"
    shards = _shards(name, files)
    if not shards or len(shards) < int(shards[0]["shards"]):
        return f"{len(shards)} of {int(shards[0]['shards']) if shards else 'its'} shards are there"
    return None


def _shards(name: str, files: Mapping[str, int]) -> list[re.Match[str]]:
    return [match for file in files if (match := _SHARD.match(file)) and match["name"] == name]


def _manifest_in(folder: str) -> Manifest | None:
    files = [file for file in _sizes(folder) if file.endswith(_MANIFEST)] if os.path.isdir(folder) else []
    return _read_manifest(os.path.join(folder, files[0])) if files else None


def _read_manifest(path: str) -> Manifest | None:
    try:
        with open(path, "rb") as opened:
            return Manifest.from_json(opened.read())
    except (OSError, ManifestError):
        return None


def _index_last(files: Mapping[str, int]) -> list[str]:
    # TensorFlow takes a checkpoint for there when its index is.
    return sorted(files, key=lambda file: (file.endswith(".index"), file))


def _indexed(files: Mapping[str, int]) -> list[str]:
    return sorted((file[: -len(".index")] for file in files if file.endswith(".index")), key=_by_number)


def _by_number(name: str) -> tuple[int, str]:
    number = split_number(name)
    return (-1 if number is None else number[1], name)


def _sizes(folder: str) -> dict[str, int]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return {}
    sizes = {}
    for entry in entries:
        try:
            if entry.is_file():
                sizes[entry.name] = entry.stat().st_size
        except FileNotFoundError:
            continue  # deleted while we were reading
    return sizes


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
