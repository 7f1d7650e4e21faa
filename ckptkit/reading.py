"""A checkpoint's values as tensors on the host: read in parallel, checked, and copied nowhere a second time.

    with CheckpointFile("run/ckpt-1") as file:
        file.types["kernel"], file.shapes["kernel"]
        file.read({"kernel", "bias"})["kernel"]         # <tf.Tensor>

The bytes go from the file straight into memory of TensorFlow's own, which a variable then takes over. Only values of
rare types, and files that ``bundle.py`` does not know, are read by TensorFlow, and these values not before they were
read and checked here: what is wrong with a file may end the process in which TensorFlow reads it.

All files are opened at the start: whoever deletes the checkpoint then does not take it from a reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError, UnsupportedBundleError
from ckptkit.worker_keys import seen_by

__all__ = ["CheckpointFile"]

Array: TypeAlias = np.ndarray[Any, Any]

_THREADS = min(os.cpu_count() or 1, 8)
_BATCH, _BATCH_BYTES = 128, 4 << 20  # small tensors are read so many at a time by one thread, or so many bytes
# What TensorFlow makes empty tensors of, whose memory we fill.
_PLAIN = frozenset(
    {"float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


class CheckpointFile:
    """A checkpoint, open for reading.

    Args:
        prefix: Path stem as TensorFlow takes it.
        worker: The number of the worker that reads, and how many there were when it was saved, None if nobody knows. It
            sees its own values in the place of the chief's, as far as it has any; those of others it does not see.
        told: Called with the number of bytes each time that some were read, in several threads.

    Attributes:
        types, shapes: Of each tensor, by its key.
        own: Keys of the values that this worker has for itself.

    Raises:
        CheckpointDamagedError: Its index cannot be read, or one of its shards is missing.
    """

    def __init__(
        self, prefix: str, worker: tuple[int, int | None] = (0, 1), told: Callable[[int], None] = lambda size: None
    ) -> None:
        self.prefix = prefix
        self._told = told
        self._bundle: Bundle | None = None
        try:
            self._bundle = Bundle(prefix)
        except CheckpointNotFoundError as error:  # it was there when it was chosen: no reason for a fresh start
            raise CheckpointDamagedError(f"checkpoint {prefix} cannot be read: its index is gone.") from error
        except UnsupportedBundleError:
            reader = self._asked(lambda: tf.train.load_checkpoint(prefix))
            types: Mapping[str, tf.DType] = reader.get_variable_to_dtype_map()
            shapes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        else:
            entries = self._bundle.entries.values()
            with ExitStack() as opened:
                opened.callback(self._bundle.close)
                self._bundle.hold()
                types = self._asked(lambda: {entry.key: tf.as_dtype(entry.dtype) for entry in entries})
                opened.pop_all()
            shapes = {entry.key: entry.shape for entry in entries}
        self._types = types
        self._names = seen_by(types, *worker)
        self.own = frozenset(key for key, name in self._names.items() if key != name)
        self.types: Mapping[str, tf.DType] = {key: types[name] for key, name in self._names.items()}
        self.shapes: Mapping[str, tuple[int, ...]] = {key: shapes[name] for key, name in self._names.items()}

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bundle is not None:
            self._bundle.close()

    def read(self, keys: Iterable[str]) -> dict[str, tf.Tensor]:
        """Read tensors by key, each checked against its checksum.

        Raises:
            CheckpointDamagedError: One of them is not what was written.
        """
        names = {key: self._names[key] for key in sorted(keys)}
        tensors = self._read(list(names.values()))
        return {key: tensors[name] for key, name in names.items()}

    def _read(self, names: list[str]) -> dict[str, tf.Tensor]:
        if self._bundle is None:
            return self._read_by_tensorflow(names)
        entries = [self._bundle.entries[name] for name in names]
        found = self._read_plain(self._bundle, [each for each in entries if each.dtype in _PLAIN and not each.slices])
        found |= {each.key: self._read_array(self._bundle, each) for each in entries if each.key not in found}
        return found | self._read_by_tensorflow([name for name in names if found[name] is None])

    def _read_array(self, bundle: Bundle, entry: Entry) -> tf.Tensor | None:
        """Read and check a tensor by way of NumPy; return None where its type is one that TensorFlow has to read."""
        try:
            array = bundle.read(entry.key)
        except UnsupportedBundleError as error:
            raise CheckpointDamagedError(f"checkpoint {self.prefix} cannot be read: {error}") from error
        self._told(entry.size_bytes)
        if entry.dtype != "string" and entry.dtype not in _PLAIN:
            return None
        with tf.device("cpu:0"):
            return self._asked(lambda: tf.constant(array, tf.as_dtype(entry.dtype)))

    def _read_plain(self, bundle: Bundle, entries: list[Entry]) -> dict[str, tf.Tensor]:
        if not entries:
            return {}
        tensors: dict[str, tf.Tensor] = {}
        work: list[tuple[Entry, Array]] = []
        with tf.device("cpu:0"):
            for entry in entries:
                bundle.require(entry)  # before memory is taken for it
                row = self._empty(entry)
                work.append((entry, self._asked(row.__array__)))
                tensors[entry.key] = row if entry.shape else tf.reshape(row, ())
        with ThreadPoolExecutor(_THREADS, "ckptkit-reader") as pool:
            for _ in pool.map(lambda batch: _read_batch(bundle, batch, self._told), _batches(work)):
                pass  # raises what went wrong in a thread
        return tensors

    def _empty(self, entry: Entry) -> tf.Tensor:
        # NumPy has scalars that are no view of anything: these are rows of one while they are filled.
        shape, dtype = entry.shape or (1,), tf.as_dtype(entry.dtype)
        return self._asked(lambda: tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False))

    def _read_by_tensorflow(self, keys: list[str]) -> dict[str, tf.Tensor]:
        if not keys:
            return {}

        def restore() -> Any:
            with tf.device("cpu:0"):
                return tf.raw_ops.RestoreV2(
                    prefix=self.prefix,
                    tensor_names=keys,
                    shape_and_slices=[""] * len(keys),
                    dtypes=[self._types[key] for key in keys],
                )

        return dict(zip(keys, self._asked(restore)))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (tf.errors.OpError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointDamagedError(f"checkpoint {self.prefix} cannot be read: {error}") from error


def _read_batch(bundle: Bundle, batch: list[tuple[Entry, Array]], told: Callable[[int], None]) -> None:
    if len(batch) == 1:  # a large one: it is told block by block
        bundle.read_into(*batch[0], told)
        return
    for entry, memory in batch:
        bundle.read_into(entry, memory)
    told(sum(entry.size for entry, _ in batch))


def _batches(work: Sequence[tuple[Entry, Array]]) -> Iterator[list[tuple[Entry, Array]]]:
    """Divide work among threads: the largest tensors first, small ones many at a time."""
    batch, size = list[tuple[Entry, Array]](), 0
    for entry, memory in sorted(work, key=lambda row: -row[0].size):
        batch.append((entry, memory))
        size += entry.size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch
