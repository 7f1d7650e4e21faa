"""Host memory that is kept warm from save to save, in pieces of one size.

    buffers = StagingBuffers()
    piece = buffers.take()
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
        self._lock = threading.Lock()
        self._idle: list[Piece] = []
        self._out = 0

    @property
    def size_bytes(self) -> int:
        """Memory that is held, out and idle."""
        with self._lock:
            return (len(self._idle) + self._out) * PIECE_BYTES

    def take(self) -> Piece:
        """Return a piece, a warm one where there is one."""
        with self._lock:
            piece = self._idle.pop() if self._idle else _fresh()
            self._out += 1
            return piece

    def give_back(self, piece: Piece) -> None:
        """Take a piece back, for another to take."""
        with self._lock:
            self._idle.append(piece)
            self._out -= 1

    def close(self) -> None:
        """Return all idle memory to the system."""
        with self._lock:
            self._idle.clear()


def _fresh() -> Piece:
    memory = mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel built without them: small pages do as well
    return np.frombuffer(memory, np.uint8)
