"""Files written whole or not at all, and flushed in the order that power loss asks for."""

from __future__ import annotations

import errno
import os

import pytest

from ckptkit.durability import link_or_copy, make_directory, sync_directory, sync_file, write_file


@pytest.fixture
def calls(monkeypatch):
    """The calls that reach the disk, in order, as (function, base name of the path)."""
    log = []

    def watch(name, path_of):
        real = getattr(os, name)

        def call(*arguments, **keywords):
            log.append((name, os.path.basename(path_of(*arguments))))
            return None if name == "fsync" else real(*arguments, **keywords)  # a busy disk takes seconds to flush

        monkeypatch.setattr(os, name, call)

    watch("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    watch("replace", lambda source, target: target)
    watch("link", lambda source, target: target)
    return log


def fail(monkeypatch, name, error):
    def call(*arguments, **keywords):
        raise error

    monkeypatch.setattr(os, name, call)


def test_a_file_is_flushed_before_it_gets_its_name_and_the_folder_after(tmp_path, calls):
    write_file(str(tmp_path / "x.json"), b"{}", temporary=str(tmp_path / "x.tmp"))
    assert calls == [("fsync", "x.tmp"), ("replace", "x.json"), ("fsync", tmp_path.name)]
    assert (tmp_path / "x.json").read_bytes() == b"{}"


def test_nothing_is_flushed_when_durability_was_not_asked_for(tmp_path, calls):
    path = str(tmp_path / "x")
    write_file(path, b"1", temporary=path + ".tmp", durable=False)
    sync_file(path, durable=False)
    sync_directory(str(tmp_path), durable=False)
    assert calls == [("replace", "x")]


def test_a_file_replaces_an_older_one_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a longer one")
    write_file(str(path), b"new", temporary=str(tmp_path / "t"), durable=False)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_without_a_folder_is_written_to_the_current_one(tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    write_file("x", b"here", temporary="t")
    assert (tmp_path / "x").read_bytes() == b"here"
    assert calls[-1] == ("fsync", tmp_path.name)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt("^C")], ids=repr)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, function, error):
    (tmp_path / "x").write_bytes(b"old")
    fail(monkeypatch, function, error)
    with pytest.raises(type(error), match=r"No space left|\^C"):
        write_file(str(tmp_path / "x"), b"new", temporary=str(tmp_path / "t"))
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_write_to_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        write_file(str(tmp_path / "gone" / "x"), b"", temporary=str(tmp_path / "gone" / "t"))


@pytest.mark.parametrize("sync", [sync_file, sync_directory], ids=["file", "directory"])
def test_a_flush_that_fails_is_told_and_leaves_no_descriptor_open(tmp_path, monkeypatch, sync):
    path = tmp_path / "x" if sync is sync_file else tmp_path
    (tmp_path / "x").touch()
    fail(monkeypatch, "fsync", OSError(errno.EIO, "Input/output error"))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Input/output error"):
        sync(str(path))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        sync_directory(str(tmp_path / "x"))


def test_a_folder_that_could_not_be_flushed_into_the_one_above_is_made_again(tmp_path, monkeypatch):
    path, flushed = str(tmp_path / "run" / "inside"), []
    with monkeypatch.context() as patch:
        fail(patch, "fsync", OSError(errno.EIO, "Input/output error"))
        with pytest.raises(OSError, match="Input/output error"):
            make_directory(path)
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    make_directory(path)
    assert flushed == [str(tmp_path), str(tmp_path / "run")]
    assert os.path.isdir(path)


def test_a_second_name_is_the_same_file(tmp_path, calls):
    (tmp_path / "a").write_bytes(b"1" * 100)
    link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")
    assert calls == [("link", "b")]


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_second_name_takes_the_place_of_a_link_and_does_not_go_through_it(tmp_path, monkeypatch, hard_links):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "elsewhere").write_bytes(b"precious")
    os.symlink(tmp_path / "elsewhere", tmp_path / "b")
    if not hard_links:
        fail(monkeypatch, "link", OSError(errno.EPERM, "Operation not permitted"))
    link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"), durable=False)
    assert not os.path.islink(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


@pytest.mark.parametrize("durable", [True, False])
def test_where_there_are_no_hard_links_a_flushed_copy_is_made(tmp_path, monkeypatch, calls, durable):
    (tmp_path / "a").write_bytes(b"1" * 100)
    fail(monkeypatch, "link", OSError(errno.EPERM, "Operation not permitted"))
    link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"), durable=durable)
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"1" * 100
    assert calls == ([("fsync", "b")] if durable else [])
