"""coordination: workers tell each other of a save through files, wait for a limited time, and say for whom."""

import os
import threading
import time
from pathlib import Path

import pytest

from ckptkit import coordination
from ckptkit.coordination import Session
from ckptkit.errors import WorkerError

NAMES = ["the chief, worker 0 (a:1)", "worker 1 (b:2)", "worker 2 (c:3)"]
SUMS = {"kernel": ["float32", [2, 3], 17]}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "cluster-1"
    path.mkdir()
    return str(path)


def sessions(folder, count=3, timeout_secs=10.0):
    return [Session(folder, index, NAMES[:count], timeout_secs) for index in range(count)]


def rounds(folder, count=3, step=1200, timeout_secs=10.0):
    return [each.begin(step, durable=False) for each in sessions(folder, count, timeout_secs)]


def hand_in(joined, content=b"own"):
    with joined.part() as prefix, open(prefix + ".index", "wb") as file:
        file.write(content)


def test_all_workers_see_the_commit_and_the_chief_sees_all_parts(folder):
    chief, *others = rounds(folder)
    seen = []

    def follow(joined):
        seen.append(joined.common())
        hand_in(joined)
        joined.committed()
        seen.append("committed")

    threads = [threading.Thread(target=follow, args=[each]) for each in others]
    for each in threads:
        each.start()
    chief.tell_common(SUMS)
    parts = chief.parts()
    assert [Path(part + ".index").read_bytes() for part in parts] == [b"own", b"own"]
    assert "committed" not in seen
    chief.end(None)
    for each in threads:
        each.join(10)
    assert seen == [SUMS, SUMS, "committed", "committed"]
    assert sorted(os.listdir(folder)) == ["1.ended.json", "1.seen-1", "1.seen-2"]


def test_the_chief_names_who_is_missing(folder):
    chief, first, _ = rounds(folder, timeout_secs=0.05)
    hand_in(first)
    with pytest.raises(WorkerError, match=r"^worker 2 \(c:3\) of 3 did not hand in what it saved within 0 s\.$"):
        chief.parts()
    chief = rounds(folder, timeout_secs=0.05)[0]
    os.rename(os.path.join(folder, "1.worker-1.at-1200"), os.path.join(folder, "gone"))
    with pytest.raises(
        WorkerError, match=r"worker 1 \(b:2\) and worker 2 \(c:3\) of 3 did not hand in what they saved"
    ):
        chief.parts()


def test_the_others_name_the_chief(folder):
    _, other = rounds(folder, 2, timeout_secs=0.05)
    with pytest.raises(WorkerError, match=r"the chief, worker 0 \(a:1\) has not written step 1200 within"):
        other.common()
    with pytest.raises(WorkerError, match=r"the chief, worker 0 \(a:1\) has not committed step 1200 within"):
        other.committed()


@pytest.mark.parametrize("ask", ["common", "committed"])
def test_a_chief_that_is_still_writing_is_waited_for(folder, ask):
    written = iter(range(20))
    session = Session(folder, 1, NAMES, 0.2, lambda: next(written, 20))
    began = time.monotonic()
    with pytest.raises(WorkerError, match="the chief"):
        getattr(session.begin(1, durable=False), ask)()
    assert next(written, 20) == 20
    assert time.monotonic() - began > 0.4


@pytest.mark.parametrize("ask", ["common", "committed"])
def test_what_the_chief_could_not_save_is_an_error_of_all(folder, ask):
    chief, other = rounds(folder, 2)
    chief.end("No space left on device")
    with pytest.raises(WorkerError, match=r"worker 0 \(a:1\) could not save it: No space left on device"):
        getattr(other, ask)()


def test_a_worker_at_another_step_is_an_error_that_tells_both(folder):
    chief, other = (each.begin(step, durable=False) for each, step in zip(sessions(folder, 2), (10, 11)))
    hand_in(other)
    with pytest.raises(WorkerError, match=r"worker 1 \(b:2\) saves step 11 while the chief saves step 10: all workers"):
        chief.parts()


def test_a_part_is_there_whole_or_not_at_all(folder):
    chief, other = rounds(folder, 2, timeout_secs=0.05)
    with pytest.raises(KeyError), other.part():
        raise KeyError
    with pytest.raises(WorkerError, match="did not hand in"):
        chief.parts()


def test_a_save_does_not_take_the_parts_of_another(folder):
    chief, other = sessions(folder, 2, timeout_secs=0.05)
    hand_in(other.begin(1200, durable=False))
    chief.begin(1200, durable=False).end("broken off")
    with pytest.raises(WorkerError, match="did not hand in"):
        chief.begin(1200, durable=False).parts()


def test_notes_of_long_ago_are_removed(folder):
    chief = sessions(folder, 2)[0]
    for step in range(20):
        chief.begin(step, durable=False).end(None)
    assert sorted(os.listdir(folder)) == sorted(f"{number}.ended.json" for number in (17, 18, 19, 20))


def test_the_folder_goes_when_all_have_seen_the_last_commit(folder, monkeypatch):
    chief, other = sessions(folder, 2)
    joined = chief.begin(1, durable=False), other.begin(1, durable=False)
    joined[0].end(None)
    joined[1].committed()
    other.close()
    assert os.path.isdir(folder)
    chief.close()
    assert not os.path.exists(folder)
    chief.close()


def test_the_folder_stays_for_a_worker_that_is_slow(folder, monkeypatch):
    monkeypatch.setattr(coordination, "_HURRY_SECS", 0.05)
    chief, other = sessions(folder, 2)
    joined = chief.begin(1, durable=False), other.begin(1, durable=False)
    joined[0].end(None)
    chief.close()
    joined[1].committed()


def test_who_is_in_a_hurry_does_not_wait_for_long(folder, monkeypatch):
    monkeypatch.setattr(coordination, "_HURRY_SECS", 0.05)
    session = sessions(folder, 2, timeout_secs=None)[1]
    began = time.monotonic()
    threading.Timer(0.05, session.hurry).start()
    with pytest.raises(WorkerError, match="has not committed"):
        session.begin(1, durable=False).committed()
    assert time.monotonic() - began < 60


def test_a_folder_that_this_worker_does_not_see_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(coordination, "_HURRY_SECS", 0.05)
    assert not Session(str(tmp_path / "elsewhere"), 1, NAMES, 10.0).is_there()
    assert Session(str(tmp_path), 1, NAMES, 10.0).is_there()
