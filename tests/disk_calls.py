"""The calls of this process that change what lies below a folder: each is handed to a hook before it is made.

    with hooked("/runs", hook):                 # hook(operation, call) makes the call, or does not
        manager.save()

Calls that only read are not told: they leave the disk as it was. ``test_kill.py`` compares what is told with what
strace sees.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from contextlib import contextmanager
from dataclasses import dataclass

ON_A_PATH = ("fsync", "mkdir", "rmdir", "unlink")
ON_TWO_PATHS = {"link": "link", "rename": "rename", "replace": "rename"}
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Operation:
    """One call.

    Attributes:
        name: open, write, truncate, fsync, mkdir, rmdir, unlink, link or rename.
        path: What it is about, absolute.
        target: The other path of a link or a rename.
        flags: Those of an open.
        offset: Where a write begins, or the size of a truncate.
        content: What a write writes.
    """

    name: str
    path: str
    target: str = ""
    flags: int = 0
    offset: int = 0
    content: bytes = b""


def where(path, folder=None):
    """Return the absolute path that a call means by a path, which may be a descriptor or relative to one."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    start = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
    return os.path.normpath(os.path.join(start, os.fsdecode(path)))


@contextmanager
def hooked(root, hook):
    """Hand every call that changes something below a folder, or flushes it, to a hook."""
    root = os.path.realpath(root)
    real_open = open
    real = {
        name: getattr(os, name)
        for name in (*ON_A_PATH, *ON_TWO_PATHS, "open", "write", "pwrite", "ftruncate", "sendfile")
    }

    def is_below(path):
        return path == root or path.startswith(root + os.sep)

    def told(operation, call):
        return hook(operation, call) if is_below(operation.path) or is_below(operation.target) else call()

    def on_a_path(name):
        def function(path, *arguments, dir_fd=None):
            named = {} if dir_fd is None else {"dir_fd": dir_fd}
            return told(Operation(name, where(path, dir_fd)), lambda: real[name](path, *arguments, **named))

        return function

    def on_two_paths(name):
        def function(source, target):
            operation = Operation(ON_TWO_PATHS[name], where(source), where(target))
            return told(operation, lambda: real[name](source, target))

        return function

    def open_descriptor(path, flags, *arguments, dir_fd=None):
        def call():
            return real["open"](path, flags, *arguments, dir_fd=dir_fd)

        reads = flags & os.O_ACCMODE == os.O_RDONLY and not flags & (os.O_CREAT | os.O_TRUNC)
        return call() if reads else told(Operation("open", where(path, dir_fd), flags=flags), call)

    def write(descriptor, content):
        path = where(descriptor)
        at = os.lseek(descriptor, 0, os.SEEK_CUR) if is_below(path) else 0
        operation = Operation("write", path, offset=at, content=bytes(content))
        return told(operation, lambda: real["write"](descriptor, content))

    def pwrite(descriptor, content, offset):
        operation = Operation("write", where(descriptor), offset=offset, content=bytes(content))
        return told(operation, lambda: real["pwrite"](descriptor, content, offset))

    def ftruncate(descriptor, length):
        operation = Operation("truncate", where(descriptor), offset=length)
        return told(operation, lambda: real["ftruncate"](descriptor, length))

    def no_sendfile(*arguments):
        raise OSError(errno.ENOSYS, "what is copied goes through write() here")

    class File(io.FileIO):
        def write(self, content):
            operation = Operation("write", where(self.fileno()), offset=self.tell(), content=bytes(content))
            return told(operation, lambda: super(File, self).write(content))

    def open_file(file, mode="r", *arguments, **named):
        if isinstance(file, int) or not set(mode) & set("wax+") or not is_below(where(file)):
            return real_open(file, mode, *arguments, **named)
        if (mode, arguments, named) != ("wb", (), {}):
            raise NotImplementedError(f"{file} is opened as {mode!r}, and hooked() knows 'wb' alone.")
        return told(Operation("open", where(file), flags=NEW_FILE), lambda: io.BufferedWriter(File(file, "w")))

    try:
        for name in ON_A_PATH:
            setattr(os, name, on_a_path(name))
        for name in ON_TWO_PATHS:
            setattr(os, name, on_two_paths(name))
        os.open, os.write, os.pwrite, os.ftruncate = open_descriptor, write, pwrite, ftruncate
        os.sendfile, builtins.open, io.open = no_sendfile, open_file, open_file
        yield
    finally:
        builtins.open = io.open = real_open
        for name, function in real.items():
            setattr(os, name, function)
