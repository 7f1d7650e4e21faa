"""A new file that is written front to back in large blocks, past the page cache where the file system lets.

    with DataFile("run/ckpt-1.data-00000-of-00001") as file:
        file.write(block)                       # from memory that begins at a page
        file.write(last)                        # of any length

Direct I/O takes the bytes from where they are: no copy into the page cache, which costs a processor that is training,
and memory that nobody will read again soon. It wants memory, lengths and offsets in whole blocks of the disk; what is
none of these, and a file system that has no direct I/O, goes through the page cache. Nothing is durable before an
fsync.
"""

from __future__ import annotations

import errno
import fcntl
import os
from types import TracebackType

__all__ = ["DataFile"]

_BLOCK = 4096  # what every disk takes
_WORTH_IT = 1 << 20  # less than that is quicker by way of the cache
_DIRECT = getattr(os, "O_DIRECT", 0)


class DataFile:
    """A file being written.

    Args:
        path: Where; what is there is replaced.
    """

    def __init__(self, path: str) -> None:
        self._offset = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def write(self, block: memoryview) -> None:
        """Write a block behind the last one."""
        whole = len(block) // _BLOCK * _BLOCK
        if _DIRECT and whole >= _WORTH_IT and self._offset % _BLOCK == 0:
            block = block[self._write_directly(block[:whole]) :]
        self._write(block)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _write_directly(self, block: memoryview) -> int:
        """Return how much of a block could be written so."""
        before = self._offset
        try:
            self._set_direct(True)
            self._write(block)
        except OSError as error:
            if error.errno != errno.EINVAL:  # not this file system, or not from this memory
                raise
        finally:
            self._set_direct(False)
        return self._offset - before

    def _write(self, block: memoryview) -> None:
        while block:
            done = os.pwrite(self._descriptor, block, self._offset)
            self._offset += done
            block = block[done:]

    def _set_direct(self, direct: bool) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
