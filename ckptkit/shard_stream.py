"""One data shard on its way to the disk: laid out and checksummed by the caller, written by a thread beside it.

    with ShardStream("run/ckpt-1.data-00000-of-00001", buffers) as stream:
        offset, checksum = stream.append(array)
    # closed: everything is in the file

What is small is copied into pieces of warm memory (see ``staging.py``), and may change as soon as it was appended. What
is large is written from where it lies, and must not change before the stream is closed: a copy would take as long as
the update that it spares. Its place in the file is chosen so that its pages in memory are pages of the file, as direct
I/O wants them; what sticks out at its ends is copied.
"""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType
from typing import Any

import numpy as np

from ckptkit.checksums import crc32c
from ckptkit.data_file import DataFile
from ckptkit.dtypes import bytes_of
from ckptkit.staging import PIECE_BYTES, Piece, StagingBuffers

__all__ = ["ShardStream"]

_LARGE = 1 << 20  # bytes of a tensor that is not copied
_PAGE = 4096
_AT_ONCE = 4  # pieces, enough to keep copying and writing busy
_SCRAP = 1 << 16  # less than that is not worth a piece


class ShardStream:
    """A shard being written.

    Args:
        path: Its file; what is there is replaced.
        buffers: Where its pieces of memory come from.

    Attributes:
        staged_secs: Time that copying and checksumming took, waiting for pieces included.
    """

    def __init__(self, path: str, buffers: StagingBuffers) -> None:
        self.staged_secs = 0.0
        self._buffers = buffers
        self._room = threading.Semaphore(_AT_ONCE)  # a shard's own: it cannot wait for what another one holds
        self._size = 0
        self._piece: Piece | None = None
        self._filled = 0
        self._file = DataFile(path)
        self._error: BaseException | None = None
        self._blocks: queue.SimpleQueue[tuple[memoryview, Piece | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(target=self._drain, name="ckptkit-shard")
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is going down and starts no thread any more
            self._thread = None

    def __enter__(self) -> ShardStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._send_piece()
        finally:
            if self._piece is not None:
                self._buffers.give_back(self._piece)
            if self._thread is not None:
                self._blocks.put(None)
                self._thread.join()
            self._file.close()
        if kind is None:
            self._raise_error()

    def append(self, content: np.ndarray[Any, Any] | bytes) -> tuple[int, int]:
        """Add a tensor's bytes to the stream.

        Returns:
            Where in the file they are, and their CRC-32C.

        Raises:
            OSError: What came before could not be written.
        """
        self._raise_error()
        began = time.perf_counter()
        view = bytes_of(content) if isinstance(content, np.ndarray) else memoryview(content)
        checksum = crc32c(view)
        if len(view) >= _LARGE and isinstance(content, np.ndarray):
            offset = self._append_large(view, content.ctypes.data)
        else:
            offset = self._size
            self._copy(view)
        self.staged_secs += time.perf_counter() - began
        return offset, checksum

    def _append_large(self, view: memoryview, address: int) -> int:
        head = -address % _PAGE
        self._copy(memoryview(bytes(-(self._size + head) % _PAGE)))
        offset = self._size
        self._copy(view[:head])
        whole = (len(view) - head) // _PAGE * _PAGE
        self._send_piece()
        self._send(view[head : head + whole], None)
        self._size += whole
        self._copy(view[head + whole :])
        return offset

    def _copy(self, content: memoryview) -> None:
        at = 0
        while at < len(content):
            if self._piece is None:
                self._room.acquire()
                self._piece, self._filled = self._buffers.take(), 0
            count = min(len(content) - at, PIECE_BYTES - self._filled)
            self._piece[self._filled : self._filled + count] = content[at : at + count]
            at += count
            self._filled += count
            self._size += count
            if self._filled == PIECE_BYTES:
                self._send_piece()

    def _send_piece(self) -> None:
        if self._piece is None:
            return
        piece, filled = self._piece, self._filled
        if filled >= _SCRAP:
            self._piece = None
            self._send(piece.data[:filled], piece)
        else:
            self._filled = 0
            self._send(memoryview(piece.data[:filled].tobytes()), None)

    def _send(self, block: memoryview, piece: Piece | None) -> None:
        if self._thread is not None:
            self._blocks.put((block, piece))
        else:
            self._write(block, piece)

    def _drain(self) -> None:
        while (work := self._blocks.get()) is not None:
            self._write(*work)
            del work  # it may hold a tensor: let it go before waiting for the next

    def _write(self, block: memoryview, piece: Piece | None) -> None:
        try:
            if self._error is None:
                self._file.write(block)
        except BaseException as error:  # raised in the thread of who appends
            self._error = error
        finally:
            if piece is not None:
                self._buffers.give_back(piece)
                self._room.release()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
