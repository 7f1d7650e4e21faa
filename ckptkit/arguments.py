"""Refuse arguments that cannot be meant, with a message that says whose they are, what was got and what is wanted.

require_count(self, "n", 0)                # ValueError: EverySteps takes n = a whole number of at least 1, got 0.
require_seconds(self, "secs", math.inf)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

__all__ = ["require_count", "require_metric", "require_mode", "require_number", "require_steps"]


def require_count(owner: object, name: str, value: Any) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        ValueError: It is not.
    """
    _require(_is_whole(value) and value >= 1, owner, name, value, "a whole number of at least 1")


def require_number(owner: object, name: str, value: Any, *, below: float = math.inf) -> None:
    """Refuse what is not a finite number of more than 0 and less than a bound.

    Raises:
        ValueError: It is not.
    """
    wanted = "a number of more than 0" + ("" if below == math.inf else f" and less than {below:g}")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(is_number and 0 < value < below, owner, name, value, wanted)


def require_metric(owner: object, value: Any) -> None:
    """Refuse what is not the name of a metric.

    Raises:
        ValueError: It is not.
    """
    _require(isinstance(value, str) and value != "", owner, "monitor", value, "a metric's name")


def require_mode(owner: object, value: Any) -> None:
    """Refuse what does not say whether smaller or larger is better.

    Raises:
        ValueError: It does not.
    """
    _require(isinstance(value, str) and value in ("min", "max"), owner, "mode", value, "'min' or 'max'")


def require_steps(owner: object, value: Any) -> tuple[int, ...]:
    """Return step numbers in order, each once.

    Raises:
        ValueError: They are none, or some are no step numbers.
    """
    steps = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else ()
    # As int() would have it, but without taking 2.5 or True for a step: NumPy's whole numbers know __index__, too.
    whole = [hasattr(step, "__index__") and not isinstance(step, bool) and step >= 0 for step in steps]
    _require(bool(steps) and all(whole), owner, "steps", value, "some step numbers of at least 0")
    return tuple(sorted({int(step) for step in steps}))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(fine: bool, owner: object, name: str, value: Any, wanted: str) -> None:
    if not fine:
        raise ValueError(f"{type(owner).__name__} takes {name} = {wanted}, got {value!r}.")
