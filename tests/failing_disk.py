"""A disk that refuses: the n-th operation that ckptkit asks of the system fails, or from then on every one that writes.

disk = FailingDisk(monkeypatch)
with disk.failing(at=7, number=errno.ENOSPC):
    manager.save()                      # disk.failed says which operation it was, or "" if there were not so many
"""

import builtins
import errno
import fcntl
import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import ckptkit

NUMBERS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT")}
MODULES = (  # all that a save goes through
    "bundle_writer",
    "data_file",
    "durability",
    "free_space",
    "held",
    "listing",
    "lock",
    "saving",
    "shard_stream",
    "staging",
    "state_file",
    "store",
)
NOT_THE_DISKS = {"fspath", "getpid", "register_at_fork"}
WRITES = {"fsync", "ftruncate", "link", "makedirs", "mkdir", "pwrite", "rename", "replace", "rmdir", "rmtree", "unlink"}
OWNERS = {"os": os, "shutil": shutil, "fcntl": fcntl}


def operations():
    """Return every function of the system that the sources of a save call, as (owner, name)."""
    package = Path(ckptkit.__file__).parent
    found = {("os", "mkdir"), ("os", "lstat")}  # what others call for us: os.makedirs, os.path.lexists
    for module in MODULES:
        found |= set(re.findall(r"\b(os|shutil|fcntl)\.([a-z_0-9]+)\(", (package / f"{module}.py").read_text()))
    return sorted((owner, name) for owner, name in found if name not in NOT_THE_DISKS)


class FailingDisk:
    """Stands between ckptkit and the system, and lets everything pass until it is told to fail."""

    def __init__(self, monkeypatch):
        self.failed = ""
        self._left, self._number, self._lasting = 0, 0, False
        for owner, name in operations():
            monkeypatch.setattr(OWNERS[owner], name, self._wrapped(name, getattr(OWNERS[owner], name)))
        self._open = builtins.open
        monkeypatch.setattr(builtins, "open", self._opened)

    @contextmanager
    def failing(self, at, number, lasting=False):
        """Let the operation ``at`` from now fail; if it is lasting, all that write after it as well."""
        self.failed, self._left, self._number, self._lasting = "", at, number, lasting
        try:
            yield
        finally:
            self._left = self._number = 0

    def _wrapped(self, name, real):
        def call(*arguments, **named):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if not self._number or not _is_ours(caller):
                return None if name == "fsync" else real(*arguments, **named)  # a busy disk takes seconds to flush
            if name == "close" and caller.startswith("ckptkit"):
                real(*arguments, **named)  # the descriptor is gone, whatever close() says
                return self.operation(name)
            self.operation(name, *arguments[:1])
            return None if name == "fsync" else real(*arguments, **named)

        return call

    def _opened(self, file, mode="r", *arguments, **named):
        if not self._number or not _is_ours(sys._getframe(1).f_globals.get("__name__", "")):
            return self._open(file, mode, *arguments, **named)
        purpose = "write" if "w" in mode else "list" if named.get("buffering") == 0 else "read"
        self.operation(f"open to {purpose}", file)
        opened = self._open(file, mode, *arguments, **named)
        return _File(opened, self) if "w" in mode else opened

    def operation(self, name, path=None):
        """Note an operation, and fail if it is its turn."""
        if not self._number:
            return
        self._left -= 1
        if self._left == 0 or (self._left < 0 and self._lasting and (name in WRITES or name.endswith("write"))):
            self.failed = self.failed or f"{name} {path if isinstance(path, str) else ''}"
            error = OSError(self._number, os.strerror(self._number))
            if isinstance(path, str):
                error.filename = path
            raise error


class _File:
    """A file whose content may not get to the disk."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        self._disk.operation("close")

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, content):
        self._disk.operation("write")
        return self._file.write(content)

    def flush(self):
        self._disk.operation("flush")
        return self._file.flush()


def _is_ours(module):
    return module.partition(".")[0] in ("ckptkit", "shutil", "os", "posixpath", "genericpath")
