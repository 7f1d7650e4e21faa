"""What the tests of the checkpoint files share: values of every type, and TensorFlow's side of things."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from ckptkit.dtypes import numpy_dtype

DTYPES = [tf.as_dtype(number) for number in types_pb2.DataType.values() if 0 < number < 100]  # beyond: references
FIXED = [dtype.name for dtype in DTYPES if dtype.size]
_NARROW = {"bool": 1, "int2": 1, "uint2": 3, "int4": 7, "uint4": 15, "float4_e2m1fn": 15}  # of a byte


def some(name, shape, seed=0):
    """An array with random bytes, of those that are a value of the type."""
    if name == "string":
        values = np.empty(shape, object)
        for at in np.ndindex(*shape):
            values[at] = np.random.default_rng([seed, *at]).bytes((seed + sum(at)) % 5)
        return values
    dtype = numpy_dtype(name)
    content = np.random.default_rng([seed, len(name)]).integers(0, 256, [*shape, dtype.itemsize], np.uint8)
    return (content & _NARROW.get(name, 255)).view(dtype).reshape(shape)


def raw(values):
    """The bytes of an array; of one of strings, or a string, what they are."""
    if isinstance(values, bytes):
        return values
    return values.tolist() if values.dtype == object else np.ascontiguousarray(values).tobytes()


def save(prefix, tensors, specs=None):
    """Let TensorFlow write a checkpoint."""
    names = list(tensors)
    specs = [""] * len(names) if specs is None else specs
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=specs, tensors=list(tensors.values()))


def restore(prefix, name, dtype, spec=""):
    """Let TensorFlow read a tensor."""
    read = tf.raw_ops.RestoreV2(
        prefix=str(prefix), tensor_names=[name], shape_and_slices=[spec], dtypes=[tf.as_dtype(dtype)]
    )
    return read[0]


def files(prefix):
    """Name and content of a checkpoint's files, the names from the prefix on."""
    found = sorted(prefix.parent.glob(f"{prefix.name}.*"))
    return {file.name.removeprefix(prefix.name): file.read_bytes() for file in found}
