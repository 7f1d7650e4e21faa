"""A file comes out as it was written, whatever the file system says to direct I/O."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import Any

import numpy as np
import pytest

from ckptkit.data_file import DataFile

pytestmark = pytest.mark.core

DIRECT = getattr(os, "O_DIRECT", 0)
MB = 1 << 20


def some(size: int, *, shift: int = 0) -> memoryview:
    """Random bytes in memory that begins at a page, or so many bytes behind one."""
    memory = mmap.mmap(-1, size + shift + 1)
    memory[shift : shift + size] = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    return memoryview(memory)[shift : shift + size]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Every write: whether it was a direct one, and how many bytes it took."""
    seen: list[tuple[bool, int]] = []
    pwrite = os.pwrite

    def watched(descriptor: int, block: memoryview, offset: int) -> int:
        done = pwrite(descriptor, block, offset)
        seen.append((bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & DIRECT), done))
        return done

    monkeypatch.setattr(os, "pwrite", watched)
    return seen


@pytest.mark.parametrize("sizes", [[], [0], [1], [4096], [MB], [MB + 1], [4 * MB, 2 * MB, 5000], [MB, 3, MB]], ids=str)
def test_a_file_holds_its_blocks_one_behind_the_other(sizes: list[int], tmp_path: Any) -> None:
    blocks = [some(size) for size in sizes]
    with DataFile(str(tmp_path / "x")) as file:
        for block in blocks:
            file.write(block)
    assert (tmp_path / "x").read_bytes() == b"".join(blocks)


def test_large_blocks_go_past_the_page_cache_and_what_is_left_over_through_it(tmp_path: Any, writes: Any) -> None:
    with DataFile(str(tmp_path / "x")) as file:
        file.write(some(2 * MB))
        file.write(some(MB + 10))
    assert writes == [(True, 2 * MB), (True, MB), (False, 10)]


def test_small_blocks_and_those_at_odd_places_go_through_the_page_cache(tmp_path: Any, writes: Any) -> None:
    with DataFile(str(tmp_path / "x")) as file:
        file.write(some(4096))
        file.write(some(10))
        file.write(some(MB))
    assert writes == [(False, 4096), (False, 10), (False, MB)]


def test_memory_that_does_not_begin_at_a_page_is_written_all_the_same(tmp_path: Any) -> None:
    block = some(2 * MB, shift=8)
    with DataFile(str(tmp_path / "x")) as file:
        file.write(block)
    assert (tmp_path / "x").read_bytes() == block


def test_a_file_system_without_direct_io_is_written_through_the_page_cache(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = fcntl.fcntl

    def refusing(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return change(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    block = some(2 * MB)
    with DataFile(str(tmp_path / "x")) as file:
        file.write(block)
    assert (tmp_path / "x").read_bytes() == block


def test_a_disk_that_takes_a_part_of_a_block_gets_the_rest(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, block, at: pwrite(descriptor, bytes(block[:300_001]), at))
    block = some(2 * MB)
    with DataFile(str(tmp_path / "x")) as file:
        file.write(block)
    assert (tmp_path / "x").read_bytes() == block


@pytest.mark.parametrize("size", [10, 2 * MB])
def test_a_full_disk_is_an_error(size: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"), DataFile(str(tmp_path / "x")) as file:
        file.write(some(size))


def test_what_was_there_is_replaced(tmp_path: Any) -> None:
    (tmp_path / "x").write_bytes(b"old and long")
    with DataFile(str(tmp_path / "x")) as file:
        file.write(memoryview(b"new"))
    assert (tmp_path / "x").read_bytes() == b"new"
