"""TensorFlow's checkpoint files against TensorFlow: each reads what the other wrote, and damage is always seen."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.dtypes import numpy_dtype

DTYPES = [tf.as_dtype(number) for number in range(1, 34)]
FIXED = [dtype.name for dtype in DTYPES if dtype not in (tf.string, tf.variant, tf.resource)]


def some(name, shape):
    """An array with random bytes, of those that are a value of the type."""
    dtype = numpy_dtype(name)
    content = np.random.default_rng(len(name)).integers(0, 256, [*shape, dtype.itemsize], np.uint8)
    if name in ("bool", "int2", "uint2", "int4", "uint4", "float4_e2m1fn"):
        content &= {"b": 1, "i": 1, "u": 1, "f": 7}[name[0]]
    return content.view(dtype).reshape(shape)


def raw(values):
    """The bytes of an array or a tensor of TensorFlow's."""
    return np.ascontiguousarray(values).tobytes()


def restored(prefix, name, dtype, spec=""):
    """What TensorFlow reads."""
    return tf.raw_ops.RestoreV2(prefix=str(prefix), tensor_names=[name], shape_and_slices=[spec], dtypes=[dtype])[0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (3, 4, 2)], ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_tensorflow_reads_every_dtype_that_we_write_and_we_what_it_writes_then(name, shape, tmp_path):
    values = some(name, shape)
    with BundleWriter(tmp_path / "ours") as writer:
        writer.add("x", values, dtype=name)
    tensor = restored(tmp_path / "ours", "x", tf.as_dtype(name))
    assert (tensor.dtype.name, tuple(tensor.shape), raw(tensor.numpy())) == (name, shape, raw(values))
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "tf"), tensor_names=["x"], shape_and_slices=[""], tensors=[tensor])
    with Bundle(tmp_path / "tf") as bundle:
        again = bundle.read("x")
    assert (again.dtype, again.shape, raw(again)) == (numpy_dtype(name), shape, raw(values))
    for file in ("index", "data-00000-of-00001"):
        assert (tmp_path / f"ours.{file}").read_bytes() == (tmp_path / f"tf.{file}").read_bytes()
