r"""Parts of a tensor: how ``SaveV2`` is told of one, and the key under which a checkpoint stores it.

shape, part = parse_shape_and_slice("20 10 0,5:-")  # of a tensor of 20 by 10 the first 5 rows
part.shape_in(shape)  # (5, 10)
slice_key("kernel", part)  # b"\0kernel\0\1\1\2\x80\x85\x80\x7f"

Source: tensorflow/core/framework/tensor_slice.h, tensorflow/core/util/saved_tensor_slice_util.h and, for the key,
tensorflow/core/lib/strings/ordered_code.h.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["TensorSlice", "are_tiles", "overlap", "parse_shape_and_slice", "slice_key", "within"]

Bounds: TypeAlias = tuple[slice, ...]

_MAX = (1 << 63) - 1
_ESCAPED = {b"\0": b"\0\xff", b"\xff": b"\xff\0"}
_SPECIAL = re.compile(rb"[\0\xff]")


@dataclass(frozen=True)
class TensorSlice:
    """A part of a tensor: for each dimension where it starts and how long it is, None for all of the dimension."""

    extents: tuple[tuple[int, int] | None, ...]

    def __post_init__(self) -> None:
        for extent in self.extents:
            if extent is not None and (extent[0] < 0 or extent[1] <= 0 or sum(extent) > _MAX):
                raise ValueError(f"a slice starts at 0 or later and is not empty, got {self}")

    def __str__(self) -> str:
        return ":".join("-" if extent is None else f"{extent[0]},{extent[1]}" for extent in self.extents)

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> TensorSlice:
        """Return the part of a tensor that is all of it."""
        return cls((None,) * len(shape))

    @classmethod
    def parse(cls, text: str) -> TensorSlice:
        """Read ``0,5:-``: a start and a length, or a dash, for each dimension."""
        try:
            return cls(tuple(None if part == "-" else _pair(part) for part in text.split(":")))
        except ValueError as error:
            raise ValueError(f"a slice reads like '0,5:-', got {text!r}: {error}") from error

    def shape_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of this part of a tensor of some shape; ValueError if it has no such part."""
        return tuple(bounds.stop - bounds.start for bounds in self.bounds_in(shape))

    def bounds_in(self, shape: tuple[int, ...]) -> Bounds:
        """Return what picks this part out of an array of some shape; ValueError if it has no such part."""
        if len(shape) != len(self.extents):
            raise ValueError(f"slice {self} is of {len(self.extents)} dimensions, shape {shape} has {len(shape)}")
        bounds = tuple(slice(0, size) if e is None else slice(e[0], sum(e)) for e, size in zip(self.extents, shape))
        if any(bound.stop > size for bound, size in zip(bounds, shape)):
            raise ValueError(f"slice {self} reaches beyond shape {shape}")
        return bounds


def _pair(text: str) -> tuple[int, int]:
    start, length = text.split(",")
    return int(start), int(length)


def parse_shape_and_slice(spec: str) -> tuple[tuple[int, ...], TensorSlice]:
    """Read one of the ``shape_and_slices`` of ``SaveV2``, ``20 10 0,5:-``: the whole tensor's shape, and the part.

    Raises:
        ValueError: It does not read like that, or the tensor has no such part.
    """
    try:
        *dims, text = spec.split()
        shape, part = tuple(int(dim) for dim in dims), TensorSlice.parse(text)
        part.bounds_in(shape)
    except ValueError as error:
        raise ValueError(f"a shape and slice reads like '20 10 0,5:-', got {spec!r}: {error}") from error
    return shape, part


def overlap(a: Bounds, b: Bounds) -> Bounds | None:
    """Return what two parts of a tensor have in common, None if that is nothing."""
    common = tuple(slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b))
    return None if any(bound.start >= bound.stop for bound in common) else common


def are_tiles(parts: Sequence[Bounds], shape: tuple[int, ...]) -> bool:
    """Say whether parts cover a tensor of some shape, each of its elements once."""
    if sum(math.prod(bound.stop - bound.start for bound in part) for part in parts) != math.prod(shape):
        return False
    # So many elements in all, and none twice: none is left out. A part meets only those that begin before it ends.
    parts = sorted(parts, key=_starts)
    for at, part in enumerate(parts):
        for other in parts[at + 1 :]:
            if part and other[0].start >= part[0].stop:
                break
            if overlap(part, other) is not None:
                return False
    return True


def _starts(part: Bounds) -> list[int]:
    return [bound.start for bound in part]


def within(inner: Bounds, outer: Bounds) -> Bounds:
    """Return where a part lies in another one that holds it."""
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer))


def slice_key(name: str, part: TensorSlice) -> bytes:
    """Return the key under which the data of a tensor's part are stored."""
    escaped = _SPECIAL.sub(lambda match: _ESCAPED[match[0]], name.encode("utf-8", "surrogateescape"))
    numbers = [number for extent in part.extents for number in ((0, -1) if extent is None else extent)]
    return b"\0" + escaped + b"\0\1" + _unsigned(len(part.extents)) + b"".join(map(_signed, numbers))


def _unsigned(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """Encode a number so that order is kept: as many leading bits as bytes tell the length, inverted below zero."""
    size = 1
    while not -1 << 7 * size - 1 <= value < 1 << 7 * size - 1:
        size += 1
    header = (1 << size) - 1 << 7 * size
    return ((value ^ header) & (1 << 8 * size) - 1).to_bytes(size, "big")
