"""One data shard on its way to the disk: copied by the caller, checksummed and written by a thread beside it.

    with ShardStream("run/ckpt-1.data-00000-of-00001", buffers) as stream:
        at = stream.append(array)               # copied: the array may change or go
    stream.checksums[at]                        # once everything is in the file

A tensor of any size goes through pieces of warm memory (see ``staging.py``). How many of them may be on their way at
once is the caller's choice: as many as there are bytes lets him go on at the speed of memory, a few let him wait for
the disk and cost no memory.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ckptkit.checksums import crc32c
from ckptkit.data_file import DataFile
from ckptkit.dtypes import bytes_of
from ckptkit.staging import PIECE_BYTES, Piece, StagingBuffers

__all__ = ["ShardStream"]

_FEW = 4 * PIECE_BYTES  # enough to keep copying, checksumming and writing busy


class ShardStream:
    """A shard being written.

    Args:
        path: Its file; what is there is replaced.
        buffers: Where its pieces of memory come from.
        limit_bytes: How much of them may be out at once; never less than a few.

    Attributes:
        checksums: CRC-32C of what was appended, by offset; complete when the stream is closed.
        staged_secs: Time that copying took, waiting for pieces included.
    """

    def __init__(self, path: str, buffers: StagingBuffers, *, limit_bytes: int | None = None) -> None:
        self.checksums: dict[int, int] = {}
        self.staged_secs = 0.0
        self._buffers = buffers
        self._limit = max(limit_bytes or 0, _FEW)
        self._size = 0
        self._piece: Piece | None = None
        self._filled = 0
        self._parts: list[tuple[int, int, int]] = []  # offset of the tensor, and where in the piece its bytes are
        self._file = DataFile(path)
        self._error: BaseException | None = None
        self._full: queue.SimpleQueue[tuple[Piece, int, list[tuple[int, int, int]]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(target=self._drain, name="ckptkit-shard")
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is going down and starts no thread any more
            self._thread = None

    def __enter__(self) -> ShardStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._piece is not None:
                self._send()
        finally:
            if self._thread is not None:
                self._full.put(None)
                self._thread.join()
            self._file.close()
        if kind is None:
            self._raise_error()

    def append(self, content: np.ndarray[Any, Any] | bytes) -> int:
        """Copy a tensor's bytes into the stream.

        Returns:
            Where in the file they will be. Of a tensor without bytes the checksum is another's, or none.

        Raises:
            OSError: What came before could not be written.
        """
        began = time.perf_counter()
        offset = self._size
        self.checksums[offset] = 0
        self._fill(bytes_of(content) if isinstance(content, np.ndarray) else memoryview(content), offset)
        self.staged_secs += time.perf_counter() - began
        return offset

    def _fill(self, content: memoryview, offset: int) -> None:
        at = 0
        while at < len(content):
            if self._piece is None:
                self._raise_error()
                self._piece, self._filled, self._parts = self._buffers.take(self._limit), 0, []
            count = min(len(content) - at, PIECE_BYTES - self._filled)
            self._piece[self._filled : self._filled + count] = content[at : at + count]
            self._parts.append((offset, self._filled, self._filled + count))
            at += count
            self._filled += count
            self._size += count
            if self._filled == PIECE_BYTES:
                self._send()

    def _send(self) -> None:
        assert self._piece is not None
        piece, self._piece = self._piece, None
        if self._thread is not None:
            self._full.put((piece, self._filled, self._parts))
        else:
            self._write(piece, self._filled, self._parts)

    def _drain(self) -> None:
        while (work := self._full.get()) is not None:
            self._write(*work)

    def _write(self, piece: Piece, filled: int, parts: Sequence[tuple[int, int, int]]) -> None:
        try:
            if self._error is None:
                for offset, start, stop in parts:
                    self.checksums[offset] = crc32c(piece.data[start:stop], self.checksums[offset])
                self._file.write(piece.data[:filled])
        except BaseException as error:  # raised in the thread of who appends
            self._error = error
        finally:
            self._buffers.give_back(piece)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
