"""One writer at a time: a lock on a checkpoint directory that belongs to the process.

    lock = DirectoryLock(directory)      # DirectoryLockedError names the holder
    lock.release()

The lock is an flock, so the kernel frees it when the process dies, however it dies. Inside one process it is shared:
opening a directory again works, as it does with TensorFlow's manager.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
from typing import ClassVar

from ckptkit.errors import DirectoryLockedError

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """A share in this process's lock on a directory; the lock is freed with its last share."""

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _held: ClassVar[dict[str, tuple[int, int]]] = {}  # real path -> (descriptor, shares)
    _owner: ClassVar[int] = os.getpid()

    def __init__(self, directory: str, path: str) -> None:
        self._directory = directory
        # Of the folder alone: a link in the place of the file is not followed, for we write to what we open.
        self._key = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        self._pid = os.getpid()
        self._released = False
        with self._guard:
            self.forget_parents_locks()
            self._forget_a_deleted_file()
            descriptor, shares = self._held.get(self._key) or (self._acquire(), 0)
            self._held[self._key] = (descriptor, shares + 1)
            self._descriptor = descriptor
            self.is_first = shares == 0

    def release(self) -> None:
        """Give up this share; safe to call twice, and in a forked child, where it does nothing."""
        with self._guard:
            if self._released or self._pid != os.getpid():
                return
            self._released = True
            descriptor, shares = self._held.get(self._key, (-1, 0))
            if descriptor != self._descriptor:
                return  # the file was deleted, and the lock with it
            if shares > 1:
                self._held[self._key] = (descriptor, shares - 1)
            else:
                del self._held[self._key]
                os.close(descriptor)

    @classmethod
    def forget_parents_locks(cls) -> None:
        """Close the copies of the parent's locks in a forked child."""
        # After a fork the locks are the parent's: closing our copies of the descriptors does not free them.
        if cls._owner != os.getpid():
            for descriptor, _ in cls._held.values():
                os.close(descriptor)
            cls._held.clear()
            cls._owner = os.getpid()

    def _forget_a_deleted_file(self) -> None:
        # Somebody removed the directory and made it again: our lock is on a file that nobody else will ever open.
        held = self._held.get(self._key)
        if held is not None and not (
            os.path.exists(self._key) and os.path.samestat(os.fstat(held[0]), os.stat(self._key))
        ):
            os.close(self._held.pop(self._key)[0])

    def _acquire(self) -> int:
        descriptor = os.open(self._key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _take(self, descriptor: int) -> None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Is not a file", self._key)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 4096, 0)
            raise DirectoryLockedError(
                f"cannot write checkpoints to {self._directory}: {_describe(holder)} is writing there.\n"
                "Give each run a directory of its own, or stop the other one. Reading needs no lock: "
                "pass read_only=True to look on."
            ) from error
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(facts).encode(), 0)


def _describe(holder: bytes) -> str:
    try:
        facts = json.loads(holder)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started_at"]))
        return f"process {int(facts['pid'])} on {facts['host']} (since {since})"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError):
        return "another process"


# A child that outlives us, a data loader's worker say, must not keep the directory locked by its copy.
os.register_at_fork(after_in_child=DirectoryLock.forget_parents_locks)
