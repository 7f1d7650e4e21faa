"""Refuse arguments that cannot be meant, with a message that says whose they are, what was got and what is wanted.

require_count(self, "n", 0)                # ValueError: EverySteps takes n = a whole number of at least 1, got 0.
require_number(self, "secs", math.inf)     # ValueError: EverySecs takes secs = a number of more than 0, got inf.
"""

from __future__ import annotations

import math
import operator
from typing import Any

__all__ = ["require_count", "require_metric", "require_mode", "require_number", "require_steps"]

_LARGEST = math.nextafter(math.inf, 0.0)  # beyond lie infinity and whole numbers that no float can hold


def require_count(owner: object, name: str, value: Any) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        ValueError: It is not.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    _require(is_whole and value >= 1, owner, name, value, "a whole number of at least 1")


def require_number(owner: object, name: str, value: Any, *, below: float | None = None) -> float:
    """Return a number as Python's own, for one of NumPy has another repr.

    Refuse what is not finite and more than 0, and less than a bound if there is one.

    Raises:
        ValueError: It is not.
    """
    wanted = "a number of more than 0" + ("" if below is None else f" and less than {below:g}")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fine = is_number and 0 < value <= _LARGEST and (below is None or value < below)
    _require(fine, owner, name, value, wanted)
    return int(value) if isinstance(value, int) else float(value)


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


def require_steps(owner: object, value: Any, *, least: int = 0) -> tuple[int, ...]:
    """Return step numbers in order, each once.

    Raises:
        ValueError: They are none, or some are no step numbers, or less than ``least``.
    """
    steps = _whole_numbers(value)
    _require(bool(steps) and min(steps) >= least, owner, "steps", value, f"some step numbers of at least {least}")
    return tuple(sorted(steps))


def _whole_numbers(values: Any) -> set[int]:
    """Return what is in ``values``, nothing if that is no whole number throughout."""
    try:
        numbers = () if isinstance(values, bytes) else tuple(values)
        # As int() would have it, but without taking 2.5 or True for one: NumPy's whole numbers know __index__, too.
        return set() if any(_is_truth(each) for each in numbers) else set(map(operator.index, numbers))
    except TypeError:
        return set()


def _is_truth(value: Any) -> bool:
    # Before 2.1 NumPy's own knows __index__.
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b"


def _require(fine: bool, owner: object, name: str, value: Any, wanted: str) -> None:
    if not fine:
        raise ValueError(f"{type(owner).__name__} takes {name} = {wanted}, got {value!r}.")
