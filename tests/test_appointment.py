"""appointment: workers that are told to end, some of them and at any time, all leave at the same step."""

import random
import threading

import pytest

from ckptkit import appointment
from ckptkit.appointment import Appointment
from ckptkit.coordination import Session
from ckptkit.preemption import PreemptionWatch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(appointment, "_PAUSE", 0.001)


class Training(threading.Thread):
    """A worker whose every step needs all others."""

    def __init__(self, folder, index, count, barrier, steps, told_at):
        super().__init__()
        self.session = Session(str(folder), index, [f"worker {number}" for number in range(count)], 20.0)
        self.watch = PreemptionWatch([], grace_secs=20.0)
        self.barrier, self.steps, self.told_at = barrier, steps, told_at
        self.left_at = self.error = None

    def run(self):
        try:
            self.train(Appointment(self.session, self.watch))
        except Exception as error:
            self.error = error

    def train(self, appointed):
        appointed.passes(0)
        for step in range(1, self.steps + 1):
            if step == self.told_at:
                self.watch.note("SIGTERM")
            self.barrier.wait(20)  # the step
            appointed.passes(step)
            if self.watch.request is not None and step < self.steps and appointed.is_due(step):
                self.left_at = step
                break
        appointed.end()


def train(folder, steps, told_at):
    barrier = threading.Barrier(len(told_at))
    folder.mkdir()
    workers = [Training(folder, index, len(told_at), barrier, steps, at) for index, at in enumerate(told_at)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    assert [each.error for each in workers] == [None] * len(workers)
    return [each.left_at for each in workers]


@pytest.mark.parametrize("seed", range(30))
def test_all_leave_at_the_same_step_whoever_is_told_and_when(tmp_path, seed):
    draw = random.Random(seed)
    count, steps = draw.choice([2, 3]), draw.choice([3, 30, 300])
    told_at = [draw.choice([None, draw.randint(1, steps)]) for _ in range(count)]
    left_at = train(tmp_path / "session", steps, told_at)
    assert len(set(left_at)) == 1
    if any(at is not None and at <= steps - 2 for at in told_at) and steps > 3:
        first = min(at for at in told_at if at is not None)
        assert left_at[0] is None or left_at[0] >= first


def test_nobody_who_is_not_told_leaves(tmp_path):
    assert train(tmp_path / "session", 50, [None, None]) == [None, None]


def test_a_worker_that_says_nothing_is_named_when_the_time_is_over(tmp_path, caplog):
    watch = PreemptionWatch([], grace_secs=0.05)
    appointed = Appointment(Session(str(tmp_path), 0, ["worker 0", "worker 1"], 20.0), watch)
    watch.note("SIGTERM")
    assert not appointed.is_broken
    assert appointed.is_due(7)  # alone, and without a save, in which all have a part
    assert appointed.is_broken
    assert caplog.messages == ["worker 1 did not say at which step to leave within 0 s."]
    appointed.end()


def test_a_worker_says_one_step_and_no_other(tmp_path):
    sessions = [Session(str(tmp_path), index, ["worker 0", "worker 1"], 20.0) for index in range(2)]
    watches = [PreemptionWatch([], grace_secs=20.0) for _ in sessions]
    one, other = (Appointment(session, watch) for session, watch in zip(sessions, watches))
    one.passes(7)
    other.passes(6)
    watches[0].note("SIGTERM")
    assert one.is_due(7)  # the other one says 7 by itself
    assert not other.is_due(6)
    assert other.is_due(7)
    one.end()
    other.end()
    said = sorted(path.name for path in tmp_path.glob("leave.worker-*"))
    assert said == ["leave.worker-0.at-7", "leave.worker-1.at-7"]


def test_nobody_waits_for_one_that_has_come_to_its_end(tmp_path):
    sessions = [Session(str(tmp_path), index, ["worker 0", "worker 1"], 20.0) for index in range(2)]
    watch = PreemptionWatch([], grace_secs=20.0)
    Appointment(sessions[0], PreemptionWatch([])).end()
    other = Appointment(sessions[1], watch)
    watch.note("SIGTERM")
    assert not other.is_due(7)
    assert not other.is_broken
    other.end()


def test_a_folder_that_has_gone_is_no_error_of_a_worker_that_ends(tmp_path):
    appointed = Appointment(Session(str(tmp_path / "gone"), 0, ["worker 0", "worker 1"], 20.0), PreemptionWatch([]))
    appointed.end()
