"""TensorFlow's checkpoint files ("TensorBundle"), read without TensorFlow; ``bundle_writer.py`` writes them.

    with Bundle("run/ckpt-1") as bundle:
        bundle.entries["kernel"].shape  # (2, 3)
        bundle.read("kernel")  # an array

    run/ckpt-1.index                    what there is, and where (see ``bundle_index.py``)
    run/ckpt-1.data-00000-of-00001      the tensors' bytes

A reader trusts nothing: sizes are compared with the files' before memory is taken, and every byte with its checksum.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.h.
"""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ckptkit.bundle_index import Entry, decode_index, shard_path
from ckptkit.checksums import crc32c
from ckptkit.dtypes import OF_ANY_LENGTH, bytes_of, numpy_dtype
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError, UnsupportedBundleError
from ckptkit.slices import TensorSlice, are_tiles, overlap, parse_shape_and_slice, within
from ckptkit.spelling import nearest
from ckptkit.string_tensors import decode_strings, decode_variants

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Bundle"]

Array: TypeAlias = np.ndarray[Any, Any]

_MAX_INDEX = 1 << 30  # bytes, of some ten million tensors
_BLOCK = 1 << 20  # read and checked at a time: small enough to be in the cache still when its checksum is taken


class Bundle:
    """A checkpoint, open for reading. Several threads may read from it at once.

    Args:
        prefix: Path stem as TensorFlow takes it, ``run/ckpt-1``.

    Raises:
        CheckpointNotFoundError: It has no index.
        CheckpointDamagedError: The index cannot be read, is cut short, altered, or says something impossible.
        UnsupportedBundleError: It is of a newer format or of a machine with another byte order.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = os.fspath(prefix)
        self._files: dict[int, tuple[int, int]] | None = {}
        self._lock = threading.Lock()
        index = decode_index(self._read_index(), f"{self.prefix}.index")
        self.entries: Mapping[str, Entry] = index.entries
        self.shards = index.shards

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards, once no thread reads from them any more."""
        with self._lock:
            for descriptor, _ in (self._files or {}).values():
                os.close(descriptor)
            self._files = None

    def hold(self) -> None:
        """Open all shards now: whoever deletes the checkpoint from here on does not take it from this reader.

        Raises:
            CheckpointDamagedError: One of them is missing or cannot be opened.
        """
        for shard in {part.shard for entry in self.entries.values() for part in _parts(entry)}:
            self._open_shard(shard)

    def read(self, key: str, slice_spec: str = "") -> Array:
        """Read a tensor.

        Args:
            key: Its name.
            slice_spec: Which part of it, as TensorFlow says it: ``20 10 0,5:-``, or "" for all of it.

        Returns:
            Its values; those of a string tensor are bytes, those of a variant serialized ``VariantTensorDataProto``.

        Raises:
            CheckpointNotFoundError: There is no tensor of that name.
            CheckpointDamagedError: A shard is missing, cut short or altered, or not all slices were saved.
            UnsupportedBundleError: NumPy has no such dtype or shape.
            ValueError: The tensor has no such part.
        """
        entry = self._find(key)
        if not slice_spec:
            return self._assemble(entry, TensorSlice.whole(entry.shape)) if entry.slices else self._read(entry)
        shape, part = parse_shape_and_slice(slice_spec)
        if shape != entry.shape:
            raise ValueError(f"tensor {key!r} has shape {entry.shape}, slice_spec {slice_spec!r} says {shape}.")
        return self._assemble(entry, part) if entry.slices else self._read(entry)[part.bounds_in(shape)].copy()

    def require(self, entry: Entry) -> None:
        """See that an entry's bytes are there, before memory is taken for them.

        Raises:
            CheckpointDamagedError: Its shard is missing or cut short.
        """
        for part in _parts(entry):
            self._shard(part)

    def read_into(self, entry: Entry, buffer: Array | Buffer, told: Callable[[int], None] | None = None) -> None:
        """Read a tensor's bytes from its shard into memory, and check them.

        Args:
            entry: One of ``entries``, or of their slices; neither in slices nor of strings or variants.
            buffer: Writable memory in one piece, as large as the tensor.
            told: Called with the number of bytes each time that some were read.

        Raises:
            CheckpointDamagedError: The shard is missing, cut short or altered.
            ValueError: The entry has no bytes of a fixed size, or the buffer is of another size.
        """
        if entry.slices or entry.dtype in OF_ANY_LENGTH:
            raise ValueError(f"tensor {entry.key!r} is stored in slices or elements of any length. Use read().")
        self._compare(entry, self._fill(entry, buffer, told))

    def pieces(self, entry: Entry, elements: int, told: Callable[[int], None] = lambda size: None) -> Iterator[Array]:
        """Read a tensor's values a piece after the other, in row-major order: of a large one no more is in memory.

        One that is stored in slices, and one of strings or variants, is read whole first.

        Args:
            entry: One of ``entries``.
            elements: How many values a piece has; the last one has fewer.
            told: Called with the number of bytes each time that some were read.

        Yields:
            Arrays of one dimension. They share their memory: each is to be done with before the next is asked for.

        Raises:
            CheckpointDamagedError: As :meth:`read` does; that its checksum is another is known at the end alone.
            UnsupportedBundleError: NumPy has no such dtype or shape.
        """
        if entry.slices or entry.dtype in OF_ANY_LENGTH:
            values = self.read(entry.key).reshape(-1)
            told(entry.size_bytes)
            yield from (values[at : at + elements] for at in range(0, len(values), elements))
            return
        self._shard(entry)  # as in _read
        memory = _empty(entry, (min(elements, math.prod(entry.shape)),))
        found = 0
        for at in range(0, entry.size, max(memory.nbytes, 1)):
            size = min(memory.nbytes, entry.size - at)
            found = self._stream(_part(entry, at, size), lambda at: bytes_of(memory)[at:size], told, found)  # noqa: B023
            yield memory[: size // memory.itemsize]
        self._compare(entry, found)

    def check(self, entry: Entry, told: Callable[[int], None]) -> None:
        """Compare a tensor's bytes with their checksum, a piece after the other: nothing of them is kept.

        Strings and variants, which have no bytes of a fixed size, are read whole.

        Args:
            entry: One of ``entries``.
            told: Called with the number of bytes each time that some were read.

        Raises:
            CheckpointDamagedError: A shard is missing, cut short or altered, or not all slices were saved.
        """
        if entry.slices:
            for stored in entry.slices:
                self.check(stored.entry, told)
            if not are_tiles([stored.part.bounds_in(entry.shape) for stored in entry.slices], entry.shape):
                raise self._incomplete(entry, TensorSlice.whole(entry.shape))
        elif entry.dtype in OF_ANY_LENGTH:
            self._objects(entry)
            told(entry.size)
        else:
            piece = memoryview(bytearray(min(entry.size, _BLOCK)))
            self._compare(entry, self._stream(entry, lambda at: piece[: entry.size - at], told))

    def _read_index(self) -> bytes:
        path = f"{self.prefix}.index"
        try:
            with open(_open(path), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > _MAX_INDEX:
                    raise CheckpointDamagedError(f"{path} is damaged: {size} bytes are too many for an index.")
                return file.read()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointNotFoundError(f"no checkpoint {self.prefix}: it has no index.") from error
        except CheckpointDamagedError:
            raise
        except OSError as error:
            raise CheckpointDamagedError(f"{path} cannot be read: {error}") from error

    def _find(self, key: str) -> Entry:
        if key in self.entries:
            return self.entries[key]
        near = nearest(key, self.entries)
        hint = f" Did you mean {near!r}?" if near else ""
        raise CheckpointNotFoundError(f"checkpoint {self.prefix} has no tensor {key!r}.{hint}")

    def _read(self, entry: Entry) -> Array:
        """Read a tensor that is stored in one piece."""
        if entry.dtype in OF_ANY_LENGTH:
            return self._read_objects(entry)
        self._shard(entry)  # says whether the bytes are there, before memory is taken for them
        array = _empty(entry, entry.shape)
        self.read_into(entry, array)
        return array

    def _read_objects(self, entry: Entry) -> Array:
        values = self._objects(entry)
        array = _empty(entry, (len(values),))
        array[:] = values
        return array.reshape(entry.shape)

    def _objects(self, entry: Entry) -> list[bytes]:
        self._shard(entry)  # as in _read
        content = bytearray(entry.size)
        self._fill(entry, content)
        decode = decode_strings if entry.dtype == "string" else decode_variants
        try:
            return decode(bytes(content), math.prod(entry.shape), entry.checksum)
        except ValueError as error:
            raise self._damaged(entry, f"cannot be read: {error}") from error

    def _assemble(self, entry: Entry, part: TensorSlice) -> Array:
        """Read a part of a tensor that is stored in slices, from those that have a share in it."""
        wanted, shape = part.bounds_in(entry.shape), part.shape_in(entry.shape)
        bounds = [(stored.entry, stored.part.bounds_in(entry.shape)) for stored in entry.slices]
        shares = [(piece, its, common) for piece, its in bounds if (common := overlap(its, wanted)) is not None]
        for piece, _, _ in shares:
            self._shard(piece)  # as in _read
        if sum(math.prod(bound.stop - bound.start for bound in common) for _, _, common in shares) != math.prod(shape):
            raise self._incomplete(entry, part)
        array, covered = _empty(entry, shape), np.zeros(shape, bool)
        for piece, its, common in shares:
            here = within(common, wanted)
            array[here] = self._read(piece)[within(common, its)]
            covered[here] = True
        if not covered.all():
            raise self._incomplete(entry, part)
        return array

    def _incomplete(self, entry: Entry, part: TensorSlice) -> CheckpointDamagedError:
        there = ", ".join(str(stored.part) for stored in entry.slices[:5])
        return CheckpointDamagedError(
            f"checkpoint {self.prefix} does not hold slice {part} of tensor {entry.key!r} once and whole: it has "
            f"{len(entry.slices)} slices of {entry.shape}, {there}{', …' if len(entry.slices) > 5 else ''}."
        )

    def _fill(self, entry: Entry, buffer: Array | Buffer, told: Callable[[int], None] | None = None) -> int:
        """Read an entry's bytes into memory and return their checksum."""
        view = bytes_of(buffer) if isinstance(buffer, np.ndarray) else memoryview(buffer)
        if view.nbytes != entry.size or view.readonly:
            got = f"{view.nbytes} that are {'not' if view.readonly else 'writable'}"
            raise ValueError(f"tensor {entry.key!r} takes {entry.size} writable bytes, got {got}.")
        view = view.cast("B") if view.nbytes else view
        return self._stream(entry, lambda at: view[at : at + _BLOCK], told)

    def _stream(
        self,
        entry: Entry,
        memory_at: Callable[[int], memoryview],
        told: Callable[[int], None] | None = None,
        crc: int = 0,
    ) -> int:
        """Read an entry's bytes in pieces, each into the memory that there is for it, and return their checksum."""
        descriptor, at = self._shard(entry), 0
        while at < entry.size:
            memory = memory_at(at)
            try:
                done = os.preadv(descriptor, [memory], entry.offset + at)
            except OSError as error:  # a disk that is failing
                raise self._damaged(entry, f"cannot be read: {error}") from error
            if not done:
                raise self._damaged(entry, "is cut short")
            crc = crc32c(memory[:done], crc)
            at += done
            if told is not None:
                told(done)
        return crc

    def _compare(self, entry: Entry, found: int) -> None:
        if found != entry.checksum:
            raise self._damaged(entry, f"has checksum {found:#010x}, not {entry.checksum:#010x}")

    def _shard(self, entry: Entry) -> int:
        """Return the descriptor of an entry's shard, which is large enough for it."""
        descriptor, size = self._open_shard(entry.shard)
        if entry.offset + entry.size > size:
            raise self._damaged(entry, f"ends at byte {entry.offset + entry.size} of {size}")
        return descriptor

    def _open_shard(self, shard: int) -> tuple[int, int]:
        """Return a shard's descriptor and size."""
        with self._lock:
            if self._files is None:
                raise ValueError(f"checkpoint {self.prefix} is closed.")
            if shard not in self._files:
                path = shard_path(self.prefix, shard, self.shards)
                try:
                    descriptor = _open(path)
                except FileNotFoundError as error:
                    raise CheckpointDamagedError(f"checkpoint {self.prefix} is damaged: {path} is missing.") from error
                self._files[shard] = descriptor, os.fstat(descriptor).st_size
            return self._files[shard]

    def _damaged(self, entry: Entry, reason: str) -> CheckpointDamagedError:
        path = shard_path(self.prefix, entry.shard, self.shards)
        return CheckpointDamagedError(f"{path} is damaged: tensor {entry.key!r} {reason}.")


def _open(path: str) -> int:
    """Open a file; what is there under its name and is none would make a reader wait, or fail in odd ways."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:  # a link to itself, say, or somebody else's file
        raise CheckpointDamagedError(f"{path} cannot be opened: {error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointDamagedError(f"{path} is damaged: it is not a file.")
    return descriptor


def _parts(entry: Entry) -> tuple[Entry, ...]:
    """Return the entries that say where a tensor's bytes lie: of its slices, or its own."""
    return tuple(stored.entry for stored in entry.slices) or (entry,)


def _part(entry: Entry, at: int, size: int) -> Entry:
    """Return an entry of some of another one's bytes."""
    return replace(entry, offset=entry.offset + at, size=size)


def _empty(entry: Entry, shape: tuple[int, ...]) -> Array:
    try:
        return np.empty(shape, numpy_dtype(entry.dtype))
    except ValueError as error:  # more dimensions than NumPy has, or larger ones in an empty tensor
        raise UnsupportedBundleError(f"cannot read tensor {entry.key!r} of shape {shape}: {error}.") from error
