"""When to save: at every multiple that was crossed, by the clock, when a metric is better than ever."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import policies
from ckptkit.combinators import Combined, leaves
from ckptkit.policies import (
    Always,
    AtSteps,
    EveryEpochs,
    EverySecs,
    EverySteps,
    Never,
    OnImprovement,
    OverheadBudget,
    SaveContext,
    SavePolicy,
)
from ckptkit.preservation import All
from ckptkit.ranking import best_values
from tests.policy_cases import WHEN, contexts, counts, modes, public_classes, save_policies

pytestmark = pytest.mark.core

strides = st.lists(st.integers(0, 50), max_size=20)


def at(**facts):
    return SaveContext(**{"step": 2, "previous_step": 1, **facts})


# Laws of all -------------------------------------------------------------------------------------------------------


def test_the_laws_are_tried_with_every_policy_there_is():
    assert set(WHEN) == public_classes(policies, SavePolicy)


@settings(deadline=None, max_examples=200)
@given(save_policies, save_policies, contexts)
def test_a_union_saves_where_one_does_and_an_intersection_where_both_do(a, b, context):
    assert (a | b).should_save(context) is (a.should_save(context) or b.should_save(context))
    assert (a & b).should_save(context) is (a.should_save(context) and b.should_save(context))


@settings(deadline=None)
@given(save_policies, contexts)
def test_the_same_context_always_gets_the_same_answer(policy, context):
    before = dataclasses.replace(context, metrics=dict(context.metrics), lost_secs=list(context.lost_secs))
    assert policy.should_save(context) is policy.should_save(before)
    assert repr(context) == repr(before)


@settings(deadline=None)
@given(save_policies, save_policies)
def test_a_combination_is_flat_and_of_the_leaves_of_both_sides(a, b):
    for policy, symbol in [(a | b, "|"), (a & b, "&")]:
        assert set(leaves(policy)) == {*leaves(a), *leaves(b)}
        if isinstance(policy, Combined) and policy.operator == symbol:
            assert not any(isinstance(part, Combined) and part.operator == symbol for part in policy.parts)


@settings(deadline=None)
@given(save_policies)
def test_a_policys_repr_read_back_is_the_same_policy(policy):
    again = eval(repr(policy), vars(policies).copy())
    assert again == policy
    assert hash(again) == hash(policy)


# Crossing ----------------------------------------------------------------------------------------------------------


def positions(strides, start=0):
    """Where somebody is asked who starts at a place and strides on; who stands still is asked again."""
    found = [start]
    for stride in strides:
        found.append(found[-1] + stride)
    return found


def crossings(policy, places, unit):
    """The numbers of the questions that a policy answers with yes; the first place is that of no question."""
    facts = [{unit: place, f"previous_{unit}": before} for before, place in pairwise(places)]
    return [number for number, each in enumerate(facts, start=1) if policy.should_save(at(**each))]


def arrivals(marks, places):
    """The numbers of the questions that are the first at or after a mark, of those marks that lie ahead at first."""
    ahead = [mark for mark in marks if places[0] < mark <= places[-1]]
    return sorted({next(number for number, place in enumerate(places) if place >= mark) for mark in ahead})


CROSSING = st.one_of(
    counts.map(lambda n: (EverySteps(n), "step", range(n, 3000, n))),
    counts.map(lambda n: (EveryEpochs(n), "epoch", range(n, 3000, n))),
    st.sets(st.integers(1, 1000), min_size=1).map(lambda steps: (AtSteps(steps), "step", steps)),
)


@settings(deadline=None, max_examples=200)
@given(CROSSING, strides)
def test_what_is_crossed_is_saved_at_the_next_question_whatever_the_stride_and_once(case, strides):
    policy, unit, marks = case
    places = positions(strides)
    assert crossings(policy, places, unit) == arrivals(marks, places)


@settings(deadline=None, max_examples=200)
@given(CROSSING, strides, strides, st.data())
def test_a_run_that_goes_on_from_one_of_its_saves_misses_nothing_and_doubles_nothing(case, strides, later, data):
    policy, unit, marks = case
    first = positions(strides)
    saved = data.draw(st.sampled_from([0, *crossings(policy, first, unit)]), label="resumed from")
    second = positions(later, start=first[saved])
    saves = [number for number in crossings(policy, first, unit) if number <= saved]
    saves += [saved + number for number in crossings(policy, second, unit)]
    assert saves == arrivals(marks, [*first[:saved], *second])


@settings(deadline=None)
@given(CROSSING, st.integers(1, 1000), st.integers(1, 1000))
def test_a_run_that_went_back_is_not_saved_for_that(case, place, back):
    policy, unit, _ = case
    assert crossings(policy, [place, max(place - back, 0)], unit) == []


def test_every_steps_saves_when_steps_per_execution_jumps_over_the_multiple():
    assert EverySteps(10).should_save(SaveContext(step=12, previous_step=8))
    assert not EverySteps(10).should_save(SaveContext(step=16, previous_step=12))


def test_every_epochs_means_each_epoch_unless_told_otherwise():
    assert EveryEpochs() == EveryEpochs(1)
    assert EveryEpochs().should_save(at(epoch=1, previous_epoch=0))
    assert not EveryEpochs().should_save(at(epoch=1, previous_epoch=1))


def test_at_steps_takes_its_steps_in_any_order_and_several_that_were_jumped_over_are_one_save():
    assert AtSteps([9, 4, 9]) == AtSteps((4, 9))
    assert crossings(AtSteps([9, 4]), [0, 3, 4, 5, 8, 12, 16], "step") == [2, 5]
    assert crossings(AtSteps([9, 4]), [0, 10, 20], "step") == [1]


# The clock ---------------------------------------------------------------------------------------------------------


def saves_by_clock(policy, times):
    """The numbers of the questions at which a policy saves, and 0; the first time is that of the run's beginning."""
    saves = [0]
    for number, now in enumerate(times[1:], start=1):
        if policy.should_save(at(now=now, last_save_at=times[saves[-1]])):
            saves.append(number)
    return saves


@settings(deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(0, 100), min_size=1))
def test_two_saves_are_never_closer_than_asked_for_and_no_question_later_than_that_is_without_one(secs, waits):
    times = positions(waits, start=1000)
    saves = [times[number] for number in saves_by_clock(EverySecs(secs), times)]
    assert all(later - earlier >= secs for earlier, later in pairwise(saves))
    assert all(now - max(save for save in saves if save <= now) < secs for now in times)


@settings(deadline=None)
@given(
    st.integers(1, 60), st.lists(st.integers(1, 20), min_size=30, max_size=30), st.integers(0, 29), st.integers(1, 9000)
)
def test_a_clock_that_was_set_back_silences_nothing_for_long(secs, waits, after, back):
    true = positions(waits, start=10_000)
    shown = [time - back * (number > after) for number, time in enumerate(true)]
    saves = saves_by_clock(EverySecs(secs), shown)
    for number in set(range(len(true))).difference(saves):
        last = max(save for save in saves if save < number)
        assert true[number] - true[last] < 2 * secs + max(waits)
        assert shown[number] >= shown[last]


def test_every_secs_counts_from_where_the_last_save_began():
    assert not EverySecs(60).should_save(at(now=1059.9, last_save_at=1000.0))
    assert EverySecs(60).should_save(at(now=1060.0, last_save_at=1000.0))
    assert EverySecs(60).should_save(at(now=999.9, last_save_at=1000.0))


# Improvement -------------------------------------------------------------------------------------------------------

series = st.lists(st.none() | st.integers(-3, 3).map(float) | st.floats(), max_size=20)


def measured(value):
    return {} if value is None else {"loss": value}


def improvements(policy, values, best):
    """The numbers of the values at which a policy saves, and the best value after each of them."""
    saves, so_far = [], []
    for number, value in enumerate(values):
        if policy.should_save(at(metrics=measured(value), best=best)):
            saves.append(number)
        best = best_values(best, measured(value), modes={policy.monitor: policy.mode})
        so_far.append(best)
    return saves, so_far


@settings(deadline=None, max_examples=200)
@given(series, modes)
def test_on_improvement_saves_whatever_beats_all_before_it_and_never_nan(values, mode):
    seen, wanted = [], []
    for number, value in enumerate(values):
        if value is None or math.isnan(value):
            continue
        if all(value < other if mode == "min" else value > other for other in seen):
            wanted.append(number)
        seen.append(value)
    assert improvements(OnImprovement("loss", mode), values, {})[0] == wanted


@settings(deadline=None, max_examples=200)
@given(series, modes, st.data())
def test_a_restart_makes_on_improvement_forget_nothing(values, mode, data):
    policy = OnImprovement("loss", mode)
    saves, so_far = improvements(policy, values, {})
    killed = data.draw(st.integers(0, len(values)), label="killed before")
    before = [number for number in saves if number < killed]
    start, best = (before[-1] + 1, so_far[before[-1]]) if before else (0, {})
    assert before + [start + number for number in improvements(policy, values[start:], best)[0]] == saves


@pytest.mark.parametrize(
    ("value", "best", "mode", "saves"),
    [
        (0.5, None, "min", True),
        (0.5, 0.5, "min", False),
        (0.4, 0.5, "min", True),
        (0.4, 0.5, "max", False),
        (0.6, 0.5, "max", True),
        (math.nan, None, "min", False),
        (math.nan, 0.5, "max", False),
        (math.inf, None, "min", True),
        (-math.inf, 0.5, "min", True),
        (0.5, math.nan, "min", True),
        (None, 0.5, "min", False),
    ],
)
def test_on_improvement_saves_what_is_better_than_ever_and_nothing_that_was_not_measured(value, best, mode, saves):
    policy = OnImprovement("loss", mode)
    context = at(metrics={"accuracy": 9.0, **measured(value)}, best={"accuracy": 0.0, **measured(best)})
    assert policy.should_save(context) is saves


# Each of the others ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(contexts)
def test_always_says_yes_and_never_says_no(context):
    assert Always().should_save(context) is True
    assert Never().should_save(context) is False


def test_a_policy_is_readable():
    policy = EverySteps(500) | EveryEpochs(1) & OnImprovement("loss", "min")
    assert repr(policy) == "EverySteps(n=500) | (EveryEpochs(n=1) & OnImprovement(monitor='loss', mode='min'))"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EverySteps(0), "EverySteps takes n = a whole number of at least 1, got 0."),
        (lambda: EveryEpochs(1.5), "EveryEpochs takes n = a whole number of at least 1, got 1.5."),
        (lambda: EverySecs(0), "EverySecs takes secs = a number of more than 0, got 0."),
        (lambda: AtSteps([0, 5]), "AtSteps takes steps = some step numbers of at least 1, got [0, 5]."),
        (lambda: AtSteps([]), "AtSteps takes steps = some step numbers of at least 1, got []."),
        (lambda: OnImprovement("", "min"), "OnImprovement takes monitor = a metric's name, got ''."),
        (lambda: OnImprovement("loss", "auto"), "OnImprovement takes mode = 'min' or 'max', got 'auto'."),
        (
            lambda: OverheadBudget(1),
            "OverheadBudget takes max_fraction = a number of more than 0 and less than 1, got 1.",
        ),
        (lambda: OverheadBudget(mtbf_secs=-1), "OverheadBudget takes mtbf_secs = a number of more than 0, got -1."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_that_can_never_work_fails_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_a_save_policy_does_not_combine_with_what_to_keep():
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \|: 'Always' and 'All'"):
        Always() | All()


def test_a_policy_of_ones_own_combines_and_must_answer():
    class Own(SavePolicy):
        def should_save(self, context):
            return context.metrics.get("loss", 1.0) < 0.5

    class Mute(SavePolicy):
        pass

    policy = Own() | EverySteps(10)
    assert policy.should_save(SaveContext(step=3, previous_step=2, metrics={"loss": 0.1}))
    assert not policy.should_save(SaveContext(step=3, previous_step=2))
    with pytest.raises(NotImplementedError, match=r"^$"):
        Mute().should_save(SaveContext(step=1, previous_step=0))


@settings(deadline=None, max_examples=50)
@given(save_policies)
def test_a_policy_is_frozen_and_can_be_a_key(policy):
    assert {policy: 1}[dataclasses.replace(policy)] == 1
    field = next((each.name for each in dataclasses.fields(policy)), "n")
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError), match=field):
        setattr(policy, field, 9)
