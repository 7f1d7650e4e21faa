"""Warm memory is used again, and goes back to the system."""

from __future__ import annotations

import pytest

from ckptkit import staging
from ckptkit.staging import PIECE_BYTES, StagingBuffers


def resident() -> int:
    """Bytes of this process that lie in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_a_piece_begins_at_a_page() -> None:
    piece = StagingBuffers().take()
    assert (piece.nbytes, piece.ctypes.data % 4096, piece.flags.writeable) == (PIECE_BYTES, 0, True)


def test_a_piece_that_was_given_back_is_taken_again() -> None:
    buffers = StagingBuffers()
    piece = buffers.take()
    place = piece.ctypes.data
    buffers.give_back(piece)
    assert buffers.take().ctypes.data == place
    assert buffers.size_bytes == PIECE_BYTES


def test_idle_memory_goes_back_to_the_system() -> None:
    buffers = StagingBuffers()
    before = resident()
    pieces = [buffers.take() for _ in range(8)]
    for piece in pieces:
        piece[:] = 1
    assert resident() - before > 7 * PIECE_BYTES
    for piece in pieces:
        buffers.give_back(piece)
    del piece
    pieces.clear()
    buffers.close()
    assert buffers.size_bytes == 0
    assert resident() - before < 2 * PIECE_BYTES


def test_memory_that_is_out_stays() -> None:
    buffers = StagingBuffers()
    piece = buffers.take()
    buffers.close()
    assert buffers.size_bytes == PIECE_BYTES
    buffers.give_back(piece)


def test_no_memory_is_an_error_and_not_a_piece_that_is_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError(12, "Cannot allocate memory")

    buffers = StagingBuffers()
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_fresh", none)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            buffers.take()
    assert buffers.size_bytes == 0
    assert buffers.take().nbytes == PIECE_BYTES


def test_the_memory_can_be_used_again_after_it_was_closed() -> None:
    buffers = StagingBuffers()
    buffers.give_back(buffers.take())
    buffers.close()
    assert buffers.take().nbytes == PIECE_BYTES
