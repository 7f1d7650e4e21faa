"""TensorFlow's checkpoint files, written without TensorFlow.

with BundleWriter("run/ckpt-1") as writer:
    writer.add("kernel", np.ones((2, 3), np.float32))
    writer.add("names", np.array([b"a", b"b"], object))

run/ckpt-1.data-00000-of-00001      one tensor's bytes after another's
run/ckpt-1.index                    written last: what there is, and where
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from ckptkit.bundle_index import Entry, StoredSlice, encode_index, shard_path
from ckptkit.dtypes import OF_ANY_LENGTH, dtype_number, name_of
from ckptkit.shard_stream import ShardStream
from ckptkit.slices import TensorSlice, parse_shape_and_slice
from ckptkit.staging import StagingBuffers
from ckptkit.string_tensors import encode_elements

__all__ = ["BundleWriter"]


class BundleWriter:
    """A checkpoint being written: a tensor after another, and the index at the end.

    Args:
        prefix: Path stem, ``run/ckpt-1``; its folder exists, and what is there under that name is replaced.
        buffers: Warm memory to go through, None for some of its own.
        shards: The number of data shards.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        buffers: StagingBuffers | None = None,
        *,
        shards: int = 1,
    ) -> None:
        self.prefix = os.fspath(prefix)
        self._shards = shards
        self._entries: dict[str, Entry] = {}
        memory = buffers or StagingBuffers()
        with ExitStack() as stack:
            self._streams = [
                stack.enter_context(ShardStream(shard_path(self.prefix, shard, shards), memory))
                for shard in range(shards)
            ]
            self._open = stack.pop_all()

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            self._open.__exit__(kind, error, at)

    @property
    def staged_secs(self) -> float:
        """Seconds that copying and checksumming took."""
        return sum(stream.staged_secs for stream in self._streams)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What was added."""
        return tuple(self._entries.values())

    def add(
        self, key: str, values: np.ndarray[Any, Any], slice_spec: str = "", *, dtype: str | None = None, shard: int = 0
    ) -> None:
        """Write a tensor, or a part of one.

        Args:
            key: Its name.
            values: Its values; bytes objects for strings and variants. They must not change before the writer is
                finished: large ones are written from where they are.
            slice_spec: Which part of it these are, as TensorFlow says it: ``20 10 0,5:-``, or "" if it is all.
            dtype: TensorFlow's name of its type, where NumPy's does not tell: ``variant``, ``qint8``.
            shard: The data shard to write to.

        Raises:
            ValueError: It is there already, the part does not fit what was added of it, or TensorFlow has no such type.
        """
        name = name_of(values.dtype) if dtype is None else dtype
        dtype_number(name)
        before = self._entries.get(key)
        shape, part = (
            parse_shape_and_slice(slice_spec) if slice_spec else (values.shape, TensorSlice.whole(values.shape))
        )
        if part.shape_in(shape) != values.shape:
            raise ValueError(f"slice_spec {slice_spec!r} of {key!r} says {part.shape_in(shape)}, got {values.shape}.")
        if values.shape == shape:  # the whole tensor, whatever the spec: TensorFlow stores no slice then
            if before is not None:
                raise ValueError(f"tensor {key!r} was added before.")
            self._entries[key] = self._append(key, name, values, shard)
            return
        if before is not None and (before.dtype, before.shape, bool(before.slices)) != (name, shape, True):
            raise ValueError(f"slice {part} of {key!r}, {name} {shape}, does not fit what was added before: {before}.")
        slices = () if before is None else before.slices
        slices += (StoredSlice(part, self._append(key, name, values, shard)),)
        self._entries[key] = Entry(key, name, shape, slices=slices)

    def finish(self) -> None:
        """Write the index: from now on the checkpoint is there."""
        self._open.close()
        content = encode_index(self._entries.values(), self._shards)
        with open(f"{self.prefix}.index", "wb") as file:
            file.write(content)

    def _append(self, key: str, name: str, values: np.ndarray[Any, Any], shard: int) -> Entry:
        stream = self._streams[shard]
        if name in OF_ANY_LENGTH:
            content, checksum = encode_elements(name, values.reshape(-1).tolist())
            offset, _ = stream.append(content)
            return Entry(key, name, values.shape, shard, offset, len(content), checksum)
        array = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(values.shape)
        offset, checksum = stream.append(array)
        return Entry(key, name, values.shape, shard, offset, array.nbytes, checksum)
