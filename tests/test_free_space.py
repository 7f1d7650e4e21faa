"""Room on a disk, asked before anything is written; a file system that does not know stops nobody."""

import errno
import os

import pytest

from ckptkit.free_space import free_bytes, require_room


@pytest.fixture
def told(monkeypatch):
    """Return a function that sets what file systems tell of themselves: blocks, free ones, and their size."""

    def tell(blocks, available, block_bytes):
        answer = os.statvfs_result((block_bytes, block_bytes, blocks, available, available, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path: answer)

    return tell


def test_the_space_of_a_real_disk_is_what_df_says(tmp_path):
    about = os.statvfs(tmp_path)
    assert 0 < free_bytes(str(tmp_path)) <= about.f_blocks * about.f_frsize


def test_what_only_root_may_use_does_not_count_as_free(monkeypatch):
    answer = os.statvfs_result((4096, 1024, 1000, 500, 300, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: answer)
    assert free_bytes("runs/a") == 300 * 1024


def test_what_does_not_fit_is_refused_with_both_sizes_and_the_folder(told):
    told(1000, 30_000, 4000)
    require_room("runs/a", 120_000_000)
    with pytest.raises(OSError, match=r"it needs 403 MB, and 120 MB are free; nothing was written: 'runs/a'") as caught:
        require_room("runs/a", 403_000_000)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("blocks", "block_bytes"), [(0, 4096), (0, 0), (1000, 0)])
def test_a_file_system_that_reports_nonsense_refuses_nothing(told, blocks, block_bytes):
    told(blocks, 0, block_bytes)
    assert free_bytes("runs/a") is None
    require_room("runs/a", 10**18)


def test_a_file_system_without_an_answer_refuses_nothing(tmp_path):
    assert free_bytes(str(tmp_path / "nowhere")) is None
    require_room(str(tmp_path / "nowhere"), 10**18)
