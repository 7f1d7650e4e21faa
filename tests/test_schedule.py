"""What a policy is told: since when, how well, at what cost; and what a failed save or a restore makes of it."""

from __future__ import annotations

import math

import pytest

from ckptkit.policies import EverySecs, EverySteps, Never, OnImprovement, OverheadBudget, SavePolicy
from ckptkit.schedule import Schedule

pytestmark = pytest.mark.core


class Recorder(SavePolicy):
    """Notes what it is told, and is never in favour."""

    def __init__(self):
        self.contexts = []

    def should_save(self, context):
        self.contexts.append(context)
        return False


def ask(schedule, step, epoch=0, now=0.0, metrics=None, **facts):
    return schedule.is_due(step, epoch, now, metrics=metrics or {}, **facts)


def test_without_a_policy_a_save_is_due_at_every_question():
    assert ask(Schedule(None, 0.0), 1)
    assert not ask(Schedule(Never(), 0.0), 1)


def test_each_question_counts_from_the_one_before():
    policy = Recorder()
    schedule = Schedule(policy, 50.0)
    ask(schedule, 4, 1, now=60.0)
    schedule.begin_at(100, 7, 70.0)
    ask(schedule, 101, 8, now=80.0, lost_secs=(0.5,), is_saving=True)
    first, second = policy.contexts
    assert (first.previous_step, first.previous_epoch, first.last_save_at, first.has_saved) == (0, 0, 50.0, False)
    assert (second.step, second.previous_step, second.epoch, second.previous_epoch) == (101, 100, 8, 7)
    assert (second.now, second.last_save_at, second.lost_secs, second.is_saving) == (80.0, 70.0, (0.5,), True)


def test_time_counts_from_the_last_save_be_it_for_whatever_reason_and_be_it_skipped():
    schedule = Schedule(EverySecs(10), 100.0)
    assert [now for now in range(100, 125) if ask(schedule, now, now=now)] == list(range(110, 125))
    schedule.save_began(5, 120.0, {})
    assert not ask(schedule, 6, now=129.0)
    assert ask(schedule, 7, now=130.0)
    schedule.save_skipped(131.0)
    assert not ask(schedule, 8, now=140.0)


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_step_counts_as_saved_from_the_moment_its_save_begins_unless_it_fails(is_saved):
    schedule = Schedule(None, 0.0)
    schedule.save_began(3, 0.0, {})(True)
    ended = schedule.save_began(5, 0.0, {})
    assert schedule.saved_step == 5
    ended(is_saved)
    assert schedule.saved_step == (5 if is_saved else 3)


def test_a_save_that_fails_late_does_not_undo_a_later_one():
    schedule = Schedule(None, 0.0)
    first, second = schedule.save_began(3, 0.0, {}), schedule.save_began(5, 0.0, {})
    first(False)
    assert schedule.saved_step == 5
    second(True)
    schedule.save_began(None, 0.0, {})(False)  # numbered by a counter: nobody knows its step
    assert schedule.saved_step == 5


def test_what_is_measured_at_a_save_under_way_is_the_best_until_the_save_fails():
    schedule = Schedule(OnImprovement("loss", "min"), 0.0, {"loss": "min"})
    best = {"loss": 1.0}
    assert ask(schedule, 1, metrics={"loss": 0.5}, best=best)
    ended = schedule.save_began(1, 0.0, {"loss": 0.5})
    assert not ask(schedule, 2, metrics={"loss": 0.7}, best=best)
    assert ask(schedule, 3, metrics={"loss": 0.3}, best=best)
    ended(False)
    assert ask(schedule, 4, metrics={"loss": 0.7}, best=best)


def test_whether_a_question_came_with_the_best_so_far_is_known_whatever_the_policy():
    schedule = Schedule(Never(), 0.0, {"accuracy": "max"})
    for value, is_best in [(0.5, True), (math.nan, False), (-1.0, True)]:
        ask(schedule, 1, metrics={"accuracy": value})
        assert schedule.is_best is is_best
    ask(schedule, 2, metrics={"other": 9.0})
    assert not schedule.is_best
    ask(schedule, 3, metrics={"accuracy": 0.5}, best={"accuracy": 0.5})
    assert not schedule.is_best


def test_a_metric_is_unseen_until_a_question_comes_with_it():
    schedule = Schedule(Never(), 0.0, {"accuracy": "max", "loss": "min"})
    ask(schedule, 1, metrics={"loss": math.nan})
    assert schedule.unseen == {"accuracy"}


@pytest.mark.parametrize("policy", [EverySteps(10), EverySecs(10), OverheadBudget()], ids=repr)
def test_what_has_failed_is_due_when_it_is_asked_for_at_the_same_step_and_not_at_every_step_after(policy):
    schedule = Schedule(policy, 100.0)
    assert ask(schedule, 10, now=110.0)
    schedule.save_began(10, 110.0, {})(False)
    schedule.retry()
    assert ask(schedule, 10, now=110.0)
    schedule.save_began(10, 110.0, {})(False)
    schedule.retry()
    assert not ask(schedule, 11, now=111.0)
    assert not ask(schedule, 11, now=111.0)
