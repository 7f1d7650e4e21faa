"""Values that are held as they were at one moment, and their way from there into a file.

    held = graph.take()                         # see ``snapshot.py``: nothing is copied
    held.write("run/ckpt-1", buffers)           # in the background

What is held costs memory as soon as the training updates it: TensorFlow then writes to a fresh buffer instead. So small
values are copied into warm memory and let go at once. Large ones are written from where they lie and let go one by one:
a copy of them would take a processor as long as the update that it spares, and XLA, which decides when a step begins
where it writes, would not be spared. What an accelerator holds is copied to the host, and let go there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from ckptkit.bundle_index import Entry
from ckptkit.bundle_writer import BundleWriter
from ckptkit.replicas import common_key
from ckptkit.staging import StagingBuffers
from ckptkit.varint import decode_varint

__all__ = ["Held", "HeldValue", "Written"]

_ROW_BYTES = 200  # of a value, in the index and in the manifest


@dataclass(frozen=True)
class HeldValue:
    """One value: its key, which part of a sliced variable it is ("" for all of it), and the tensor."""

    key: str
    slice_spec: str
    tensor: tf.Tensor


@dataclass(frozen=True)
class Written:
    """What was written: the rows of the index, and the seconds that copying took."""

    entries: tuple[Entry, ...]
    staged_secs: float


class Held:
    """A consistent view of all values at one moment; it is used up by writing it."""

    def __init__(self, values: Iterable[HeldValue]) -> None:
        self._values = values

    def release(self) -> None:
        """Let go of all values."""
        self._values = ()

    def size_bytes(self) -> int:
        """Return about how many bytes the files will take, but for variants and what replicas may have in common."""
        self._values = values = list(self._values)
        return sum(_size_of(value.tensor) + _ROW_BYTES for value in values if common_key(value.key) is None)

    def write(self, prefix: str, buffers: StagingBuffers | None = None) -> Written:
        """Write a standard TensorFlow checkpoint at ``prefix``.

        Args:
            prefix: Path stem; what is there under that name is replaced.
            buffers: Memory to go through, None for some of its own.

        Raises:
            OSError: It could not be written.
        """
        values = _without_common(list(self._values))
        self._values = ()
        values.reverse()
        try:
            with BundleWriter(prefix, buffers) as writer:
                while values:  # by pop alone: whatever else refers to a value holds it
                    _add(writer, values.pop())
        finally:
            values.clear()  # an error has this frame, and may be kept
        return Written(writer.entries, writer.staged_secs)


def _without_common(values: list[HeldValue]) -> list[HeldValue]:
    """Return the values without each replica's that has the bytes of the common one."""
    common = {value.key: value.tensor for value in values}
    return [value for value in values if not _is_common(value, common)]


def _size_of(tensor: tf.Tensor) -> int:
    if tensor.dtype == tf.string:
        return int(tf.reduce_sum(tf.strings.length(tensor)))
    return 0 if tensor.dtype == tf.variant else tensor.shape.num_elements() * tensor.dtype.size


def _add(writer: BundleWriter, value: HeldValue) -> None:
    name = value.tensor.dtype.name
    writer.add(value.key, _array(value.tensor), value.slice_spec, dtype=name)


def _array(tensor: tf.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's elements; on the host they are not copied."""
    if tensor.dtype == tf.variant:
        return _variants(tensor)
    if not _is_on_host(tensor):
        with tf.device("cpu:0"):
            tensor = tf.identity(tensor)
    if tensor.dtype == tf.string:
        return np.asarray(tensor.__array__(), object)
    return np.asarray(tensor.__array__())


def _variants(tensor: tf.Tensor) -> np.ndarray[Any, Any]:
    """Return the elements of a variant tensor, each as a serialized ``VariantTensorDataProto``."""
    content = TensorProto.FromString(tf.io.serialize_tensor(tensor).numpy()).tensor_content
    array, at = np.empty(tensor.shape.num_elements(), object), 0
    for number in range(array.size):  # all lengths, and all elements behind them
        array[number], at = decode_varint(content, at)
    for number, length in enumerate(array):
        array[number], at = content[at : at + length], at + length
    return array.reshape(tensor.shape)


def _is_on_host(tensor: tf.Tensor) -> bool:
    return str(tensor.device).endswith("CPU:0")


def _is_common(value: HeldValue, common: Mapping[str, tf.Tensor]) -> bool:
    key = common_key(value.key)
    return key is not None and value.tensor.numpy().tobytes() == common[key].numpy().tobytes()
