"""One writer at a time, across processes, forks and sudden deaths."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ckptkit.errors import DirectoryLockedError
from ckptkit.lock import DirectoryLock

HOLD = """
import os, sys
from ckptkit.errors import DirectoryLockedError
from ckptkit.lock import DirectoryLock

lock = DirectoryLock("runs/digits", sys.argv[1])
"""
WAIT = """
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


@contextmanager
def another_process(path, script=HOLD + WAIT):
    """A process that has run ``script`` up to the line "held"; what it printed before is in ``told``."""
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            process.told = []
            for line in process.stdout:
                if line == "held\n":
                    break
                process.told.append(line.strip())
            yield process
        finally:
            process.stdin.close()  # a script that waits for the end of its input ends now


def take(path):
    return DirectoryLock("runs/digits", path)


def is_free(path):
    """Whether any process could take the lock now."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_second_process_is_refused_and_told_who_writes_there(path):
    with another_process(path) as holder:
        told = f"cannot write checkpoints to runs/digits: process {holder.pid} on {socket.gethostname()} (since 2"
        with pytest.raises(DirectoryLockedError, match=re.escape(told)) as caught:
            take(path)
    assert "pass read_only=True to look on" in str(caught.value)
    assert isinstance(caught.value.__cause__, BlockingIOError)


def test_the_death_of_its_holder_frees_the_lock(path):
    with another_process(path) as holder:
        with pytest.raises(DirectoryLockedError, match=f"process {holder.pid} on"):
            take(path)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        take(path).release()


def test_a_process_that_lets_go_or_ends_makes_room(path):
    with another_process(path, HOLD + "lock.release()" + WAIT):
        take(path).release()
    with another_process(path):
        pass
    take(path).release()


def test_the_lock_holds_until_its_last_share_in_the_process_is_given_up(path, tmp_path):
    os.symlink(tmp_path, tmp_path / "by-another-name")
    first, second = take(path), take(str(tmp_path / "by-another-name" / "lock"))
    assert not is_free(path)
    first.release()
    assert not is_free(path)
    second.release()
    assert is_free(path)


def test_giving_up_a_share_twice_counts_once(path):
    first, second = take(path), take(path)
    first.release()
    first.release()
    assert not is_free(path)
    second.release()
    assert is_free(path)


def test_the_lock_of_one_directory_is_not_that_of_another(path, tmp_path):
    one, other = take(path), take(str(tmp_path / "other"))
    one.release()
    assert is_free(path)
    assert not is_free(str(tmp_path / "other"))
    other.release()


def test_a_lock_that_was_freed_can_be_taken_again(path):
    for _ in range(3):
        lock = take(path)
        assert not is_free(path)
        lock.release()


def test_the_lock_file_names_its_holder_and_no_earlier_one(path):
    with open(path, "w") as file:
        file.write("x" * 1000)
    lock = take(path)
    with open(path) as file:
        facts = json.load(file)
    lock.release()
    assert (facts["pid"], facts["host"]) == (os.getpid(), socket.gethostname())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"pid": "me", "host": "a", "started_at": 1}',
        b'{"pid": 1, "host": "a", "started_at": "noon"}',
        b'{"pid": 1, "host": "a", "started_at": 1e300}',
        b'{"pid": 1, "host": "a", "started_at": 1e17}',
        b'{"pid": Infinity, "host": "a", "started_at": 1}',
        b"[" * 4096,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_lock_file_that_cannot_be_read_is_still_a_refusal(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DirectoryLockedError, match="runs/digits: another process is writing there"):
            take(path)


def test_a_forked_child_neither_frees_its_parents_lock_nor_takes_it(path):
    fork = """
child = os.fork()
if child == 0:
    lock.release()
    try:
        DirectoryLock("runs/digits", sys.argv[1])
    except DirectoryLockedError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    with another_process(path, HOLD + fork + WAIT) as holder:
        assert f"runs/digits: process {holder.pid} on " in holder.told[0]
        with pytest.raises(DirectoryLockedError, match=f"process {holder.pid} on"):
            take(path)


def test_a_forked_child_may_lock_a_directory_of_its_own(path, tmp_path):
    fork = """
child = os.fork()
if child == 0:
    own = DirectoryLock("own", sys.argv[1] + "-own")
    lock.release()
    print("taken", flush=True)
    own.release()
    os._exit(0)
os.waitpid(child, 0)
"""
    with another_process(path, HOLD + fork + WAIT) as holder:
        assert holder.told == ["taken"]
        take(path + "-own").release()


def test_the_death_of_its_holder_frees_the_lock_though_a_forked_child_lives_on(path):
    # As the workers of multiprocessing do, for a while or for ever, when their parent is killed.
    # The child says when it is there: what it does at a fork is done before fork() returns in it.
    fork = """
if os.fork() == 0:
    print("held", flush=True)
sys.stdin.read()
"""
    with another_process(path, HOLD + fork) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        take(path).release()


def test_a_lock_that_could_not_be_taken_whole_is_not_held(path, monkeypatch):
    def full(descriptor, content, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left on device"):
            take(path)
    assert is_free(path)
    take(path).release()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"[" * 4096, b'{"pid": 1, "host": "another", "started_at": 4e9}'],
    ids=["empty", "zeros", "deep", "another host's"],
)
def test_what_a_lock_file_says_does_not_hold_it(path, content):
    with open(path, "wb") as file:
        file.write(content)
    take(path).release()


def test_a_link_in_the_place_of_a_lock_is_not_followed(path, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    os.symlink(tmp_path / "precious", path)
    with pytest.raises(OSError, match=f"symbolic links: '{path}'"):
        take(path)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_pipe_in_the_place_of_a_lock_is_said(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match=f"Is not a file: '{path}'"):
        take(path)


def test_a_lock_in_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        take(str(tmp_path / "gone" / "lock"))


def test_a_directory_that_was_deleted_and_made_again_is_locked_anew(tmp_path):
    (tmp_path / "run").mkdir()
    path = str(tmp_path / "run" / "lock")
    old = take(path)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    new = take(path)
    free = is_free(path)
    new.release()
    old.release()
    assert not free
