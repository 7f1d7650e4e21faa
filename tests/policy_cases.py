"""Random policies of every class, and what they are asked about: for the laws that all of them keep."""

from __future__ import annotations

import inspect
from functools import reduce
from itertools import combinations
from operator import or_

from hypothesis import strategies as st

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
)
from ckptkit.preservation import All, Best, EveryNSecs, EveryNSteps, Latest, NewerThan, Steps
from ckptkit.records import CheckpointRecord

MONITORS = ["loss", 'it\'s "new"']

counts = st.integers(1, 60)
few = st.integers(1, 6)
seconds = st.sampled_from([50, 100, 250]) | st.floats(0.1, 1000)
monitors = st.sampled_from(MONITORS)
modes = st.sampled_from(["min", "max"])
# A few of each kind are common, so that they meet, and all the others come, too.
values = st.integers(-3, 3).map(float) | st.floats()
metrics = st.dictionaries(monitors, values)

WHEN = {
    Always: st.just(Always()),
    AtSteps: st.builds(AtSteps, st.lists(st.integers(1, 1200), min_size=1, max_size=5)),
    EveryEpochs: st.builds(EveryEpochs, counts),
    EverySecs: st.builds(EverySecs, seconds),
    EverySteps: st.builds(EverySteps, counts),
    Never: st.just(Never()),
    OnImprovement: st.builds(OnImprovement, monitors, modes),
    OverheadBudget: st.builds(OverheadBudget, st.floats(0.001, 0.999), st.none() | seconds),
}
WHAT = {
    All: st.just(All()),
    Best: st.builds(Best, monitors, modes, few),
    EveryNSecs: st.builds(EveryNSecs, seconds),
    EveryNSteps: st.builds(EveryNSteps, few),
    Latest: st.builds(Latest, few),
    NewerThan: st.builds(NewerThan, seconds),
    Steps: st.builds(Steps, st.lists(st.integers(0, 20), min_size=1, max_size=5)),
}


def public_classes(module, root):
    """The policies that a module offers."""
    found = {value for name, value in vars(module).items() if name in module.__all__ and inspect.isclass(value)}
    return {each for each in found if issubclass(each, root)} - {root}


def combined(leaves, max_leaves=6):
    """Policies under ``|`` and ``&``, nested as one likes."""
    return st.recursive(
        leaves,
        lambda inner: st.tuples(inner, inner, st.booleans()).map(lambda t: t[0] | t[1] if t[2] else t[0] & t[1]),
        max_leaves=max_leaves,
    )


save_policies = combined(st.one_of(*WHEN.values()))
preservation_policies = combined(st.one_of(*WHAT.values()))
unions = st.lists(st.one_of(*WHAT.values()), min_size=1, max_size=4).map(lambda policies: reduce(or_, policies))
# Inside ``&`` EveryNSecs is another matter: see the synopsis of ckptkit.preservation.
_STEADY = [made for policy, made in WHAT.items() if policy is not EveryNSecs]
steady_policies = combined(st.one_of(*_STEADY))
steady_pairs = st.tuples(*_STEADY).map(lambda policies: list(combinations(policies, 2)))

contexts = st.builds(
    SaveContext,
    step=st.integers(0, 1200),
    previous_step=st.integers(0, 1200),
    epoch=st.integers(0, 120),
    previous_epoch=st.integers(0, 120),
    now=st.floats(0, 2000),
    metrics=metrics,
    last_save_at=st.floats(0, 2000),
    best=metrics,
    lost_secs=st.lists(st.floats(0, 10), max_size=4),
    is_saving=st.booleans(),
    has_saved=st.booleans(),
)


@st.composite
def histories(draw, max_size=12):
    """Records of a run in the order of their commits; the run may have gone back, and so may the clock."""
    later = st.sampled_from([40, 60, 100, 300, -50]) | st.floats(-100, 500)
    record = st.tuples(st.integers(0, 20), later, metrics)
    rows = draw(st.lists(record, max_size=max_size))
    records, at = [], 100.0
    for sequence, (step, later, measured) in enumerate(rows, start=1):
        at += later
        prefix = f"run/ckpt-{sequence}-of-{step}"
        records.append(CheckpointRecord(prefix, step, created_at=at, metrics=measured, sequence=sequence))
    return records
