"""Values that are held as they were at one moment, and their way from there into a file.

    held = graph.take()                         # see ``snapshot.py``: nothing is copied
    held.write("run/ckpt-1", buffers)           # in the background

What is held costs memory as soon as the training updates it: TensorFlow then writes to a fresh buffer instead. So small
values are copied into warm memory and let go at once. Large ones are written from where they lie and let go one by one:
a copy of them would take a processor as long as the update that it spares, and XLA, which decides when a step begins
where it writes, would not be spared. What an accelerator holds is copied to the host, and let go there.

Of several workers one writes the checkpoint, and the others what they have for themselves:

    held.write_own("part/own", sums_of(chiefs_entries), 1, 2)                  # worker 1 of 2
    held.write("run/ckpt-1", buffers, gather=lambda entries: [...])           # the chief, with the others' parts
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry
from ckptkit.bundle_writer import BundleWriter
from ckptkit.checksums import crc32c
from ckptkit.dtypes import OF_ANY_LENGTH, bytes_of
from ckptkit.replicas import common_key, reduced
from ckptkit.staging import StagingBuffers
from ckptkit.string_tensors import encode_elements
from ckptkit.varint import decode_varint
from ckptkit.worker_keys import worker_key

__all__ = ["Gather", "Held", "HeldValue", "Sums", "Written", "sums_of"]

# What a value is known by in another process: dtype, shape and checksum, by key.
Sums: TypeAlias = Mapping[str, Sequence[Any]]
# Called with what the chief has written; returns what the other workers have.
Gather: TypeAlias = Callable[[Sequence[Entry]], Iterable[Bundle]]

_ROW_BYTES = 200  # of a value, in the index and in the manifest


@dataclass(frozen=True)
class HeldValue:
    """One value: its key, which part of a sliced variable it is ("" for all of it), and the tensor.

    Attributes:
        reduction: How the value that is saved is made of those of all replicas, ``sum`` or ``mean``; "" if it is this.
    """

    key: str
    slice_spec: str
    tensor: tf.Tensor
    reduction: str = ""


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

    def write(self, prefix: str, buffers: StagingBuffers | None = None, gather: Gather | None = None) -> Written:
        """Write a standard TensorFlow checkpoint at ``prefix``.

        Args:
            prefix: Path stem; what is there under that name is replaced.
            buffers: Memory to go through, None for some of its own.
            gather: Asks the other workers, None where there are none. What it returns is closed here.

        Raises:
            OSError: It could not be written.
        """
        values, self._values = list(self._values), ()
        later = {value.key: value for value in values if value.reduction}
        values = _without_common([value for value in values if not value.reduction])
        values.reverse()
        ours = {value.key: _array(value.tensor) for value in values if common_key(value.key) in later}
        try:
            with BundleWriter(prefix, buffers) as writer:
                while values:  # by pop alone: whatever else refers to a value holds it
                    _add(writer, values.pop())
                _add_parts(writer, () if gather is None else gather(writer.entries), later, ours)
        finally:
            values.clear()  # an error has this frame, and may be kept
        return Written(writer.entries, writer.staged_secs)

    def write_own(self, prefix: str, chiefs: Sums, index: int, count: int) -> None:
        """Write what this worker has and the chief has not: a replica's values, and those that differ.

        Args:
            prefix: Path stem; what is there under that name is replaced.
            chiefs: What the chief has written.
            index: The number of this worker.
            count: How many there are.

        Raises:
            OSError: It could not be written.
        """
        values, self._values = list(self._values), ()
        distributed = {common_key(value.key) for value in values}
        values.reverse()
        with BundleWriter(prefix) as writer:
            while values:
                value = values.pop()
                common = common_key(value.key)
                if value.key in distributed or _is_like(value, chiefs.get(value.key if common is None else common)):
                    continue
                key = value.key if common is not None else worker_key(value.key, index, count)
                _add(writer, HeldValue(key, value.slice_spec, value.tensor))


def sums_of(entries: Iterable[Entry]) -> Sums:
    """Return what the values of a checkpoint are known by; those in slices are not."""
    return {each.key: [each.dtype, list(each.shape), each.checksum] for each in entries if not each.slices}


def _add_parts(
    writer: BundleWriter,
    parts: Iterable[Bundle],
    later: Mapping[str, HeldValue],
    ours: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    """Write what the other workers have, and what is made of the values of all."""
    of_all: dict[str, list[np.ndarray[Any, Any]]] = {key: [] for key in later}
    for key, array in ours.items():
        of_all[common_key(key) or ""].append(array)
    for part in parts:
        with part:
            for key, entry in part.entries.items():
                array = part.read(key)
                writer.add(key, array, dtype=entry.dtype)
                of_all.get(common_key(key) or "", []).append(array)
    for key, value in later.items():
        writer.add(key, reduced(of_all[key], value.reduction), dtype=value.tensor.dtype.name)


def _is_like(value: HeldValue, known: Sequence[Any] | None) -> bool:
    """Say whether another process has the same value."""
    if known is None or value.slice_spec:
        return False
    dtype, shape = value.tensor.dtype.name, list(value.tensor.shape)
    return [dtype, shape] == list(known[:2]) and _checksum(dtype, _array(value.tensor)) == known[2]


def _checksum(dtype: str, array: np.ndarray[Any, Any]) -> int:
    if dtype in OF_ANY_LENGTH:
        return encode_elements(dtype, array.reshape(-1).tolist())[1]
    return crc32c(_bytes(array))


def _without_common(values: list[HeldValue]) -> list[HeldValue]:
    """Return the values without each replica's that has the bytes of the common one, where that is known."""
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
    return key is not None and key in common and _bytes(_array(value.tensor)) == _bytes(_array(common[key]))


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    return bytes_of(np.ascontiguousarray(array))
