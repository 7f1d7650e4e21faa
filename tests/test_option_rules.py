"""What an option may be, and how a refusal says it."""

from __future__ import annotations

import math
import pathlib
import re
import signal

import numpy as np
import pytest

from ckptkit.option_rules import (
    EXIT_CODE,
    FILE_NAME,
    FLAG,
    FREQUENCY,
    HOURS,
    METRIC,
    PATH,
    SECS,
    SIGNALS,
    Rule,
    one_of,
    policy_of,
    some_of,
    whole_number,
)
from ckptkit.policies import EveryEpochs, EverySecs, EverySteps, SavePolicy
from ckptkit.preservation import Latest, PreservationPolicy

COUNT = whole_number(1, "must be a count")
NOT_FINITE = (math.inf, math.nan)
MAYBE = whole_number(0, "must be a count, or None", or_none=True)
WORD = one_of({"raise", "warn", None}, "must be a word")
WORDS = some_of({"h5", "keras", "k"}, "must be some words")


def told(value):
    """Return a test's name that is the same in every process: a rule has addresses in its repr."""
    return value.says if isinstance(value, Rule) else repr(value)


@pytest.mark.parametrize(
    ("rule", "value", "kept"),
    [
        (COUNT, 1, 1),
        (COUNT, np.int64(3), 3),
        (MAYBE, 0, 0),
        (MAYBE, None, None),
        (WORD, "warn", "warn"),
        (WORD, None, None),
        (WORDS, ["keras", "h5"], ("keras", "h5")),
        (PATH, "runs/a", "runs/a"),
        (PATH, pathlib.PurePosixPath("runs/a"), "runs/a"),
        (PATH, "~/$HOME", "~/$HOME"),
        (FILE_NAME, "ckpt", "ckpt"),
        (FLAG, False, False),
        (HOURS, None, None),
        (HOURS, 0, 0.0),
        (HOURS, np.float32(1.5), 1.5),
        (SECS, None, None),
        (SECS, 30, 30.0),
        (SECS, np.float32(0.5), 0.5),
        (EXIT_CODE, 0, 0),
        (EXIT_CODE, np.int64(255), 255),
        (SIGNALS, [], ()),
        (SIGNALS, ["SIGUSR1", signal.SIGTERM], ("SIGUSR1", "SIGTERM")),
        (METRIC, "val_loss", "val_loss"),
        (METRIC, None, None),
        (FREQUENCY, "epoch", EveryEpochs(1)),
        (FREQUENCY, 500, EverySteps(500)),
        (FREQUENCY, np.int32(5), EverySteps(5)),
        (FREQUENCY, "10 min", EverySecs(600)),
        (FREQUENCY, EverySteps(3) | EveryEpochs(), EverySteps(3) | EveryEpochs()),
        (policy_of(SavePolicy), EverySteps(3), EverySteps(3)),
        (policy_of(PreservationPolicy), None, None),
    ],
    ids=told,
)
def test_what_fits_is_kept_as_a_plain_value_or_a_policy(rule, value, kept):
    taken = rule.take("name", value)
    assert taken == kept
    assert type(taken) is type(kept)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        *((COUNT, value, f"name must be a count, got {value!r}.") for value in (0, -1, 1.0, True, "5", None, [1])),
        (COUNT, np.zeros(2), "name must be a count, got array([0., 0.])."),
        (COUNT, np.array([1, 2]), "name must be a count, got array([1, 2])."),
        *((MAYBE, value, f"name must be a count, or None, got {value!r}.") for value in (-1, 0.5, False)),
        *((WORD, value, f"name must be a word, got {value!r}.") for value in ("Raise", 3, ["warn"], b"warn")),
        *(
            (WORDS, value, f"name must be some words, got {value!r}.")
            for value in ([], "h5", "k", ["h6"], [["h5"]], None, 3)
        ),
        *((PATH, value, f"name must be a path, got {value!r}.") for value in (3, None, b"runs", ["a"], "a\0b")),
        *((FILE_NAME, v, f"name must be a plain file name, got {v!r}.") for v in ("", "a/b", "a\0", None, 3)),
        *((FLAG, value, f"name must be True or False, got {value!r}.") for value in (0, 1, "yes", None)),
        *((HOURS, v, f"name must be a number of hours of at least 0, or None, got {v!r}.") for v in (-1, True, "1")),
        *((HOURS, v, f"name must be a number of hours of at least 0, or None, got {v!r}.") for v in NOT_FINITE),
        *(
            (SECS, v, f"name must be a number of seconds of more than 0, or None, got {v!r}.")
            for v in (0, -1, True, "1")
        ),
        *((SECS, v, f"name must be a number of seconds of more than 0, or None, got {v!r}.") for v in NOT_FINITE),
        *((EXIT_CODE, v, f"a whole number from 0 to 255, got {v!r}.") for v in (-1, 256, 1.0, True, None)),
        *(
            (SIGNALS, value, f'such as ["SIGTERM", "SIGUSR1"], got {value!r}.')
            for value in ("SIGTERM", ["SIGKILL"], ["SIGSTOP"], ["TERM"], [15], None, [None], 3)
        ),
        *((METRIC, value, f"name must be a metric's name, or None, got {value!r}.") for value in ("", 3, True)),
        *((FREQUENCY, v, f'"500 steps" or "10 min", got {v!r}.') for v in (0, -3, True, 2.5, None, Latest(1))),
        (FREQUENCY, "5 stepz", '"500 steps" or "10 min".\n\'5 stepz\' says no frequency: '),
        (FREQUENCY, "0 s", '"500 steps" or "10 min".\nEverySecs takes secs = '),
        (policy_of(SavePolicy), Latest(1), "name must come from ckptkit.policies, got Latest(n=1)."),
        (policy_of(SavePolicy), "Always()", "name must come from ckptkit.policies, got 'Always()'."),
        (policy_of(PreservationPolicy), 3, "name must come from ckptkit.preservation, got 3."),
    ],
    ids=told,
)
def test_what_does_not_fit_is_refused_with_what_is_wanted_and_what_was_got(rule, value, message):
    with pytest.raises(rule.error, match=re.escape(message)):
        rule.take("name", value)


def test_a_refusal_says_of_what_kind_the_value_must_be_as_a_type_error_where_that_is_it():
    assert {rule.error for rule in (PATH, policy_of(SavePolicy))} == {TypeError}
    plain = (COUNT, WORD, WORDS, FILE_NAME, FLAG, HOURS, SECS, EXIT_CODE, SIGNALS, METRIC, FREQUENCY)
    assert {rule.error for rule in plain} == {ValueError}


def test_a_refusal_names_nothing_as_it_is_written_where_it_was_asked_for_and_shortens_what_is_long():
    with pytest.raises(ValueError, match=r"^name must be a count, or null, got 'None'\.$"):
        MAYBE.take("name", "None", none="null")
    with pytest.raises(ValueError, match=r"^name must be a count, got 'x{198}…\.$"):
        COUNT.take("name", "x" * 1000)


def test_a_rule_may_say_all_of_a_refusal_itself():
    rule = Rule("Expected `None` for `{name}`", lambda value: value is None)
    with pytest.raises(ValueError, match=r"^Expected `None` for `max_to_keep`, got 0\.$"):
        rule.take("max_to_keep", 0)


def test_a_text_in_a_file_is_read_as_a_policy_where_one_is_wanted():
    assert policy_of(SavePolicy).of_text("EverySteps(3)") == EverySteps(3)
    assert policy_of(PreservationPolicy).of_text("Latest(3)") == Latest(3)
    assert FREQUENCY.of_text("EverySteps(3) | EveryEpochs()") == EverySteps(3) | EveryEpochs()
    assert FREQUENCY.of_text("10 min") == "10 min"
    assert WORD.of_text("warn") == "warn"
