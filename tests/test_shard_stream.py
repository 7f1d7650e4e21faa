"""What is appended is in the file with its checksum, what was copied may change, and an error reaches who appends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from ckptkit.checksums import crc32c
from ckptkit.data_file import DataFile
from ckptkit.shard_stream import ShardStream
from ckptkit.staging import PIECE_BYTES, StagingBuffers


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
    [[], [0], [1], [0, 3, 0, 5, 0], [PIECE_BYTES], [PIECE_BYTES - 1, 2], [3 * PIECE_BYTES + 7, 5], [1000] * 300],
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
    assert content == b"".join(tensor.tobytes() for tensor in tensors)
    for place, tensor in zip(places, tensors):
        assert content[place : place + tensor.nbytes] == tensor.tobytes()
        if tensor.nbytes:
            assert stream.checksums[place] == crc32c(tensor)


def test_what_was_appended_may_change_before_it_is_written(
    buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, write = threading.Event(), DataFile.write
    monkeypatch.setattr(DataFile, "write", lambda file, block: (go.wait(60), write(file, block)))
    tensor = some(2 * PIECE_BYTES)
    before = tensor.tobytes()
    with ShardStream(str(tmp_path / "x"), buffers) as stream:
        stream.append(tensor)
        tensor[:] = 0
        go.set()
    assert (tmp_path / "x").read_bytes() == before


def test_no_more_memory_is_out_than_was_said(buffers: StagingBuffers, tmp_path: Any) -> None:
    with ShardStream(str(tmp_path / "x"), buffers) as stream:
        for _ in range(12):
            stream.append(some(PIECE_BYTES))
    assert buffers.size_bytes <= 4 * PIECE_BYTES


def test_with_room_for_all_of_it_nothing_waits_for_the_disk(
    buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, write = threading.Event(), DataFile.write
    monkeypatch.setattr(DataFile, "write", lambda file, block: (go.wait(60), write(file, block)))
    with ShardStream(str(tmp_path / "x"), buffers, limit_bytes=12 * PIECE_BYTES) as stream:
        for _ in range(12):
            stream.append(some(PIECE_BYTES))  # would never return
        go.set()
    assert (tmp_path / "x").stat().st_size == 12 * PIECE_BYTES


@pytest.mark.parametrize("pieces", [1, 20], ids=["when it is closed", "at a later append"])
def test_a_disk_that_fails_is_an_error_once_and_the_memory_is_given_back(
    pieces: int, buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        stream_all(tmp_path / "x", buffers, [some(PIECE_BYTES)] * pieces)
    taken = [buffers.take(4 * PIECE_BYTES) for _ in range(4)]  # would wait for ever if one were still out
    assert len(taken) == 4


def test_after_an_error_nothing_more_is_written(
    buffers: StagingBuffers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing_once(*_: Any) -> int:
        calls.append(1)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", failing_once)
    with pytest.raises(OSError, match="Input/output"):
        stream_all(tmp_path / "x", buffers, [some(PIECE_BYTES)] * 20)
    assert len(calls) == 1


def test_an_error_of_the_caller_is_the_one_to_see_and_leaves_no_thread(buffers: StagingBuffers, tmp_path: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        stream_all(tmp_path / "x", buffers, (some(10 // number) for number in (1, 0)))
    assert not [thread for thread in threading.enumerate() if thread.name == "ckptkit-shard"]
