"""What is in a tensor of a checkpoint, in a few numbers, and how far two of them lie apart; without TensorFlow.

with Bundle("run/ckpt-1") as bundle:
    summary_of(bundle, bundle.entries["kernel"])  # Summary(least=-0.3, greatest=0.4, mean=0.01, nans=0)

A tensor is read a piece after the other: a large one takes no more memory than a small one. Numbers are added up in
float64. Of complex values the magnitudes are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry
from ckptkit.dtypes import OF_ANY_LENGTH

__all__ = ["Distance", "Summary", "distance_between", "summary_of"]

Array: TypeAlias = np.ndarray[Any, Any]
Told: TypeAlias = Callable[[int], None]

_PIECE = 1 << 17  # values at a time: a megabyte of float64


@dataclass(frozen=True)
class Summary:
    """What is in a tensor.

    Attributes:
        least: The least value that is a number; None if there is none.
        greatest: The greatest.
        mean: The mean of those that are numbers.
        nans: How many values are not a number.
    """

    least: float | None
    greatest: float | None
    mean: float | None
    nans: int


@dataclass(frozen=True)
class Distance:
    """How far two tensors of one shape and dtype lie apart.

    Attributes:
        change: The norm of the difference, divided by that of the first one; infinite where that is 0. Values that are
            not a number in either are left out. None where there are no numbers to compare.
        differing: How many values are others; one that is not a number in both is the same.
        nans: How many values are not a number in the first, and in the second.
    """

    change: float | None
    differing: int
    nans: tuple[int, int] = (0, 0)


def summary_of(bundle: Bundle, entry: Entry, told: Told = lambda size: None) -> Summary | None:
    """Read a tensor and return what is in it; None for one of strings or variants.

    Raises:
        CheckpointDamagedError: It is not what was written.
        UnsupportedBundleError: NumPy has no such dtype or shape.
    """
    if entry.dtype in OF_ANY_LENGTH:
        return None
    least, greatest, total, count, nans = math.inf, -math.inf, 0.0, 0, 0
    for piece in bundle.pieces(entry, _PIECE, told):
        numbers = _numbers(piece)
        is_nan = np.isnan(numbers)
        if is_nan.any():
            nans += int(is_nan.sum())
            numbers = numbers[~is_nan]
        if len(numbers):
            least, greatest = min(least, numbers.min().item()), max(greatest, numbers.max().item())
            count += len(numbers)
            with np.errstate(over="ignore", invalid="ignore"):
                total += float(numbers.sum(dtype=np.float64))
    return Summary(least, greatest, total / count, nans) if count else Summary(None, None, None, nans)


def distance_between(a: tuple[Bundle, Entry], b: tuple[Bundle, Entry], told: Told = lambda size: None) -> Distance:
    """Read two tensors of one shape and dtype, and return how far they lie apart.

    Raises:
        CheckpointDamagedError: One of them is not what was written.
        UnsupportedBundleError: NumPy has no such dtype or shape.
    """
    differing, nans, apart, size = 0, (0, 0), _Norm(), _Norm()
    for left, right in zip(*(bundle.pieces(entry, _PIECE, told) for bundle, entry in (a, b)), strict=True):
        if left.dtype.hasobject:
            differing += int((left != right).sum())
            continue
        x, y = (_wide(piece) for piece in (left, right))
        is_nan = np.isnan(x), np.isnan(y)
        both = ~(is_nan[0] | is_nan[1])
        is_other = np.where(both, left != right, is_nan[0] != is_nan[1])
        differing += int(is_other.sum())
        nans = nans[0] + int(is_nan[0].sum()), nans[1] + int(is_nan[1].sum())
        size.add(x[both])
        moved = both & is_other
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64, and between infinities
            apart.add(y[moved] - x[moved])
    if a[1].dtype in OF_ANY_LENGTH:
        return Distance(None, differing)
    return Distance(apart.relative_to(size), differing, nans)


class _Norm:
    """The Euclidean norm of values that come in pieces, neither too large nor too small for float64 on the way."""

    def __init__(self) -> None:
        self._scale = 0.0
        self._squares = 0.0  # of the values, divided by the scale

    def add(self, values: Array) -> None:
        sizes = np.abs(values)
        largest = float(sizes.max()) if len(sizes) else 0.0
        if largest == 0.0:
            return
        if largest > self._scale:
            self._squares *= (self._scale / largest) ** 2
            self._scale = largest
        if math.isfinite(self._scale):
            self._squares += float(((sizes / self._scale) ** 2).sum())

    def relative_to(self, other: _Norm) -> float:
        """Return this norm divided by another; infinite where that is none or this is."""
        if self._scale == 0.0:
            return 0.0
        if other._scale == 0.0 or math.isinf(self._scale):
            return math.inf
        return self._scale / other._scale * math.sqrt(self._squares / other._squares) if other._squares else 0.0


def _numbers(piece: Array) -> Array:
    """Return values that NumPy can order: of complex ones the magnitudes."""
    return np.abs(piece) if piece.dtype.kind == "c" else piece


def _wide(piece: Array) -> Array:
    return piece.astype(np.complex128 if piece.dtype.kind == "c" else np.float64)
