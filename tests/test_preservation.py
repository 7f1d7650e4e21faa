"""What to keep: a union keeps the union, and it does not matter how often one tidies up."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import preservation
from ckptkit.combinators import Combined, leaves
from ckptkit.policies import Always
from ckptkit.preservation import (
    All,
    Best,
    EveryNSecs,
    EveryNSteps,
    KeepContext,
    Latest,
    NewerThan,
    PreservationPolicy,
    Steps,
)
from ckptkit.records import CheckpointRecord
from tests.policy_cases import (
    WHAT,
    few,
    histories,
    modes,
    monitors,
    preservation_policies,
    public_classes,
    seconds,
    steady_pairs,
    steady_policies,
    unions,
)

pytestmark = pytest.mark.core

waits = st.floats(0, 500)


def keep(policy, records, *, now=1e9, **facts):
    return policy.keep(KeepContext(records, now=now, **facts))


def tidied_up(policy, records, nows):
    """The prefixes that are left if one tidies up after every record, each time a bit later."""
    left = []
    for each, now in zip(records, nows):
        left.append(each)
        kept = keep(policy, left, now=now)
        left = [r for r in left if r.prefix in kept]
    return {r.prefix for r in left}


def times_of(records, wait):
    """Times to tidy up at, one a record: later and later, though the clock that the records are from may go back."""
    return list(accumulate((r.created_at + wait for r in records), max))


def record(step, created_at=0.0, **metrics):
    return CheckpointRecord(prefix=str(step), step=step, created_at=created_at, metrics=metrics)


# Laws --------------------------------------------------------------------------------------------------------------


def test_the_laws_are_tried_with_every_policy_there_is():
    assert set(WHAT) == public_classes(preservation, PreservationPolicy)


@settings(deadline=None, max_examples=200)
@given(preservation_policies, preservation_policies, histories(), waits)
def test_a_union_keeps_the_union_and_an_intersection_the_intersection(a, b, records, now):
    assert keep(a | b, records, now=now) == keep(a, records, now=now) | keep(b, records, now=now)
    assert keep(a & b, records, now=now) == keep(a, records, now=now) & keep(b, records, now=now)


@settings(deadline=None, max_examples=400)
@given(unions, histories(), waits)
def test_tidying_up_after_every_save_keeps_what_tidying_up_once_would(policy, records, wait):
    nows = times_of(records, wait)
    assert tidied_up(policy, records, nows) == keep(policy, records, now=max(nows, default=0.0))


@settings(deadline=None, max_examples=250)
@given(steady_policies, steady_pairs, histories(), waits)
def test_tidying_up_after_every_save_keeps_at_least_what_tidying_up_once_would(nested, pairs, records, wait):
    nows = times_of(records, wait)
    for policy in [nested, *(a & b for a, b in pairs)]:
        assert tidied_up(policy, records, nows) >= keep(policy, records, now=max(nows, default=0.0))


@pytest.mark.parametrize("n", [2, 3])
def test_an_intersection_may_keep_more_if_one_tidies_up_after_every_save(n):
    policy = Latest(n) & Best("loss", "min")
    records = [record(step, loss=float(step)) for step in (1, 2, 3, 4)]
    assert keep(policy, records) == set()
    assert tidied_up(policy, records, [1.0, 2.0, 3.0, 4.0]) == {"1"}


def test_every_n_secs_in_an_intersection_keeps_others_if_one_tidies_up_after_every_save():
    policy = EveryNSecs(100) & Steps([2, 3])
    records = [record(1, 0.0), record(2, 60.0), record(3, 120.0)]
    assert keep(policy, records) == {"3"}
    assert tidied_up(policy, records, [0.0, 60.0, 120.0]) == {"2"}


@settings(deadline=None)
@given(histories(), few, few, monitors, modes)
def test_to_keep_more_of_the_latest_or_the_best_keeps_them_all(records, n, more, monitor, mode):
    assert keep(Latest(n), records) <= keep(Latest(n + more), records)
    assert keep(Best(monitor, mode, n), records) <= keep(Best(monitor, mode, n + more), records)


@settings(deadline=None)
@given(histories(), seconds, seconds, st.floats(0, 2000))
def test_to_keep_for_longer_keeps_them_all(records, secs, more, now):
    assert keep(NewerThan(secs), records, now=now) <= keep(NewerThan(secs + more), records, now=now)


@settings(deadline=None)
@given(histories(), few, few)
def test_a_multiple_of_the_steps_keeps_some_of_them(records, n, k):
    assert keep(EveryNSteps(k * n), records) <= keep(EveryNSteps(n), records)


@settings(deadline=None)
@given(preservation_policies, histories(), waits)
def test_a_policy_names_only_what_is_there_and_always_the_same(policy, records, now):
    kept = keep(policy, records, now=now)
    assert kept <= {r.prefix for r in records}
    assert keep(policy, tuple(dataclasses.replace(r) for r in records), now=now) == kept


@settings(deadline=None)
@given(preservation_policies, preservation_policies)
def test_a_combination_is_flat_and_of_the_leaves_of_both_sides(a, b):
    for policy, symbol in [(a | b, "|"), (a & b, "&")]:
        assert set(leaves(policy)) == {*leaves(a), *leaves(b)}
        if isinstance(policy, Combined) and policy.operator == symbol:
            assert not any(isinstance(part, Combined) and part.operator == symbol for part in policy.parts)


@settings(deadline=None)
@given(preservation_policies)
def test_a_policys_repr_read_back_is_the_same_policy(policy):
    again = eval(repr(policy), vars(preservation).copy())
    assert again == policy
    assert hash(again) == hash(policy)


# Each policy -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(histories())
def test_all_keeps_everything(records):
    assert keep(All(), records) == {r.prefix for r in records}


@settings(deadline=None)
@given(histories(), few)
def test_latest_keeps_the_last_ones(records, n):
    assert keep(Latest(n), records) == {r.prefix for r in records[-n:]}
    assert Latest() == Latest(1)


@settings(deadline=None)
@given(histories(), modes, few)
def test_best_keeps_those_that_none_of_the_others_beats(records, mode, n):
    kept = keep(Best("loss", mode, n), records)
    scored = [r for r in records if not math.isnan(r.metrics.get("loss", math.nan))]
    assert len(kept) == min(n, len(scored))
    for loser in scored:
        for winner in scored:
            if winner.prefix in kept and loser.prefix not in kept:
                a, b = winner.metrics["loss"], loser.metrics["loss"]
                beats = a < b if mode == "min" else a > b
                assert beats or (a == b and (winner.step, winner.name) < (loser.step, loser.name))


@pytest.mark.parametrize(
    ("losses", "mode", "kept"),
    [
        ([3.0, 1.0, 2.0], "min", {"1"}),
        ([3.0, 1.0, 2.0], "max", {"0"}),
        ([1.0, 1.0], "min", {"0"}),
        ([1.0, 1.0], "max", {"0"}),
        ([math.nan, 5.0], "min", {"1"}),
        ([math.nan, 5.0], "max", {"1"}),
        ([math.nan], "min", set()),
        ([math.inf], "min", {"0"}),
        ([-math.inf, math.inf], "max", {"1"}),
        ([0.0, -0.0], "min", {"0"}),
    ],
)
def test_best_takes_the_earlier_of_equals_and_never_nan(losses, mode, kept):
    assert keep(Best("loss", mode), [record(i, loss=loss) for i, loss in enumerate(losses)]) == kept


def test_best_passes_over_records_without_the_metric():
    assert keep(Best("loss", "max", n=9), [record(0), record(1, accuracy=1.0), record(2, loss=0.0)]) == {"2"}


@settings(deadline=None)
@given(histories(), st.floats(0.1, 300), st.floats(-100, 1000))
def test_every_n_secs_keeps_the_first_that_is_old_enough_and_no_two_that_are_close(records, secs, preserved_at):
    records.sort(key=lambda r: r.created_at)
    kept = keep(EveryNSecs(secs), records, preserved_at=preserved_at)
    last = preserved_at
    for each in records:
        assert (each.prefix in kept) is (each.created_at - secs >= last)
        last = each.created_at if each.prefix in kept else last


def test_every_n_secs_counts_anew_where_the_clock_was_set_back():
    times = [100.0, 150.0, 40.0, 90.0, 100.0, 39.0]
    records = [record(i, at) for i, at in enumerate(times)]
    assert keep(EveryNSecs(60), records) == {"0", "2", "4", "5"}
    assert keep(EveryNSecs(60), records, preserved_at=100.0) == set()


def test_every_n_secs_keeps_the_first_of_all():
    assert keep(EveryNSecs(60), [record(0, 5.0), record(1, 64.9), record(2, 65.0)]) == {"0", "2"}


@settings(deadline=None)
@given(histories(), few)
def test_every_n_steps_keeps_the_first_at_or_after_each_multiple(records, n):
    firsts = set()
    for multiple in range(n, 21, n):
        behind = [r for r in records if r.step >= multiple]
        firsts |= {min(behind, key=lambda r: r.step).prefix} if behind else set()
    assert keep(EveryNSteps(n), records) == firsts


def test_every_n_steps_keeps_nothing_before_the_first_multiple():
    steps = [0, 5, 9, 12, 15, 21, 30]
    assert keep(EveryNSteps(10), [record(step) for step in steps]) == {"12", "21", "30"}


def test_every_n_steps_keeps_the_earliest_step_of_a_run_that_went_back():
    assert keep(EveryNSteps(10), [record(15), record(11), record(12)]) == {"11"}


def test_newer_than_keeps_what_is_not_yet_so_old():
    records = [record(1, 100.0), record(2, 140.0), record(3, 160.0), record(4, 999.0)]
    assert keep(NewerThan(60), records, now=200.0) == {"3", "4"}
    assert keep(NewerThan(60), records, now=199.9) == {"2", "3", "4"}


def test_steps_keeps_exactly_those():
    assert keep(Steps([20, 5, 7]), [record(5), record(6), record(20)]) == {"5", "20"}
    assert Steps([20, 5, 5]) == Steps((5, 20))


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Latest(0), "Latest takes n = a whole number of at least 1, got 0."),
        (lambda: Best("a", "min", 2.0), "Best takes n = a whole number of at least 1, got 2.0."),
        (lambda: Best("a", "auto"), "Best takes mode = 'min' or 'max', got 'auto'."),
        (lambda: Best("", "min"), "Best takes monitor = a metric's name, got ''."),
        (lambda: EveryNSteps(True), "EveryNSteps takes n = a whole number of at least 1, got True."),
        (lambda: EveryNSecs("60"), "EveryNSecs takes secs = a number of more than 0, got '60'."),
        (lambda: NewerThan(math.nan), "NewerThan takes secs = a number of more than 0, got nan."),
        (lambda: Steps([-1]), "Steps takes steps = some step numbers of at least 0, got [-1]."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_that_can_never_work_fails_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_what_to_keep_does_not_combine_with_when_to_save():
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \|: 'All' and 'Always'"):
        All() | Always()


def test_a_policy_of_ones_own_combines_and_must_answer():
    class First(PreservationPolicy):
        def keep(self, context):
            return frozenset(r.prefix for r in context.records[:1])

    class Mute(PreservationPolicy):
        pass

    assert keep(First() | Latest(1), [record(0), record(1), record(2)]) == {"0", "2"}
    with pytest.raises(NotImplementedError, match=r"^$"):
        keep(Mute(), [])


@settings(deadline=None, max_examples=50)
@given(preservation_policies)
def test_a_policy_is_frozen_and_can_be_a_key(policy):
    assert {policy: 1}[dataclasses.replace(policy)] == 1
    field = next((each.name for each in dataclasses.fields(policy)), "n")
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError), match=field):
        setattr(policy, field, 9)
