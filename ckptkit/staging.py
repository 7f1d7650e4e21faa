"""Host memory that is kept warm from save to save, in pieces of one size.

    buffers = StagingBuffers()
    piece = buffers.take(limit_bytes=1 << 30)   # waits while a gigabyte is out
    buffers.give_back(piece)                    # stays warm for the next who takes one
    buffers.close()                             # back to the system

The first touch of fresh memory costs more than all else in a save, so what was touched once is used again.
"""

from __future__ import annotations

import mmap
import threading
from typing import Any, TypeAlias

import numpy as np

__all__ = ["PIECE_BYTES", "Piece", "StagingBuffers"]

PIECE_BYTES = 16 << 20

# A row of PIECE_BYTES bytes that begins at a page: (PIECE_BYTES,) uint8.
Piece: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


class StagingBuffers:
    """Pieces of memory to take and to give back. Several threads may do so at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[Piece] = []
        self._out = 0

    @property
    def size_bytes(self) -> int:
        """Memory that is held, out and idle."""
        with self._changed:
            return (len(self._idle) + self._out) * PIECE_BYTES

    def take(self, limit_bytes: int) -> Piece:
        """Return a piece; wait first while ``limit_bytes`` or more are out. There is always one to be had."""
        most = max(1, limit_bytes // PIECE_BYTES)
        with self._changed:
            self._changed.wait_for(lambda: self._out < most)
            self._out += 1
            if self._idle:
                return self._idle.pop()
        try:
            return _fresh()
        except BaseException:
            self._count_back()
            raise

    def give_back(self, piece: Piece) -> None:
        """Take a piece back, for another to take."""
        with self._changed:
            self._idle.append(piece)
            self._out -= 1
            self._changed.notify_all()

    def trim(self, keep_bytes: int) -> None:
        """Return idle memory to the system until no more than ``keep_bytes`` are held."""
        with self._changed:
            keep = max(0, keep_bytes // PIECE_BYTES - self._out)
            del self._idle[keep:]

    def close(self) -> None:
        """Return all idle memory to the system; what is out follows as soon as it is let go."""
        self.trim(0)

    def _count_back(self) -> None:
        with self._changed:
            self._out -= 1
            self._changed.notify_all()


def _fresh() -> Piece:
    memory = mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel built without them: small pages do as well
    return np.frombuffer(memory, np.uint8)
