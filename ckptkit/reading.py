"""A checkpoint's values as tensors on the host: read in parallel, checked, and copied nowhere a second time.

    with CheckpointFile("run/ckpt-1") as file:
        file.types["kernel"], file.shapes["kernel"]
        file.read({"kernel", "bias"})["kernel"]         # <tf.Tensor>

The bytes go from the file straight into memory of TensorFlow's own, which a variable then takes over. What has no bytes
of a fixed size, strings and iterators, what is stored in slices, and files that ``bundle.py`` does not know are read by
TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError, UnsupportedBundleError

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

    Raises:
        CheckpointDamagedError: Its index cannot be read.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._bundle: Bundle | None = None
        try:
            self._bundle = Bundle(prefix)
        except CheckpointNotFoundError as error:  # it was there when it was chosen: no reason for a fresh start
            raise CheckpointDamagedError(f"checkpoint {prefix} cannot be read: its index is gone.") from error
        except UnsupportedBundleError:
            reader = self._asked(lambda: tf.train.load_checkpoint(prefix))
            self.types: Mapping[str, tf.DType] = reader.get_variable_to_dtype_map()
            self.shapes: Mapping[str, tuple[int, ...]] = {
                key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()
            }
        else:
            entries = self._bundle.entries.values()
            self.types = self._asked(lambda: {entry.key: tf.as_dtype(entry.dtype) for entry in entries})
            self.shapes = {entry.key: entry.shape for entry in entries}

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
        keys = sorted(keys)
        plain = [self._bundle.entries[key] for key in keys if self._is_plain(key)] if self._bundle is not None else []
        found = self._read_plain(plain)
        rest = [key for key in keys if key not in found]
        return found | (self._read_by_tensorflow(rest) if rest else {})

    def _is_plain(self, key: str) -> bool:
        assert self._bundle is not None
        entry = self._bundle.entries[key]
        return entry.dtype in _PLAIN and not entry.slices

    def _read_plain(self, entries: list[Entry]) -> dict[str, tf.Tensor]:
        if self._bundle is None or not entries:
            return {}
        tensors: dict[str, tf.Tensor] = {}
        work: list[tuple[Entry, Array]] = []
        with tf.device("cpu:0"):
            for entry in entries:
                self._bundle.require(entry)  # before memory is taken for it
                # NumPy has scalars that are no view of anything: these are rows of one while they are filled.
                row = tf.raw_ops.Empty(shape=entry.shape or (1,), dtype=self.types[entry.key], init=False)
                work.append((entry, row.__array__()))
                tensors[entry.key] = row if entry.shape else tf.reshape(row, ())
        with ThreadPoolExecutor(_THREADS, "ckptkit-reader") as pool:
            for _ in pool.map(self._read_batch, _batches(work)):
                pass  # raises what went wrong in a thread
        return tensors

    def _read_batch(self, batch: list[tuple[Entry, Array]]) -> None:
        assert self._bundle is not None
        for entry, memory in batch:
            self._bundle.read_into(entry, memory)

    def _read_by_tensorflow(self, keys: list[str]) -> dict[str, tf.Tensor]:
        def restore() -> Any:
            with tf.device("cpu:0"):
                return tf.raw_ops.RestoreV2(
                    prefix=self.prefix,
                    tensor_names=keys,
                    shape_and_slices=[""] * len(keys),
                    dtypes=[self.types[key] for key in keys],
                )

        return dict(zip(keys, self._asked(restore)))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (tf.errors.OpError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointDamagedError(f"checkpoint {self.prefix} cannot be read: {error}") from error


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
