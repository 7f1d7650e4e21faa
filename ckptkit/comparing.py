"""Two checkpoints side by side: what only one of them has, what has another shape, and how far the rest has moved.

with Bundle("run/ckpt-1") as a, Bundle("run/ckpt-2") as b:
    comparison = compare(a, b)
    comparison.moved[0].name, comparison.moved[0].distance.change    # that which has changed most

Tensors are laid beside each other by their keys, and read a piece after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry
from ckptkit.errors import UnsupportedBundleError
from ckptkit.tensor_values import Distance, distance_between
from ckptkit.variable_names import display_names

__all__ = ["Comparison", "Moved", "Other", "compare"]


@dataclass(frozen=True)
class Moved:
    """A tensor that both have, in one shape and dtype."""

    key: str
    name: str
    distance: Distance


@dataclass(frozen=True)
class Other:
    """A tensor that only one has, or that is of another shape or dtype in the other; what it is in each, or None."""

    key: str
    name: str
    in_a: str | None
    in_b: str | None


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints have.

    Attributes:
        others: What is not in both, or not in one shape and dtype.
        moved: What has other values, the largest relative change first.
        same: What has the same.
    """

    others: tuple[Other, ...]
    moved: tuple[Moved, ...]
    same: tuple[Moved, ...]

    @property
    def is_same(self) -> bool:
        """Whether there is no difference."""
        return not (self.others or self.moved)


def compare(a: Bundle, b: Bundle, told: Callable[[int], None] = lambda size: None) -> Comparison:
    """Read two checkpoints and return how they differ.

    Args:
        a: The first.
        b: The second.
        told: Called with the number of bytes each time that some were read.

    Raises:
        CheckpointDamagedError: A tensor is not what was written.
    """
    names = {**display_names(b), **display_names(a)}
    kinds = {key: tuple(_said(bundle.entries.get(key)) for bundle in (a, b)) for key in names}
    compared = [
        Moved(key, names[key], _distance((a, a.entries[key]), (b, b.entries[key]), told))
        for key, (in_a, in_b) in kinds.items()
        if in_a == in_b
    ]
    return Comparison(
        tuple(Other(key, names[key], *kind) for key, kind in kinds.items() if kind[0] != kind[1]),
        tuple(sorted((each for each in compared if each.distance.differing), key=_largest_first)),
        tuple(each for each in compared if not each.distance.differing),
    )


def _distance(a: tuple[Bundle, Entry], b: tuple[Bundle, Entry], told: Callable[[int], None]) -> Distance:
    try:
        return distance_between(a, b, told)
    except UnsupportedBundleError:  # NumPy does not know such values: what is left are their bytes
        for bundle, entry in (a, b):
            bundle.check(entry, told)
        return Distance(None, int((a[1].size, a[1].checksum) != (b[1].size, b[1].checksum)))


def _said(entry: Entry | None) -> str | None:
    return None if entry is None else f"{entry.shape} {entry.dtype}"


def _largest_first(moved: Moved) -> tuple[float, str]:
    change = moved.distance.change
    return (math.inf if change is None else -change, moved.name)
