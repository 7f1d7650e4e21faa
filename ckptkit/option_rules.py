"""What an option may be: the rules that arguments of a class and values in a file have to fit alike.

steps = whole_number(0, "must be a whole number of at least 0, or None", or_none=True)
steps.take("checkpoint_interval", numpy.int64(5))       # 5
steps.take("checkpoint_interval", -1)
# ValueError: checkpoint_interval must be a whole number of at least 0, or None, got -1.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ckptkit.combinators import Combinable
from ckptkit.policies import EverySteps, SavePolicy
from ckptkit.policy_text import read_frequency, read_policy

__all__ = [
    "EXIT_CODE",
    "FILE_NAME",
    "FLAG",
    "FREQUENCY",
    "HOURS",
    "METRIC",
    "PATH",
    "PATH_OR_NONE",
    "SECS",
    "SIGNALS",
    "VERBOSE",
    "Rule",
    "one_of",
    "policy_of",
    "some_of",
    "whole_number",
]

_SHOWN = 200


@dataclass(frozen=True)
class Rule:
    """What one option may be.

    Attributes:
        says: What is wanted, as a refusal says it of the option; or all of it, with ``{name}`` for the option.
        fits: Says whether a value is what is wanted.
        kept: Returns what a value that fits is kept as.
        of_text: Returns the value that a text in a file stands for.
        error: What a refusal is raised as.
    """

    says: str
    fits: Callable[[Any], bool]
    kept: Callable[[Any], Any] = lambda value: value
    of_text: Callable[[str], Any] = lambda text: text
    error: type[Exception] = ValueError

    def take(self, name: str, value: Any, *, none: str = "None") -> Any:
        """Return a value as it is kept.

        Args:
            name: The option.
            value: What was asked for.
            none: How it is written where it was asked for that there is to be nothing.

        Raises:
            ValueError: It does not fit; by some rules this is a TypeError.
        """
        if not self.fits(value):
            got = repr(value)
            got = got if len(got) <= _SHOWN else got[: _SHOWN - 1] + "…"
            raise self.error(f"{self.wanted(name, none)}, got {got}.")
        try:
            return self.kept(value)
        except ValueError as error:
            raise ValueError(f"{self.wanted(name, none)}.\n{error}") from error

    def wanted(self, name: str, none: str = "None") -> str:
        """Return what is wanted of an option, as a sentence without its end."""
        says = self.says.replace("None", none)
        return says.replace("{name}", name) if "{name}" in says else f"{name} {says}"


def whole_number(least: int, says: str, *, or_none: bool = False) -> Rule:
    """Return the rule of a whole number, NumPy's among them."""

    def fits(value: Any) -> bool:
        return or_none if value is None else _is_whole(value, least)

    return Rule(says, fits, lambda value: None if value is None else operator.index(value))


def one_of(words: Collection[str | None], says: str) -> Rule:
    """Return the rule of one of some words."""
    return Rule(says, lambda value: (value is None or isinstance(value, str)) and value in words)


def some_of(words: Collection[str], says: str) -> Rule:
    """Return the rule of at least one of some words, in a list."""

    def fits(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        return is_list and all(isinstance(word, str) and word in words for word in value)

    return Rule(says, fits, tuple)


def policy_of(family: type[Combinable]) -> Rule:
    """Return the rule of a policy of one family, or None; a file has its text."""
    return Rule(
        f"must come from {family.__module__}",
        lambda value: value is None or isinstance(value, family),
        of_text=lambda text: read_policy(text, family),
        error=TypeError,
    )


def _is_path(value: Any) -> bool:
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else b""
    return isinstance(path, str) and "\0" not in path


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value == os.path.basename(value) and "\0" not in value


def _is_hours(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return value is None or (is_number and 0 <= value < math.inf)


def _is_whole(value: Any, least: int) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        return False


def _is_secs(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return value is None or (is_number and 0 < value < math.inf)


def _are_signals(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(_name_of(each) is not None for each in value)


def _name_of(each: Any) -> str | None:
    """Return the name of a signal that a program may handle, None for anything else."""
    name = each.name if isinstance(each, signal.Signals) else each
    is_known = isinstance(name, str) and name in signal.Signals.__members__
    return name if is_known and name not in ("SIGKILL", "SIGSTOP") else None


def _is_frequency(value: Any) -> bool:
    return isinstance(value, (str, SavePolicy)) or _is_whole(value, 1)


def _policy(frequency: Any) -> SavePolicy:
    if isinstance(frequency, str):
        return read_frequency(frequency)
    return frequency if isinstance(frequency, SavePolicy) else EverySteps(operator.index(frequency))


PATH = Rule("must be a path", _is_path, os.fspath, error=TypeError)
PATH_OR_NONE = Rule(
    "must be a path, or None",
    lambda value: value is None or _is_path(value),
    lambda value: None if value is None else os.fspath(value),
    error=TypeError,
)
FILE_NAME = Rule("must be a plain file name", _is_file_name)
FLAG = Rule("must be True or False", lambda value: isinstance(value, bool))
HOURS = Rule(
    "must be a number of hours of at least 0, or None",
    _is_hours,
    lambda value: None if value is None else float(value),
)
SECS = Rule(
    "must be a number of seconds of more than 0, or None",
    _is_secs,
    lambda value: None if value is None else float(value),
)
EXIT_CODE = Rule(
    "must be an exit code, a whole number from 0 to 255",
    lambda value: _is_whole(value, 0) and value <= 255,
    operator.index,
)
SIGNALS = Rule(
    'must be a list of signals that a program can handle, such as ["SIGTERM", "SIGUSR1"]',
    _are_signals,
    lambda value: tuple(map(_name_of, value)),
)
VERBOSE = Rule("must be 0 or 1", lambda value: isinstance(value, bool) or (_is_whole(value, 0) and value <= 1), int)
METRIC = Rule(
    "must be a metric's name, or None", lambda value: value is None or (isinstance(value, str) and value != "")
)
FREQUENCY = Rule(
    'must be "epoch", a number of steps or a policy, or a text such as "500 steps" or "10 min"',
    _is_frequency,
    _policy,
    of_text=lambda text: read_policy(text, SavePolicy) if "(" in text else text,
)
