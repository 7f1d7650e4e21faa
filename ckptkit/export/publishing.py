"""An artifact appears at its path in one step, whole and flushed, or not at all; an old one stays until then.

with replaced("export/model.keras", overwrite=True) as temporary:
    write(temporary)                      # export/.model.keras.tmp-1a2b3c4d/model.keras

export/
  model.keras
  .model.keras.tmp-1a2b3c4d/              what is being written, and a lock that says its process lives; what a killed
    lock  model.keras                     process has left is swept by the next save to the same path

Where the system can exchange two names in one step (Linux), there is always one whole artifact at the path. Elsewhere a
kill between two renames leaves a folder's old content as ``.NAME.old-…``; the next start puts it back.

Source: renameat2(2)
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ckptkit.durability import sync_directory, sync_file, sync_tree
from ckptkit.errors import ExportError

__all__ = ["put_back", "refuse_to_overwrite", "replaced"]

_LOCK = "lock"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def refuse_to_overwrite(path: str, overwrite: bool) -> None:
    """Refuse a path where something is.

    Raises:
        ExportError: Something is there, and it is not to be overwritten.
    """
    if not overwrite and os.path.lexists(path):
        raise ExportError(
            f"{path} is there already. Choose another path, or pass overwrite=True: what is there then stays until "
            "the new one is whole."
        )


@contextmanager
def replaced(path: str, *, overwrite: bool, note: str | None = None) -> Iterator[str]:
    """Give a name to write to, which takes the place of ``path`` in one step when all went well.

    Args:
        path: Where it goes.
        overwrite: Whether something that is there is replaced.
        note: Ending of a small file that may be written beside it, under the name with that ending, and goes along. It
            is never there for another file than it was written for.

    Raises:
        ExportError: Something is at ``path``, and is not to be overwritten.
    """
    path = os.path.abspath(path)
    put_back(path)
    refuse_to_overwrite(path, overwrite)
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    with _workshop(parent, name) as folder:
        temporary = os.path.join(folder, name)
        yield temporary
        sync_tree(temporary)
        if note is not None and os.path.exists(temporary + note):
            sync_file(temporary + note)
        refuse_to_overwrite(path, overwrite)  # somebody may have been faster
        ours = os.stat(temporary).st_ino
        if note is not None and os.path.lexists(path + note):
            os.unlink(path + note)
        _swap(temporary, path)
        if note is not None and os.path.exists(temporary + note) and os.stat(path).st_ino == ours:
            os.replace(temporary + note, path + note)
        sync_directory(parent)


def put_back(path: str) -> None:
    """Put back an old artifact that a kill between two renames has left beside its path."""
    parent, name = os.path.split(os.path.abspath(path))
    if os.path.lexists(path) or not os.path.isdir(parent):
        return
    left = sorted(entry for entry in os.listdir(parent) if entry.startswith(f".{name}.old-"))
    if left:
        os.rename(os.path.join(parent, left[-1]), path)


def _swap(new: str, path: str) -> None:
    """Let the new one take the place; what was there is at ``new`` then, or gone."""
    is_file = not os.path.isdir(new) and (not os.path.isdir(path) or os.path.islink(path))
    if is_file or not os.path.lexists(path):
        os.replace(new, path)
    elif not _exchange(new, path):
        old = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.old-{uuid.uuid4().hex[:8]}")
        os.rename(path, old)
        try:
            os.rename(new, path)
        except BaseException:
            os.rename(old, path)
            raise
        os.rename(old, new)


def _exchange(one: str, other: str) -> bool:
    """Exchange two names in one step; False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system that cannot
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one, None, other)


@contextmanager
def _workshop(parent: str, name: str) -> Iterator[str]:
    """Sweep what killed processes have left, and give a hidden folder to write in, locked while this one lives."""
    for entry in os.listdir(parent):
        at = os.path.join(parent, entry)
        is_old = entry.startswith(f".{name}.old-") and os.path.lexists(os.path.join(parent, name))
        if is_old or (entry.startswith(f".{name}.tmp-") and _is_left(os.path.join(at, _LOCK))):
            shutil.rmtree(at, ignore_errors=True)
    token = uuid.uuid4().hex[:8]
    folder, unlocked = (os.path.join(parent, f".{name}.{kind}-{token}") for kind in ("tmp", "new"))
    os.mkdir(unlocked)
    try:
        with open(os.path.join(unlocked, _LOCK), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(unlocked, folder)  # locked before it has the name that is swept
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(unlocked, ignore_errors=True)


def _is_left(lock: str) -> bool:
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # it was being deleted
        return True
    except OSError:  # its process lives
        return False
    return True
