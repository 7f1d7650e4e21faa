"""TensorFlow's element types: their names, their numbers in files, and what NumPy holds them in.

numpy_dtype("bfloat16")  # ml_dtypes' bfloat16
numpy_dtype("qint8")  # int8: NumPy has no quantized types
numpy_dtype("string")  # object: bytes of any length each

Source: tensorflow/core/framework/types.proto.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from ckptkit.errors import UnsupportedBundleError

__all__ = ["OF_ANY_LENGTH", "bytes_of", "dtype_name", "dtype_number", "name_of", "numpy_dtype"]

OF_ANY_LENGTH = frozenset({"string", "variant"})

_NUMBERS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "string": 7,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "qint8": 11,
    "quint8": 12,
    "qint32": 13,
    "bfloat16": 14,
    "qint16": 15,
    "quint16": 16,
    "uint16": 17,
    "complex128": 18,
    "float16": 19,
    "resource": 20,
    "variant": 21,
    "uint32": 22,
    "uint64": 23,
    "float8_e5m2": 24,
    "float8_e4m3fn": 25,
    "float8_e4m3fnuz": 26,
    "float8_e4m3b11fnuz": 27,
    "float8_e5m2fnuz": 28,
    "int4": 29,
    "uint4": 30,
    "int2": 31,
    "uint2": 32,
    "float4_e2m1fn": 33,
}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def dtype_name(number: int) -> str:
    """Return the name that ``tf.DType.name`` has for a number in a file; ``unknown-99`` for one we do not know."""
    return _NAMES.get(number, f"unknown-{number}")


def dtype_number(name: str) -> int:
    """Return the number that stands in a file for a type.

    Raises:
        ValueError: There is no type of that name.
    """
    if name not in _NUMBERS:
        raise ValueError(f"no TensorFlow dtype is called {name!r} (there are: {', '.join(sorted(_NUMBERS))}).")
    return _NUMBERS[name]


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype with the same bytes as TensorFlow's; object for strings and variants.

    Raises:
        UnsupportedBundleError: It is not known here, or its values live in a process alone, like a resource's.
    """
    if name in OF_ANY_LENGTH:
        return np.dtype(object)
    if name in _NUMBERS:
        stored = name.removeprefix("q")
        scalar = getattr(ml_dtypes, stored, None) or np.sctypeDict.get(stored)
        if scalar is not None:
            return np.dtype(scalar)
    raise UnsupportedBundleError(f"cannot read values of dtype {name}: NumPy and ml_dtypes have no such type.")


def name_of(dtype: np.dtype[Any]) -> str:
    """Return TensorFlow's name for a NumPy dtype; also for the one-field dtypes in which it hands out quantized values.

    Raises:
        ValueError: TensorFlow has no such type.
    """
    name = "string" if dtype.hasobject else dtype.names[0] if dtype.names else dtype.name
    if name not in _NUMBERS:
        raise ValueError(f"cannot store an array of dtype {dtype}: TensorFlow has no such type. Convert it first.")
    return name


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of an array that lies in one piece, in row-major order, without a copy.

    Raises:
        ValueError: It does not lie in one piece.
    """
    if not array.flags.c_contiguous:
        raise ValueError(f"array of shape {array.shape} does not lie in one piece. Use numpy.ascontiguousarray(array).")
    # NumPy exports no buffer of ml_dtypes' types.
    return array.reshape(-1).view(np.uint8).data
