"""An artifact appears at its path in one step, whole and flushed, or not at all; an old one stays until then.

with replaced("export/model.keras", overwrite=True) as temporary:
    write(temporary)                      # beside the path, under a hidden name with the same ending

Where the system can exchange two names in one step (Linux), there is always one whole artifact at the path. Elsewhere a
kill between two renames leaves a folder's old content as ``.NAME.old-…``; the next start puts it back.

Source: renameat2(2)
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ckptkit.durability import sync_directory, sync_file
from ckptkit.errors import ExportError

__all__ = ["put_back", "refuse_to_overwrite", "replaced", "sync_tree"]

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
def replaced(path: str, *, overwrite: bool) -> Iterator[str]:
    """Give a name to write to, which takes the place of ``path`` in one step when all went well.

    Raises:
        ExportError: Something is at ``path``, and is not to be overwritten.
    """
    path = os.path.abspath(path)
    put_back(path)
    refuse_to_overwrite(path, overwrite)
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    stem, dot, suffix = name.partition(".")
    temporary = os.path.join(parent, f".{stem}.tmp-{uuid.uuid4().hex[:8]}{dot}{suffix}")
    try:
        yield temporary
        sync_tree(temporary)
        refuse_to_overwrite(path, overwrite)  # somebody may have been faster
        _swap(temporary, path)
        sync_directory(parent)
    finally:
        _remove(temporary)


def put_back(path: str) -> None:
    """Put back an old artifact that a kill between two renames has left beside its path."""
    parent, name = os.path.split(os.path.abspath(path))
    if os.path.lexists(path) or not os.path.isdir(parent):
        return
    left = sorted(entry for entry in os.listdir(parent) if entry.startswith(f".{name}.old-"))
    if left:
        os.rename(os.path.join(parent, left[-1]), path)


def sync_tree(path: str) -> None:
    """Flush a file, or a folder with all that is in it."""
    if not os.path.isdir(path):
        sync_file(path)
        return
    for at, _, files in os.walk(path):
        for file in files:
            sync_file(os.path.join(at, file))
        sync_directory(at)


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


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)
