"""What an event of a history says, by type: a line of the file may say anything, and what is odd counts as not said.

whole(event, "step")        # 1200, or None
number(event, "lost_secs")  # 0.04, or None
text(event, "name")         # "ckpt-1200", or ""
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from ckptkit.history import Event

__all__ = ["metrics", "names", "number", "text", "whole"]

_MOST = (1 << 64) - 1


def whole(event: Event, key: str) -> int | None:
    """Return a count; None where there is none."""
    value = event.facts.get(key)
    return value if _is_number(value) and isinstance(value, int) and 0 <= value <= _MOST else None


def number(event: Event, key: str) -> float | None:
    """Return a number; None where there is none, or it is not finite."""
    value = event.facts.get(key)
    return float(value) if _is_number(value) and abs(value) <= _MOST else None


def text(event: Event, key: str) -> str:
    """Return a text, "" where there is none."""
    value = event.facts.get(key)
    return value if isinstance(value, str) else ""


def names(event: Event, key: str) -> tuple[str, ...]:
    """Return those members of a list that are texts."""
    values = event.facts.get(key)
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def metrics(event: Event) -> dict[str, float]:
    """Return the metrics, NaN and the infinities among them."""
    found = event.facts.get("metrics")
    if not isinstance(found, dict):
        return {}
    return {str(name): _float(value) for name, value in found.items() if _is_number(value)}


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return math.inf if value > 0 else -math.inf
