"""Which checkpoint is better: by value, then by step and name, and NaN never."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.ranking import best_first, best_record, best_values, is_better
from ckptkit.records import CheckpointRecord


def record(step, **metrics):
    return CheckpointRecord(prefix=f"run/ckpt-{step}", step=step, metrics=metrics)


@pytest.mark.parametrize(
    ("value", "than", "mode", "better"),
    [
        (1.0, 2.0, "min", True),
        (2.0, 1.0, "min", False),
        (2.0, 1.0, "max", True),
        (1.0, 1.0, "min", False),
        (1.0, 1.0, "max", False),
        (math.inf, None, "min", True),
        (-math.inf, None, "max", True),
        (9.0, math.nan, "min", True),
        (math.nan, None, "min", False),
        (math.nan, math.nan, "max", False),
        (math.nan, 1.0, "max", False),
    ],
)
def test_nan_is_never_better_and_everything_else_is_better_than_nothing(value, than, mode, better):
    assert is_better(value, than, mode) is better


@settings(deadline=None)
@given(st.lists(st.none() | st.floats()), st.sampled_from(["min", "max"]))
def test_the_best_record_is_the_earliest_of_those_that_no_other_beats(values, mode):
    records = [record(i, **({} if value is None else {"loss": value})) for i, value in enumerate(values)]
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    best = best_record(records, "loss", mode)
    if not numbers:
        assert best is None
    else:
        wanted = min(numbers) if mode == "min" else max(numbers)
        assert best is next(r for r in records if r.metrics.get("loss") == wanted)


def test_a_record_without_the_metric_does_not_compete():
    assert best_record([record(1, accuracy=1.0), record(2)], "loss", "min") is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats()), max_size=8), st.sampled_from(["min", "max"]), st.randoms())
def test_the_order_in_which_records_come_does_not_decide(rows, mode, random):
    records = [CheckpointRecord(f"run/{i}-{step}", step, metrics={"loss": loss}) for i, (step, loss) in enumerate(rows)]
    shuffled = random.sample(records, len(records))
    assert best_first(records, "loss", mode) == best_first(shuffled, "loss", mode)


def test_of_equals_the_earlier_step_is_better_and_then_the_name():
    equal = [
        CheckpointRecord(f"run/{name}", step, metrics={"loss": 1.0}) for name, step in [("b", 2), ("a", 2), ("z", 1)]
    ]
    assert [each.name for each in best_first(equal, "loss", "min")] == ["z", "a", "b"]


def test_best_values_are_those_that_nothing_measured_beats():
    measured = [{"loss": 2.0, "acc": math.nan}, {"loss": 1.0, "other": 9.0}, {}, {"acc": 0.5}, {"acc": 0.7}]
    assert best_values(*measured, modes={"loss": "min", "acc": "max", "never": "min"}) == {"loss": 1.0, "acc": 0.7}
