"""File operations that survive power loss when asked to: fsync of files and folders, replacement in one step.

write_file("run/x.json", b"{}", temporary="run/x.tmp")  # write, fsync, rename, fsync of the folder
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

__all__ = ["link_or_copy", "make_directory", "sync_directory", "sync_file", "sync_tree", "write_file"]


def make_directory(path: str, *, durable: bool = True) -> None:
    """Make a folder and those above it that are missing, so that power loss does not undo it."""
    if not path or os.path.isdir(path):
        return
    above = os.path.dirname(os.path.abspath(path))
    make_directory(above, durable=durable)
    os.makedirs(path, exist_ok=True)
    try:
        sync_directory(above, durable=durable)
    except BaseException:
        with suppress(OSError):  # it is no longer empty: somebody else's
            os.rmdir(path)  # else the next one to want it would take it for flushed
        raise


def sync_file(path: str, *, durable: bool = True) -> None:
    """Flush a file's content to the disk."""
    _sync(path, os.O_RDONLY, durable)


def sync_directory(path: str, *, durable: bool = True) -> None:
    """Flush a folder's entries to the disk: without it a rename may be undone by power loss."""
    _sync(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0), durable)


def sync_tree(path: str) -> None:
    """Flush a file, or a folder with all that is in it; a link to nowhere has nothing to flush."""
    if not os.path.isdir(path):
        sync_file(path)
        return
    for at, _, files in os.walk(path):
        for file in files:
            if os.path.isfile(os.path.join(at, file)):
                sync_file(os.path.join(at, file))
        sync_directory(at)


def write_file(path: str, content: bytes, *, temporary: str, durable: bool = True) -> None:
    """Write a file whole or not at all, by way of a temporary one: readers see the old content or the new one."""
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".", durable=durable)


def link_or_copy(source: str, target: str, *, durable: bool = True) -> None:
    """Give a file a second name, whatever has it now; copy it where the file system has no hard links."""
    if os.path.lexists(target):
        os.unlink(target)  # a copy would go through a link that stands there, to wherever it leads
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        sync_file(target, durable=durable)


def _sync(path: str, flags: int, durable: bool) -> None:
    if not durable:
        return
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
