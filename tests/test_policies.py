"""When to save: every multiple that was crossed, whatever the stride."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import policies
from ckptkit.policies import Always, EveryEpochs, EverySteps, Never, SaveContext, SavePolicy
from ckptkit.preservation import All

contexts = st.builds(
    lambda step, by, epoch, epochs: SaveContext(step + by, step, epoch + epochs, epoch),
    st.integers(0, 1000),
    st.integers(0, 100),
    st.integers(0, 20),
    st.integers(0, 3),
)
counts = st.integers(1, 60)
leaves = st.builds(EverySteps, counts) | st.builds(EveryEpochs, counts) | st.just(Always()) | st.just(Never())
combined = st.recursive(
    leaves,
    lambda inner: st.tuples(inner, inner, st.booleans()).map(lambda t: t[0] | t[1] if t[2] else t[0] & t[1]),
    max_leaves=6,
)


@settings(deadline=None)
@given(counts, st.integers(0, 1000), st.integers(0, 100))
def test_every_steps_saves_exactly_where_a_multiple_lies_after_the_last_question(n, previous, by):
    crossed = any(step % n == 0 for step in range(previous + 1, previous + by + 1))
    assert EverySteps(n).should_save(SaveContext(step=previous + by, previous_step=previous)) is crossed


@settings(deadline=None)
@given(counts, st.integers(0, 100), st.integers(0, 100))
def test_every_epochs_saves_exactly_where_a_multiple_lies_after_the_last_question(n, previous, by):
    crossed = any(epoch % n == 0 for epoch in range(previous + 1, previous + by + 1))
    context = SaveContext(step=1, previous_step=0, epoch=previous + by, previous_epoch=previous)
    assert EveryEpochs(n).should_save(context) is crossed


@settings(deadline=None)
@given(counts, st.lists(st.integers(1, 50), min_size=1))
def test_no_multiple_is_missed_and_none_counted_twice_however_keras_strides(n, strides):
    step, saves = 0, 0
    for stride in strides:
        saves += EverySteps(n).should_save(SaveContext(step=step + stride, previous_step=step))
        step += stride
    met = range(n, step + 1, n)
    assert saves <= len(met)
    assert bool(saves) == bool(met)
    if all(stride <= n for stride in strides):
        assert saves == len(met)


def test_every_steps_saves_when_steps_per_execution_jumps_over_the_multiple():
    assert EverySteps(10).should_save(SaveContext(step=12, previous_step=8))
    assert not EverySteps(10).should_save(SaveContext(step=16, previous_step=12))


def test_every_epochs_means_each_epoch_unless_told_otherwise():
    assert EveryEpochs() == EveryEpochs(1)
    assert EveryEpochs().should_save(SaveContext(step=5, previous_step=4, epoch=1, previous_epoch=0))
    assert not EveryEpochs().should_save(SaveContext(step=6, previous_step=5, epoch=1, previous_epoch=1))


@settings(deadline=None)
@given(contexts)
def test_always_says_yes_and_never_says_no(context):
    assert Always().should_save(context) is True
    assert Never().should_save(context) is False


@settings(deadline=None)
@given(combined, combined, contexts)
def test_a_union_saves_where_one_does_and_an_intersection_where_both_do(a, b, context):
    assert (a | b).should_save(context) is (a.should_save(context) or b.should_save(context))
    assert (a & b).should_save(context) is (a.should_save(context) and b.should_save(context))


@settings(deadline=None)
@given(combined, contexts)
def test_the_same_context_always_gets_the_same_answer(policy, context):
    assert policy.should_save(context) is policy.should_save(dataclasses.replace(context))


@settings(deadline=None)
@given(combined)
def test_a_policys_repr_read_back_is_the_same_policy(policy):
    assert eval(repr(policy), vars(policies).copy()) == policy


def test_a_policy_is_readable():
    assert repr(EverySteps(500) | EveryEpochs(1)) == "EverySteps(n=500) | EveryEpochs(n=1)"


@pytest.mark.parametrize("policy", [EverySteps, EveryEpochs])
@pytest.mark.parametrize("n", [0, -1, 1.0, True, "5", None], ids=repr)
def test_a_policy_that_can_never_work_fails_when_it_is_built(policy, n):
    message = f"{policy.__name__} takes a whole number of at least 1, got {n!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        policy(n)


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


@pytest.mark.parametrize("policy", [EverySteps(3), EveryEpochs(2), Always(), Never()], ids=repr)
def test_a_policy_is_frozen_and_can_be_a_key(policy):
    assert {policy: 1}[dataclasses.replace(policy)] == 1
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError), match=r"n|assign"):
        policy.n = 9
