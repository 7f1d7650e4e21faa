"""What is appended is in the file with its checksum, what was copied may change, and an error reaches who appends."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from ckptkit.checksums import crc32c
from ckptkit.data_file import DataFile
from ckptkit.shard_stream import ShardStream
from ckptkit.staging import PIECE_BYTES, StagingBuffers

MB = 1 << 20


def some(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


def stream_all(path: Any, buffers: StagingBuffers, tensors: Iterable[np.ndarray[Any, Any]]) -> None:
    with ShardStream(str(path), buffers) as stream:
        for tensor in tensors:
            stream.append(tensor)


@pytest.fixture
def buffers() -> StagingBuffers:
    return StagingBuffers()


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1],
        [0, 3, 0, 5, 0],
        [MB - 1],
        [MB],
        [3, MB + 1, 5, 2 * MB, 7],
        [MB // 2] * 50,
        [3 * PIECE_BYTES + 7, 5],
        [1000] * 300,
    ],
    ids=lambda sizes: f"{len(sizes)}x{sum(sizes)}",
)
@pytest.mark.parametrize("threads", [True, False], ids=["with a thread", "without"])
def test_every_tensor_is_in_the_file_where_it_was_said_with_its_checksum(
    sizes: list[int], threads: bool, buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not threads:  # as when the interpreter goes down
        monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("shutdown")))
    tensors = [some(size) for size in sizes]
    with ShardStream(str(tmp_path / "x"), buffers) as stream:
        places = [stream.append(tensor if number % 2 else tensor.tobytes()) for number, tensor in enumerate(tensors)]
    content = (tmp_path / "x").read_bytes()
    end = 0
    for (place, checksum), tensor in zip(places, tensors):
        assert content[place : place + tensor.nbytes] == tensor.tobytes()
        assert checksum == crc32c(tensor)
        assert end <= place < end + 4096  # a large one begins where its pages in memory are pages of the file
        end = place + tensor.nbytes
    assert len(content) == end


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing goes to the disk before the test sets it."""
    opened, write = threading.Event(), DataFile.write
    monkeypatch.setattr(DataFile, "write", lambda file, block: (opened.wait(60), write(file, block))[1])
    return opened


def test_what_is_small_may_change_before_it_is_written(
    buffers: StagingBuffers, tmp_path: Any, disk: threading.Event
) -> None:
    tensor = some(MB - 1)
    before = tensor.tobytes()
    with ShardStream(str(tmp_path / "x"), buffers) as stream:
        stream.append(tensor)
        tensor[:] = 0
        disk.set()
    assert (tmp_path / "x").read_bytes() == before


def test_who_has_four_pieces_on_their_way_waits_until_one_is_written(
    buffers: StagingBuffers, tmp_path: Any, disk: threading.Event
) -> None:
    appended = threading.Event()
    small = [some(MB // 2)] * (6 * PIECE_BYTES // (MB // 2))
    other = threading.Thread(target=lambda: (stream_all(tmp_path / "x", buffers, small), appended.set()))
    other.start()
    assert not appended.wait(0.1)
    assert buffers.size_bytes <= 4 * PIECE_BYTES
    disk.set()
    assert appended.wait(60)
    other.join()
    assert buffers.size_bytes <= 4 * PIECE_BYTES


def test_what_is_large_takes_no_memory_and_does_not_wait_for_the_disk(
    buffers: StagingBuffers, tmp_path: Any, disk: threading.Event
) -> None:
    tensor = some(2 * PIECE_BYTES)
    with ShardStream(str(tmp_path / "x"), buffers) as stream:
        for _ in range(12):
            stream.append(tensor)  # would never return
        assert buffers.size_bytes <= PIECE_BYTES
        disk.set()
    assert (tmp_path / "x").stat().st_size >= 24 * PIECE_BYTES


def test_what_is_large_is_let_go_when_it_is_written(buffers: StagingBuffers, tmp_path: Any) -> None:
    gone: list[int] = []
    with ShardStream(str(tmp_path / "x"), buffers) as stream:
        for number in range(4):
            tensor = some(MB)
            weakref.finalize(tensor, gone.append, number)
            stream.append(tensor)
            del tensor
        deadline = time.monotonic() + 60
        while len(gone) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gone == [0, 1, 2, 3]


def test_a_large_tensor_goes_past_the_page_cache_from_where_it_lies(
    buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def watched(descriptor: int, block: memoryview, offset: int) -> int:
        seen.append((np.frombuffer(block, np.uint8).ctypes.data, len(block)))
        return pwrite(descriptor, block, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    memory = np.zeros(4 * MB, np.uint8)
    for shift in (0, 64, 4000):
        tensor = memory[shift : shift + 2 * MB + 100]
        tensor[:] = some(len(tensor))
        seen.clear()
        with ShardStream(str(tmp_path / "x"), buffers) as stream:
            stream.append(some(10))
            place, _ = stream.append(tensor)
        start = -(-tensor.ctypes.data // 4096) * 4096
        assert [each for each in seen if each[1] >= MB] == [
            (start, (tensor.ctypes.data + len(tensor) - start) // 4096 * 4096)
        ]
        assert (tmp_path / "x").read_bytes()[place:] == tensor.tobytes()


def test_the_memory_is_given_back_when_the_stream_is_closed(buffers: StagingBuffers, tmp_path: Any) -> None:
    for _ in range(6):  # more than there are pieces
        stream_all(tmp_path / "x", buffers, [some(10), some(MB), some(10)])
    assert buffers.size_bytes == PIECE_BYTES


@pytest.mark.parametrize("pieces", [1, 300], ids=["when it is closed", "at a later append"])
def test_a_disk_that_fails_is_an_error_once_and_the_memory_is_given_back(
    pieces: int, buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        stream_all(tmp_path / "x", buffers, [some(MB // 2)] * pieces)
    held = buffers.size_bytes
    buffers.close()
    assert held > 0
    assert buffers.size_bytes == 0  # else a piece would still be out


def test_after_an_error_nothing_more_is_written(
    buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing_once(*_: Any) -> int:
        calls.append(1)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", failing_once)
    with pytest.raises(OSError, match="Input/output"):
        stream_all(tmp_path / "x", buffers, [some(MB)] * 20)
    assert len(calls) == 1


def test_an_error_of_the_caller_is_the_one_to_see_and_leaves_no_thread(buffers: StagingBuffers, tmp_path: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        stream_all(tmp_path / "x", buffers, (some(10 // number) for number in (1, 0)))
    assert not [thread for thread in threading.enumerate() if thread.name == "ckptkit-shard"]
