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
  .ckptkit/tmp-<random>/             a save or a deletion under way; swept by the next writer
  .ckptkit/replace-<random>/         a committed checkpoint on its way over an older one of the same name;
                                     readers read it here, the next writer finishes the move
  .ckptkit/cluster-<random>/         where the workers of a cluster meet; swept by the next
  .ckptkit/damaged-ckpt-1100/        what `ckptkit repair` moved out of the way
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ckptkit.durability import link_or_copy, make_directory, sync_directory, sync_file, write_file
from ckptkit.errors import DirectoryLockedError
from ckptkit.history import History
from ckptkit.listing import (
    MANIFEST,
    DirectoryReader,
    manifest_in,
    read_manifest,
    shards_of,
    sizes_in,
    sizes_inside,
    why_damaged,
)
from ckptkit.lock import DirectoryLock
from ckptkit.records import CheckpointRecord, Manifest, ManifestError
from ckptkit.state_file import StateFile

__all__ = ["Pending", "Store"]

_log = logging.getLogger("ckptkit")
_SESSION = "cluster-"


@dataclass(frozen=True)
class Pending:
    """A save under way: a folder of its own, and the prefix in it to write shards and index at."""

    folder: str
    name: str

    @property
    def prefix(self) -> str:
        """The path stem to write at."""
        return os.path.join(self.folder, self.name)


class Store(DirectoryReader):
    """One checkpoint directory to read and to write. Writing needs :meth:`lock`.

    Attributes:
        history: What this process does there, for people to read.
    """

    def __init__(self, directory: str, *, durable: bool = True) -> None:
        super().__init__(directory)
        self.history = History(directory)
        self._durable = durable
        self._made: list[str] = []  # temporary files and folders that may still be there

    @property
    def durable(self) -> bool:
        """Whether what is written is flushed to the disk."""
        return self._durable

    def lock(self, *, recover: bool = True) -> DirectoryLock:
        """Become the directory's writer, and clean up after a writer that died.

        Raises:
            DirectoryLockedError: Another process is.
            OSError: Nobody can write there, or not clean up.
        """
        if os.path.islink(self._meta):  # we would write, and sweep, wherever it leads
            raise OSError(errno.ELOOP, "Is a symbolic link, remove it", self._meta)
        make_directory(self._meta, durable=self._durable)
        lock = DirectoryLock(self.directory, os.path.join(self._meta, "lock"))
        try:
            if recover and lock.is_first:  # else what is under way is this very process's
                self.recover()
        except BaseException:
            lock.release()
            raise
        return lock

    @contextmanager
    def locked_to(self, verb: str, *, recover: bool = True) -> Iterator[None]:
        """Be the directory's writer for a while, for something that no save of this process may come across.

        Args:
            verb: What is done meanwhile, ``"prune"``.
            recover: Whether to clean up first after a writer that died.

        Raises:
            DirectoryLockedError: Another process writes there, or this one does.
            OSError: Nobody can write there, or not clean up.
        """
        lock = self.lock(recover=recover)
        try:
            if not lock.is_first:
                raise DirectoryLockedError(
                    f"cannot {verb} {self.directory}: this very process writes checkpoints there. "
                    "Close its manager first."
                )
            yield
        finally:
            lock.release()

    def recover(self) -> None:
        """Finish or undo what a writer that died had under way; the lock is ours."""
        for journal in self._youngest_first(self.journals()):
            self._recover(journal)
        for folder in self.folders("tmp-"):
            self._recover(folder)

    def mend(self) -> bool:
        """Finish or remove what operations that failed have left behind; what resists is left for the next time.

        Returns:
            Whether there was anything.
        """
        left = [path for path in self._made if os.path.lexists(path)]
        self._made = [*left]
        journals = [path for path in left if _is_journal(path)]
        for path in [*self._youngest_first(journals), *(path for path in left if path not in journals)]:
            try:
                self._recover(path)
            except OSError as error:
                _log.warning("%s is left over from a save that failed, and stays for now: %s", path, error)
        return left != []

    def begin(self, name: str) -> Pending:
        """Open a folder for a save under way."""
        folder = self._temporary("tmp")
        os.makedirs(folder)
        return Pending(folder, name)

    def begin_session(self) -> str:
        """Make a folder where the workers of a cluster meet, remove those of earlier ones, and return its name."""
        for left in self.folders(_SESSION):
            shutil.rmtree(left, ignore_errors=True)
        name = f"{_SESSION}{uuid.uuid4().hex}"
        os.mkdir(self.session_folder(name))
        return name

    def session_folder(self, name: str) -> str:
        """Return the path of what :meth:`begin_session` has made, here or in another process."""
        return os.path.join(self._meta, os.path.basename(name))

    def written_so_far(self) -> int:
        """Return how many bytes there are of saves that are under way, in whatever process."""
        return sum(size for folder in self.folders("tmp-") for size in sizes_inside(folder).values())

    def sizes(self, pending: Pending) -> dict[str, int]:
        """Return the size in bytes of each file written so far."""
        return sizes_in(pending.folder)

    def commit(self, pending: Pending, manifest: Manifest) -> CheckpointRecord:
        """Make a checkpoint visible. Whatever happens before the last step, older ones stand as they did."""
        self._refuse_folders(manifest)
        for file in manifest.files:
            sync_file(os.path.join(pending.folder, file), durable=self._durable)
        is_taken = self._is_taken(manifest.name)
        if is_taken:
            # Before the manifest: a file that it names and that is missing is taken for moved, in the place of the old.
            sync_directory(pending.folder, durable=self._durable)
        self._write(pending.prefix + MANIFEST, manifest.to_json())
        if is_taken:
            # Its files cannot take the place of the old ones in one step, so the folder as a whole is the commit.
            journal = self._temporary("replace")
            os.rename(pending.folder, journal)
            sync_directory(self._meta, durable=self._durable)
            self._finish_replacing(journal, manifest)
        else:
            # The folder first: it tells which files are moved out of it, should that be interrupted.
            sync_directory(self._meta, durable=self._durable)
            for file in _index_last(manifest.files):
                os.rename(os.path.join(pending.folder, file), os.path.join(self.directory, file))
            sync_directory(self.directory, durable=self._durable)
            # The manifest last: it is the commit.
            os.rename(pending.prefix + MANIFEST, os.path.join(self.directory, manifest.name + MANIFEST))
            sync_directory(self.directory, durable=self._durable)
            os.rmdir(pending.folder)
            self._drop_journals(manifest.name, but=None)
        return CheckpointRecord.of(manifest, self.directory)

    def discard(self, pending: Pending) -> None:
        """Undo a save that failed: remove its folder and what it had moved out of it, as far as can be now."""
        try:
            self._roll_back(pending.folder)
        except OSError:
            pass  # the save's own error is the one to tell, and mend() tries again

    def committed(self, manifest: Manifest) -> CheckpointRecord | None:
        """Return the record of a checkpoint whose commit failed too late to be undone, None if it did before that."""
        for folder in (self.directory, *self.journals()):
            found = read_manifest(os.path.join(folder, manifest.name + MANIFEST))
            if found is not None and _age(found) == _age(manifest):
                return CheckpointRecord.of(manifest, folder)
        return None

    def write_state(self, state: StateFile) -> None:
        """Rewrite TensorFlow's state file in one step."""
        self._write(os.path.join(self.directory, "checkpoint"), state.to_text())

    def delete(self, *records: CheckpointRecord) -> None:
        """Delete checkpoints, the manifest first: what is half deleted is no checkpoint any more."""
        shards = functools.cache(self._shards)  # one look for all of them: a directory of TensorFlow's may be long
        for record in records:
            self._drop_journals(record.name, but=None)
            self._delete_files(record.name, shards)

    def files_of(self, name: str) -> list[str]:
        """Return the names of a checkpoint's files that are there: the index, the shards, the manifest."""
        index_and_manifest = [name + end for end in (".index", MANIFEST)]
        there = [file for file in index_and_manifest if os.path.lexists(os.path.join(self.directory, file))]
        return sorted({*there, *self._shards().get(name, ())}, key=lambda file: (file == name + MANIFEST, file))

    def set_aside(self, name: str) -> None:
        """Move what is there under a name where nobody takes it for a checkpoint; nothing is deleted."""
        folder, files = self.aside_of(name), self.files_of(name)
        make_directory(folder, durable=self._durable)
        # The index first: without it TensorFlow sees nothing. The manifest last: what lies beside it is not foreign.
        for file in files:
            os.rename(os.path.join(self.directory, file), os.path.join(folder, file))
        sync_directory(folder, durable=self._durable)
        sync_directory(self.directory, durable=self._durable)

    def aside_of(self, name: str) -> str:
        """Return the folder that :meth:`set_aside` moves to: the rest of a move that was cut short goes there, too."""
        files, path = set(self.files_of(name)), os.path.join(self._meta, f"damaged-{name}")
        paths = itertools.chain([path], (f"{path}.{number}" for number in itertools.count(2)))
        return next(folder for folder in paths if not files & sizes_in(folder).keys())

    def set_journal_aside(self, journal: str) -> None:
        """Move a replacement that is damaged to where damaged checkpoints are."""
        os.rename(journal, self.aside_of_journal(journal))
        sync_directory(self._meta, durable=self._durable)

    def aside_of_journal(self, journal: str) -> str:
        """Return the folder that :meth:`set_journal_aside` makes of a replacement."""
        return os.path.join(self._meta, f"damaged-{os.path.basename(journal)}")

    def _delete_files(self, name: str, shards: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        final = os.path.join(self.directory, name + MANIFEST)
        manifest = read_manifest(final)
        # Moved, not removed: should we die now, the next writer reads there which files are left to delete.
        going = self.begin(name)
        if manifest is not None and manifest.name == name:
            os.rename(final, going.prefix + MANIFEST)
            sync_directory(going.folder, durable=self._durable)
        else:  # foreign, spoilt, or gone by hand: what lies there under the name
            files = dict.fromkeys((name + ".index", *shards().get(name, ())), 0)
            told = Manifest(name, step=0, sequence=0, created_at=0.0, files=files, index_crc32c=0, run_id="")
            self._write(going.prefix + MANIFEST, told.to_json())
            _unlink(final)
        sync_directory(self._meta, durable=self._durable)
        self._roll_back(going.folder)

    def _shards(self) -> dict[str, list[str]]:
        return shards_of(os.listdir(self.directory))

    # Inside ----------------------------------------------------------------------------------------------------------

    def _write(self, path: str, text: str) -> None:
        temporary = self._temporary("tmp")  # where the next writer sweeps
        write_file(path, text.encode(), temporary=temporary, durable=self._durable)

    def _temporary(self, kind: str) -> str:
        path = os.path.join(self._meta, f"{kind}-{uuid.uuid4().hex}")
        self._made.append(path)
        return path

    def _is_taken(self, name: str) -> bool:
        return any(_is_there(os.path.join(self.directory, name + end)) for end in (MANIFEST, ".index"))

    def _youngest_first(self, journals: Iterable[str]) -> list[str]:
        manifests = {path: manifest_in(path) for path in journals}
        return sorted(manifests, key=lambda path: _age(manifests[path]), reverse=True)

    def _recover(self, path: str) -> None:
        if not _is_journal(path):
            self._roll_back(path)
            return
        manifest = manifest_in(path)
        if manifest is not None and self._is_outdone(manifest):
            self._give_up(path)
        elif manifest is not None and why_damaged(manifest, sizes_inside(path)) is None:
            self._refuse_folders(manifest)
            self._finish_replacing(path, manifest)
        elif os.path.lexists(path):  # else it went when a younger one of its name was finished
            _log.warning("%s holds a replacement that is not whole; it is left for a person to look at.", path)

    def _refuse_folders(self, manifest: Manifest) -> None:
        # Before anything is moved: a folder does not give way to a file, and what is in it is not ours.
        for file in (*manifest.files, manifest.name + MANIFEST):
            path = os.path.join(self.directory, file)
            if os.path.isdir(path) and not os.path.islink(path):
                raise IsADirectoryError(errno.EISDIR, "Is a directory", path)

    def _finish_replacing(self, journal: str, manifest: Manifest) -> None:
        self._drop_journals(manifest.name, but=journal)  # an earlier replacement that could not be finished
        self._delete_files(manifest.name, self._shards)
        for file in (*_index_last(manifest.files), manifest.name + MANIFEST):
            link_or_copy(os.path.join(journal, file), os.path.join(self.directory, file), durable=self._durable)
        sync_directory(self.directory, durable=self._durable)
        self._give_up(journal)

    def _give_up(self, journal: str) -> None:
        # Under a temporary name: what is half removed is no replacement that a person would have to look at.
        done = self._temporary("tmp")
        os.rename(journal, done)
        sync_directory(self._meta, durable=self._durable)
        self._roll_back(done)

    def _is_outdone(self, manifest: Manifest) -> bool:
        """Say whether a younger checkpoint of the name is whole: it was saved after a replacement that had failed."""
        final = read_manifest(os.path.join(self.directory, manifest.name + MANIFEST))
        return (
            final is not None and _age(final) > _age(manifest) and why_damaged(final, sizes_in(self.directory)) is None
        )

    def _drop_journals(self, name: str, but: str | None) -> None:
        for journal in self.journals():
            manifest = manifest_in(journal)
            if journal != but and manifest is not None and manifest.name == name:
                self._give_up(journal)

    def _roll_back(self, path: str) -> None:
        """Remove a temporary file or folder, and what it tells of a checkpoint that is not committed."""
        if not stat.S_ISDIR(_mode_of(path) or 0):
            _unlink(path)  # of a link, no more than the link: what it leads to is not ours
            return
        # The manifest is written before anything is moved, so it tells what may have been.
        told = [file for file in os.listdir(path) if file.endswith(MANIFEST)]
        manifest = _manifest_at(os.path.join(path, told[0])) if told else None
        if manifest is not None:
            final = os.path.join(self.directory, manifest.name + MANIFEST)
            committed = _manifest_at(final)
            moved = [file for file in _index_last(manifest.files) if not _is_there(os.path.join(path, file))]
            if _is_there(final):
                moved = [file for file in moved if committed is not None and file not in committed.files]
            for file in moved[::-1]:  # the index first: without it TensorFlow sees nothing
                _unlink(os.path.join(self.directory, file))
            if moved:  # before the manifest: nothing else tells of them
                sync_directory(self.directory, durable=self._durable)
            # Before the rest of the folder: a file that is missing in it would be taken for moved the next time.
            _unlink(os.path.join(path, manifest.name + MANIFEST))
            if len(moved) < len(manifest.files):
                sync_directory(path, durable=self._durable)
        shutil.rmtree(path, ignore_errors=True)


def _index_last(files: Mapping[str, int]) -> list[str]:
    # TensorFlow takes a checkpoint for there when its index is.
    return sorted(files, key=lambda file: (file.endswith(".index"), file))


def _age(manifest: Manifest | None) -> tuple[int, float]:
    # A replacement that failed half way may have the same sequence as the save after it.
    return (-1, 0.0) if manifest is None else (manifest.sequence, manifest.created_at)


def _is_journal(path: str) -> bool:
    return os.path.basename(path).startswith("replace-")


def _is_there(path: str) -> bool:
    return _mode_of(path) is not None


def _mode_of(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:  # and nothing else: a disk that does not answer has not said no
        return None


def _manifest_at(path: str) -> Manifest | None:
    """Return a manifest as ``read_manifest`` does, but let a disk that fails be told, or what it has would be lost."""
    if not stat.S_ISREG(_mode_of(path) or 0):
        return None
    try:
        with open(path, "rb") as opened:
            return Manifest.read(opened)
    except (FileNotFoundError, ManifestError):
        return None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError):
        pass  # gone already, or not ours
