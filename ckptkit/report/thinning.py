"""Fewer points that look the same: what sticks out stays, so that no spike is hidden.

kept = thinned([0.9, 0.8, 9.0, 0.7], most=2)      # [2, 3], the places of those that stay
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["spread", "thinned", "tops"]


def thinned(values: Sequence[float], most: int) -> list[int]:
    """Return the places of about ``most`` values, the smallest and the largest of each stretch of them among these."""
    if len(values) <= most:
        return list(range(len(values)))
    places = {0, len(values) - 1}
    for stretch in _stretches(len(values), most // 2):
        finite = [at for at in stretch if math.isfinite(values[at])]
        # A gap stays one: of a stretch that has a value that is none, one such stays too.
        odd = next((at for at in stretch if not math.isfinite(values[at])), None)
        places.update(() if odd is None else (odd,))
        if finite:
            places.update((min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)))
    return sorted(places)


def tops(values: Sequence[float], most: int) -> list[int]:
    """Return the places of ``most`` values at most, the largest of each stretch of them."""
    if len(values) <= most:
        return list(range(len(values)))
    return [max(stretch, key=values.__getitem__) for stretch in _stretches(len(values), most)]


def spread(count: int, most: int) -> list[int]:
    """Return ``most`` places of ``count`` at most, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [at * (count - 1) // (most - 1) for at in range(most)]


def _stretches(count: int, number: int) -> list[range]:
    edges = [at * count // number for at in range(number + 1)]
    return [range(begin, end) for begin, end in pairwise(edges)]
