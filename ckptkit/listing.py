"""What lies in a checkpoint directory: committed checkpoints, damaged ones, and those of plain TensorFlow.

    reader = DirectoryReader("runs/digits")
    reader.scan().records                       # oldest first
    reader.verify(record)                       # CheckpointDamagedError says which file and how

Reading takes no lock and changes nothing; what a writer changed meanwhile is looked at again. A checkpoint is there if
its manifest can be read and the files that it names have the sizes it says; one that TensorFlow's state file lists and
that has no manifest is foreign: usable, unverified.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ckptkit.checksums import crc32c
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError
from ckptkit.records import CheckpointRecord, Manifest, ManifestError, split_number
from ckptkit.state_file import StateFile

__all__ = [
    "MANIFEST",
    "META",
    "DirectoryReader",
    "Listing",
    "manifest_in",
    "read_manifest",
    "shards_of",
    "sizes_in",
    "sizes_inside",
    "why_damaged",
]

MANIFEST = ".manifest.json"
META = ".ckptkit"  # the folder of the lock and of saves under way

_log = logging.getLogger("ckptkit")
_SHARD = re.compile(r"(?P<name>.+)\.data-(?P<shard>[0-9]{5})-of-(?P<shards>[0-9]{5})\Z", re.DOTALL)
_STATE_BYTES = 64 << 20  # of a state file, at most; half a million checkpoints
_BLOCK = 1 << 20  # of an index, read at a time
_LOOKS = 20  # at a directory that somebody else is busy in


@dataclass(frozen=True)
class Listing:
    """What a directory holds: good records oldest first, and why each damaged checkpoint is one."""

    records: tuple[CheckpointRecord, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    state: StateFile | None = None


class DirectoryReader:
    """The reading side of one checkpoint directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._meta = os.path.join(directory, META)

    def scan(self, *, ignoring: Collection[str] = ()) -> Listing:
        """Read the directory. A state file that cannot be read is no excuse: the listing is the truth.

        Args:
            ignoring: Folders of checkpoints on their way over others that are not to be looked into.
        """
        for _ in range(_LOOKS):
            files, under_way = sizes_in(self.directory), self.folders("")
            state, reason = self._read_state(files)
            listing, is_sure = self._listing(files, state, ignoring)
            # What a writer does between two of our steps looks like damage, or like nothing at all.
            if is_sure or (files, under_way) == (sizes_in(self.directory), self.folders("")):
                break
        if reason is not None:
            _log.warning("%s/checkpoint cannot be read (%s); going by the files instead.", self.directory, reason)
        return listing

    def _listing(
        self, files: Mapping[str, int], state: StateFile | None, ignoring: Collection[str]
    ) -> tuple[Listing, bool]:
        """Return what files and state file tell, and whether it is sure though somebody may have been at work."""
        committed, damaged = self._committed(files, ignoring)
        listed = _times(state)
        if state is None and not committed:
            listed = dict.fromkeys(_indexed(files))
        shards = shards_of(files)
        passing = self._passing()
        before: str | None = None  # a foreign checkpoint comes after the one that the state file lists before it
        following: dict[str | None, list[CheckpointRecord]] = {}
        for name, created_at in listed.items():
            if name in committed:
                before = name
            elif name not in passing and (name not in damaged or self._is_overwritten(name, shards)):
                reason = _why_incomplete(name, files, shards)
                if reason is None:
                    damaged.pop(name, None)
                    following.setdefault(before, []).append(self._foreign(name, files, shards, created_at))
                elif name + ".index" in files or name in shards:
                    damaged[name] = reason
        ordered = following.get(None, [])
        for record in sorted(committed.values(), key=lambda record: record.sequence):
            ordered += [record, *following.get(record.name, ())]
        if not ordered and not damaged and listed:  # not a file is left of what the state file names
            why = {name: _why_incomplete(name, files, shards) for name in (*_indexed(files), *listed)}
            there = [name for name in _indexed(files) if name not in passing and why[name] is None]
            ordered = [self._foreign(name, files, shards) for name in there]
            damaged = {} if there else {name: why[name] or "" for name in listed if name not in passing}
        is_sure = bool(ordered) and not damaged and not any(record.foreign for record in ordered)
        return Listing(
            tuple(ordered), {name: damaged[name] for name in sorted(damaged, key=_by_number)}, state
        ), is_sure

    def is_empty(self) -> bool:
        """Say whether there is nothing here that is a checkpoint's, or a writer's of checkpoints."""
        files = sizes_in(self.directory)
        named = "checkpoint" in files or any(file.endswith((".index", MANIFEST)) for file in files)
        return not (named or shards_of(files) or os.path.isdir(self._meta))

    def unlisted(self, listing: Listing) -> Listing:
        """Return what lies here beside what a listing has: whole checkpoints, and what of others is left.

        Plain TensorFlow takes checkpoints off its list and keeps them, and dies or deletes half way like anybody.
        """
        files = sizes_in(self.directory)
        shards = shards_of(files)
        manifests = [file[: -len(MANIFEST)] for file in files if file.endswith(MANIFEST)]
        known = {record.name for record in listing.records} | listing.damaged.keys() | self._passing()
        whole: list[CheckpointRecord] = []
        left: dict[str, str] = {}
        for name in dict.fromkeys([*_indexed(files), *shards, *manifests]):
            reason = None if name in known else _why_incomplete(name, files, shards)
            if reason is not None:
                left[name] = reason
            elif name not in known and name not in manifests:  # else it was committed since
                whole.append(self._foreign(name, files, shards))
        return Listing(tuple(whole), left)

    def folders(self, start: str) -> list[str]:
        """Return the paths of what lies in the folder of locks and saves under way, by how a name begins."""
        if os.path.islink(self._meta):
            return []  # none of ours, wherever it leads
        try:
            return sorted(entry.path for entry in os.scandir(self._meta) if entry.name.startswith(start))
        except OSError:
            return []

    def journals(self) -> list[str]:
        """Return the folders of checkpoints on their way over others; a link to one is none of ours."""
        return [path for path in self.folders("replace-") if os.path.isdir(path) and not os.path.islink(path)]

    def manifest(self, record: CheckpointRecord) -> Manifest:
        """Read the manifest of a committed checkpoint."""
        try:
            with open(record.prefix + MANIFEST, "rb") as file:
                return Manifest.read(file)
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(f"no checkpoint {record.prefix}: it has no manifest.") from error
        except OSError as error:
            raise CheckpointDamagedError(f"manifest of {record.prefix} cannot be read: {error}.") from error
        except ManifestError as error:
            raise CheckpointDamagedError(f"manifest of {record.prefix} is damaged: {error}.") from error

    def verify(self, record: CheckpointRecord) -> Manifest | None:
        """Check a checkpoint's files against its manifest: sizes, and the index's checksum.

        Returns:
            The manifest; None if there is none, or plain TensorFlow has written over what it describes.

        Raises:
            CheckpointDamagedError: A file is missing, of another size or cannot be read, or the index was altered.
        """
        if record.foreign:
            return None
        manifest = self.manifest(record)
        try:
            reason = why_damaged(manifest, _sizes_of(os.path.dirname(record.prefix), manifest.files))
            if reason is None and (found := _checksum(record.prefix + ".index")) != manifest.index_crc32c:
                if self._is_overwritten(record.name, shards_of(sizes_in(self.directory))):
                    return None
                reason = f"{record.name}.index has checksum {found:#010x}, manifest says {manifest.index_crc32c:#010x}"
        except OSError as error:
            raise CheckpointDamagedError(f"checkpoint {record.prefix} cannot be read: {error}.") from error
        if reason is not None:
            raise CheckpointDamagedError(f"checkpoint {record.prefix} is damaged: {reason}.")
        return manifest

    def _read_state(self, files: Mapping[str, int]) -> tuple[StateFile | None, object]:
        """Return what the state file says, or None and why it cannot be read; neither where there is none."""
        path = os.path.join(self.directory, "checkpoint")
        size = files.get("checkpoint")
        if size is None:
            return None, "it is not a file" if os.path.lexists(path) else None
        if size > _STATE_BYTES:
            return None, f"{size} bytes are too many"
        try:
            with open(path, "rb") as file:
                return StateFile.parse(file.read()), None
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError) as error:
            return None, error

    def _is_overwritten(self, name: str, shards: Mapping[str, Sequence[str]]) -> bool:
        """Say whether index and shards are all younger than the manifest beside them: plain TensorFlow wrote them."""
        own = shards.get(name, ())
        try:
            manifest, *files = (self._written_at(file) for file in (name + MANIFEST, name + ".index", *own))
        except OSError:
            return False
        return bool(own) and min(files) > manifest

    def _written_at(self, file: str) -> int:
        return os.stat(os.path.join(self.directory, file)).st_mtime_ns

    def _passing(self) -> set[str]:
        """Return the names whose files are on their way in or out: without a manifest these are no foreign ones."""
        manifests = {folder: manifest_in(folder) for folder in self.folders("tmp-")}
        return {
            m.name
            for folder, m in manifests.items()
            if m is not None and not m.files.keys() <= sizes_inside(folder).keys()
        }

    def _committed(
        self, files: Mapping[str, int], ignoring: Collection[str]
    ) -> tuple[dict[str, CheckpointRecord], dict[str, str]]:
        good: dict[str, CheckpointRecord] = {}
        damaged: dict[str, str] = {}
        for folder, file, beside in self._manifests(files, ignoring):
            name = file[: -len(MANIFEST)]
            try:
                with open(os.path.join(folder, file), "rb", buffering=0) as opened:
                    manifest = Manifest.read_head(opened)
            except FileNotFoundError:
                continue  # deleted while we were reading
            except (OSError, ManifestError) as error:
                damaged[name] = f"its manifest cannot be read: {error}"
                continue
            known = good.get(name)
            if known is not None and (known.sequence, known.created_at) >= (manifest.sequence, manifest.created_at):
                continue  # the move is over, only the journal is still there
            if not beside.keys() & manifest.files.keys():
                continue  # plain TensorFlow has pruned it
            reason = "its manifest is another's" if manifest.name != name else why_damaged(manifest, beside)
            if reason is None:
                good[name] = CheckpointRecord.of(manifest, folder)
                damaged.pop(name, None)
            elif name not in good:
                damaged[name] = reason
        return good, damaged

    def _manifests(
        self, files: Mapping[str, int], ignoring: Collection[str]
    ) -> Iterator[tuple[str, str, Mapping[str, int]]]:
        for file in files:
            if file.endswith(MANIFEST):
                yield self.directory, file, files
        # What is being replaced is read in the journal, whichever of its files have moved already.
        for journal in self.journals():
            inside = sizes_inside(journal) if journal not in ignoring else {}
            for file in inside:
                if file.endswith(MANIFEST):
                    yield journal, file, inside

    def _foreign(
        self,
        name: str,
        files: Mapping[str, int],
        shards: Mapping[str, Sequence[str]],
        created_at: float | None = None,
    ) -> CheckpointRecord:
        if created_at is None:
            try:
                created_at = os.stat(os.path.join(self.directory, f"{name}.index")).st_mtime
            except OSError:
                created_at = 0.0  # deleted while we were reading
        number = split_number(name)
        return CheckpointRecord(
            prefix=os.path.join(self.directory, name),
            step=0 if number is None else number[1],
            created_at=created_at,
            size_bytes=files[f"{name}.index"] + sum(files[shard] for shard in shards[name]),
            foreign=True,
        )


def why_damaged(manifest: Manifest, files: Mapping[str, int]) -> str | None:
    """Say which file of a checkpoint is missing or of another size, None if all are as the manifest says."""
    for file, size in manifest.files.items():
        if file not in files:
            return f"{file} is missing"
        if files[file] != size:
            return f"{file} has {files[file]} bytes, manifest says {size}"
    return None


def _why_incomplete(name: str, files: Mapping[str, int], shards: Mapping[str, Sequence[str]]) -> str | None:
    """Say what a checkpoint without a manifest lacks, None if it has an index and all of its shards."""
    if f"{name}.index" not in files:
        return f"{name}.index is missing"
    own = shards.get(name)
    if not own:
        return "0 of its shards are there"
    wanted = int(own[0].rpartition("-")[2])
    return None if len(own) >= wanted else f"{len(own)} of {wanted} shards are there"


def shards_of(files: Iterable[str]) -> dict[str, list[str]]:
    """Return the data files of each checkpoint, by its name."""
    shards: dict[str, list[str]] = {}
    for file in files:
        if (match := _SHARD.match(file)) is not None:
            shards.setdefault(match["name"], []).append(file)
    return shards


def _times(state: StateFile | None) -> dict[str, float | None]:
    """Return the names in a state file, in order, each with its time; None where the file has none."""
    if state is None:
        return {}
    names = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
    times: dict[str, float | None] = dict.fromkeys([*names, os.path.basename(state.model_checkpoint_path)])
    times.update(zip(names, state.all_model_checkpoint_timestamps))
    return times


def manifest_in(folder: str) -> Manifest | None:
    """Return the manifest that lies in a folder; None for a file, a folder without one, or an unreadable one."""
    files = [file for file in sizes_inside(folder) if file.endswith(MANIFEST)]
    manifest = read_manifest(os.path.join(folder, files[0])) if files else None
    return manifest if manifest is not None and manifest.name + MANIFEST == files[0] else None


def read_manifest(path: str) -> Manifest | None:
    """Return a manifest, None if it cannot be read or is no file, which might keep a reader waiting."""
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as opened:
            return Manifest.read(opened)
    except (OSError, ManifestError):
        return None


def _checksum(path: str) -> int:
    """Return the checksum of a file, however large it is."""
    found = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            found = crc32c(block, found)
    return found


def _indexed(files: Mapping[str, int]) -> list[str]:
    return sorted((file[: -len(".index")] for file in files if file.endswith(".index")), key=_by_number)


def _by_number(name: str) -> tuple[int, str]:
    number = split_number(name)
    return (-1 if number is None else number[1], name)


def _sizes_of(folder: str, files: Iterable[str]) -> dict[str, int]:
    """Return what :func:`sizes_in` has for some files, without a look at a folder that may be long."""
    sizes = {}
    for file in files:
        try:
            found = os.stat(os.path.join(folder, file))
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode):
            sizes[file] = found.st_size
    return sizes


def sizes_in(folder: str) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, nothing for a folder that is not there."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return {}
    sizes = {}
    for entry in entries:
        try:
            if entry.is_file():
                sizes[entry.name] = entry.stat().st_size
        except OSError:
            continue  # deleted while we were reading, or a link to itself
    return sizes


def sizes_inside(folder: str) -> dict[str, int]:
    """Return the same of a folder that may be anything; nothing where it cannot be read."""
    try:
        return sizes_in(folder)
    except OSError:
        return {}
