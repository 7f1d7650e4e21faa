"""What to keep: a union keeps the union, and it does not matter how often one tidies up."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import preservation
from ckptkit.policies import Always
from ckptkit.preservation import All, Best, EveryNSecs, KeepContext, Latest, PreservationPolicy
from ckptkit.records import CheckpointRecord

counts = st.integers(1, 6)
leaves = (
    st.just(All())
    | st.builds(Latest, counts)
    | st.builds(Best, st.sampled_from(["loss", 'it\'s "new"']), st.sampled_from(["min", "max"]), counts)
    | st.builds(EveryNSecs, st.floats(0.1, 1000) | st.integers(1, 1000))
)
unions = st.lists(leaves, min_size=1, max_size=4).map(
    lambda ps: eval("|".join(f"p[{i}]" for i in range(len(ps))), {"p": ps})
)
combined = st.recursive(
    leaves,
    lambda inner: st.tuples(inner, inner, st.booleans()).map(lambda t: t[0] | t[1] if t[2] else t[0] & t[1]),
    max_leaves=5,
)


@st.composite
def histories(draw):
    rows = draw(
        st.lists(st.tuples(st.floats(0, 500), st.none() | st.floats(-3, 3).map(round) | st.floats()), max_size=12)
    )
    records, at = [], 0.0
    for i, (later, loss) in enumerate(rows):
        at += later
        metrics = {} if loss is None else {"loss": loss}
        records.append(CheckpointRecord(prefix=f"run/ckpt-{i}", step=i, created_at=at, metrics=metrics))
    return records


def keep(policy, records, **facts):
    return policy.keep(KeepContext(records, now=1e9, **facts))


def record(step, created_at=0.0, **metrics):
    return CheckpointRecord(prefix=str(step), step=step, created_at=created_at, metrics=metrics)


# Laws --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(combined, combined, histories())
def test_a_union_keeps_the_union_and_an_intersection_the_intersection(a, b, records):
    assert keep(a | b, records) == keep(a, records) | keep(b, records)
    assert keep(a & b, records) == keep(a, records) & keep(b, records)


@settings(deadline=None, max_examples=300)
@given(unions, histories())
def test_tidying_up_after_every_save_keeps_what_tidying_up_once_would(policy, records):
    left = []
    for each in records:
        left.append(each)
        left = [r for r in left if r.prefix in keep(policy, left)]
    assert {r.prefix for r in left} == keep(policy, records)


@settings(deadline=None)
@given(combined, histories())
def test_a_policy_names_nothing_that_is_not_there(policy, records):
    assert keep(policy, records) <= {r.prefix for r in records}


@settings(deadline=None)
@given(combined)
def test_a_policys_repr_read_back_is_the_same_policy(policy):
    assert eval(repr(policy), vars(preservation).copy()) == policy


# Each policy -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(histories())
def test_all_keeps_everything(records):
    assert keep(All(), records) == {r.prefix for r in records}


@settings(deadline=None)
@given(histories(), counts)
def test_latest_keeps_the_last_ones(records, n):
    assert keep(Latest(n), records) == {r.prefix for r in records[-n:]}
    assert Latest() == Latest(1)


@settings(deadline=None)
@given(histories(), st.sampled_from(["min", "max"]), counts)
def test_best_keeps_those_that_none_of_the_others_beats(records, mode, n):
    kept = keep(Best("loss", mode, n), records)
    scored = [r for r in records if not math.isnan(r.metrics.get("loss", math.nan))]
    assert len(kept) == min(n, len(scored))
    for i, loser in enumerate(scored):
        for j, winner in enumerate(scored):
            if winner.prefix in kept and loser.prefix not in kept:
                a, b = winner.metrics["loss"], loser.metrics["loss"]
                beats = a < b if mode == "min" else a > b
                assert beats or (a == b and j < i)


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
    kept = keep(EveryNSecs(secs), records, preserved_at=preserved_at)
    last = preserved_at
    for each in records:
        assert (each.prefix in kept) is (each.created_at - secs >= last)
        last = each.created_at if each.prefix in kept else last


def test_every_n_secs_keeps_the_first_of_all():
    assert keep(EveryNSecs(60), [record(0, 5.0), record(1, 64.9), record(2, 65.0)]) == {"0", "2"}


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        *((lambda n=n: Latest(n), f"Latest takes n = at least 1, got {n!r}.") for n in (0, -1, 1.5, True, "2", None)),
        *((lambda n=n: Best("a", "min", n), f"Best takes n = at least 1, got {n!r}.") for n in (0, 2.0, True)),
        *((lambda m=m: Best("a", m), f"Best takes mode = 'min' or 'max', got {m!r}.") for m in ("auto", "", None)),
        *((lambda m=m: Best(m, "min"), f"Best takes monitor = a metric's name, got {m!r}.") for m in ("", None, 3)),
        *(
            (lambda s=s: EveryNSecs(s), f"EveryNSecs takes secs = more than 0 seconds, got {s!r}.")
            for s in (0, -1.0, math.nan, True, "60", None)
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_that_can_never_work_fails_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
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


@pytest.mark.parametrize("policy", [All(), Latest(2), Best("loss", "min"), EveryNSecs(5)], ids=repr)
def test_a_policy_is_frozen_and_can_be_a_key(policy):
    assert {policy: 1}[dataclasses.replace(policy)] == 1
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError), match=r"n|assign"):
        policy.n = 9
