"""Arguments that cannot be meant are refused, with a message that says whose they are, what was got, what is wanted."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest

from ckptkit.arguments import require_count, require_metric, require_mode, require_number, require_steps
from ckptkit.policies import EverySecs, OverheadBudget
from ckptkit.preservation import EveryNSecs, NewerThan


class Owner:
    """Whose argument it is."""


@pytest.mark.parametrize("value", [0, -1, 1.0, math.nan, True, "5", None, [1]], ids=repr)
def test_a_count_is_a_whole_number_of_at_least_1(value):
    require_count(Owner(), "n", 1)
    require_count(Owner(), "n", 10**30)
    message = f"Owner takes n = a whole number of at least 1, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require_count(Owner(), "n", value)


@pytest.mark.parametrize(
    "value", [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, 10**400, True, "60", None, 1j, [1]], ids=repr
)
def test_a_number_is_finite_and_more_than_0(value):
    for fine in (1, 0.1, 5e-324, sys.float_info.max, 10**300):
        require_number(Owner(), "secs", fine)
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'Owner takes secs = a number of more than 0, got {value!r}.')}$"
    ):
        require_number(Owner(), "secs", value)


@pytest.mark.parametrize("value", [0.0, 1, 1.0, 1.5, math.inf, math.nan, True, None], ids=repr)
def test_a_number_with_a_bound_is_less_than_it(value):
    require_number(Owner(), "share", math.nextafter(1.0, 0.0), below=1.0)
    message = f"Owner takes share = a number of more than 0 and less than 1, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require_number(Owner(), "share", value, below=1.0)


@pytest.mark.parametrize("value", ["", None, 3, b"loss", ["loss"]], ids=repr)
def test_a_monitor_is_the_name_of_a_metric(value):
    require_metric(Owner(), "val_loss")
    message = f"Owner takes monitor = a metric's name, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require_metric(Owner(), value)


@pytest.mark.parametrize("value", ["auto", "", "Min", "m", None, 1, ["min"], {}], ids=repr)
def test_a_mode_is_min_or_max(value):
    require_mode(Owner(), "min")
    require_mode(Owner(), "max")
    message = f"Owner takes mode = 'min' or 'max', got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require_mode(Owner(), value)


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        ([3, 1, 3], (1, 3)),
        ((0,), (0,)),
        ({5, 2}, (2, 5)),
        (range(0, 9, 4), (0, 4, 8)),
        (iter([2, 1]), (1, 2)),
        (np.array([7, 3]), (3, 7)),
        ([np.int64(4), 10**30], (4, 10**30)),
    ],
)
def test_steps_come_out_in_order_each_once_as_plain_numbers(value, steps):
    found = require_steps(Owner(), value)
    assert found == steps
    assert all(type(step) is int for step in found)


NO_STEPS = [[], (), "", "12", b"12", 5, None, [1.0], [1, -1], [True], [1, False], ["1"], [None]]
NO_STEPS += [np.array(5), np.array([1.0]), np.array([True]), np.array([[1, 2]])]


@pytest.mark.parametrize("value", NO_STEPS, ids=repr)
def test_steps_that_are_none_or_no_step_numbers_are_refused(value):
    message = f"Owner takes steps = some step numbers of at least 0, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require_steps(Owner(), value)


def test_steps_may_have_to_begin_later():
    assert require_steps(Owner(), [2, 1], least=1) == (1, 2)
    with pytest.raises(ValueError, match=r"^Owner takes steps = some step numbers of at least 1, got \[5, 0\]\.$"):
        require_steps(Owner(), [5, 0], least=1)


def test_an_error_that_the_users_own_sequence_raises_is_not_hidden():
    def broken():
        yield 1
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match=r"^my own$"):
        require_steps(Owner(), broken())


@pytest.mark.parametrize(
    "policy", [EverySecs(np.float64(3.0)), NewerThan(np.float64(3.0)), EveryNSecs(np.float64(3.0))]
)
def test_a_number_of_numpy_becomes_one_of_python(policy):
    assert type(policy.secs) is float
    assert repr(policy) == f"{type(policy).__name__}(secs=3.0)"


def test_a_whole_number_stays_one():
    assert repr(EverySecs(3)) == "EverySecs(secs=3)"
    assert repr(OverheadBudget(np.float64(0.5), 60)) == "OverheadBudget(max_fraction=0.5, mtbf_secs=60)"
