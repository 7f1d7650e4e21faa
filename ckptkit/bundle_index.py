"""The index of a TensorFlow checkpoint: which tensors it holds, and where in which data shard each of them lies.

content = encode_index([Entry("kernel", "float32", (2, 3), size=24, checksum=crc32c(kernel))], shards=1)
index = decode_index(content, "ckpt-1.index")
index.entries["kernel"].shape  # (2, 3)

It is a table (see ``table.py``): under the empty key a ``BundleHeaderProto``, under a tensor's name its
``BundleEntryProto``. A tensor stored in slices has an entry that lists them, and an entry more for each of them.

Source: tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from ckptkit.bundle_protos import BundleEntry, Header
from ckptkit.checksums import masked, unmasked
from ckptkit.dtypes import OF_ANY_LENGTH, dtype_name, dtype_number, numpy_dtype
from ckptkit.errors import CheckpointDamagedError, UnsupportedBundleError
from ckptkit.slices import TensorSlice, slice_key
from ckptkit.table import decode_table, encode_table

__all__ = ["Entry", "Index", "StoredSlice", "decode_index", "encode_index", "shard_path"]

_VERSION = 1
_HEADER_KEY = b""
_ENDIANNESS = 0 if sys.byteorder == "little" else 1
_MAX = (1 << 63) - 1
_MAX_DIMENSIONS = 254  # TensorFlow's own limit


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, and where its bytes lie.

    Attributes:
        key: Its name. Bytes that are not UTF-8 stand in it as Python's ``surrogateescape`` has them.
        dtype: The name of its type as ``tf.DType.name`` gives it, ``float32``.
        shape: Its shape, of the whole tensor where it is stored in slices.
        shard: The number of the data shard, from 0.
        offset: Where in the shard it begins, in bytes.
        size: How many bytes it takes there.
        checksum: CRC-32C of these bytes, not masked; of strings and variants as ``string_tensors`` has it.
        slices: The parts that it is stored in; where there are any, the entry itself has no bytes.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    slices: tuple[StoredSlice, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, of all slices where there are some."""
        return sum(part.entry.size for part in self.slices) if self.slices else self.size


@dataclass(frozen=True)
class StoredSlice:
    """A part of a tensor that is stored by itself; its entry has the part's own shape and the whole tensor's key."""

    part: TensorSlice
    entry: Entry


@dataclass(frozen=True)
class Index:
    """What an index says: the tensors by their names, in order of these, and the number of data shards."""

    entries: dict[str, Entry]
    shards: int


def shard_path(prefix: str, shard: int, shards: int) -> str:
    """Return the path of a data shard, ``ckpt-1.data-00000-of-00002``."""
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def encode_index(entries: Iterable[Entry], shards: int) -> bytes:
    """Return the content of an index file.

    Raises:
        ValueError: Two entries have the same key, one has none, or an entry does not fit its shape or ``shards``.
    """
    if shards < 1:
        raise ValueError(f"a checkpoint has a data shard or more, got {shards}.")
    header = Header(num_shards=shards, endianness=_ENDIANNESS)
    header.version.producer = _VERSION
    rows = {_HEADER_KEY: header.SerializeToString()}
    for entry in entries:
        for key, each in _stored(entry):
            if key in rows:
                raise ValueError(f"a checkpoint's tensors have a name each, got {entry.key!r} twice or empty.")
            reason = _why_wrong(each, shards)
            if reason is not None:
                raise ValueError(f"cannot write an index with tensor {entry.key!r}: {reason}.")
            rows[key] = _message(each).SerializeToString()
    return encode_table(sorted(rows.items()))


def decode_index(content: bytes, file: str) -> Index:
    """Read an index.

    Args:
        content: The whole file.
        file: Its name, for messages.

    Raises:
        CheckpointDamagedError: It is cut short, altered, or says something impossible.
        UnsupportedBundleError: It is of a newer format or of a machine with another byte order.
    """
    rows = dict(decode_table(content, file))
    try:
        header = Header.FromString(rows.pop(_HEADER_KEY))
        shards = _shards(header, file)
        messages = {key: BundleEntry.FromString(row) for key, row in rows.items()}
        index = Index(_entries(messages, shards), shards)
    except KeyError as error:
        raise CheckpointDamagedError(f"{file} is damaged: it lacks row {error.args[0]!r}.") from error
    except (DecodeError, ValueError) as error:
        raise CheckpointDamagedError(f"{file} is damaged: {error}.") from error
    # Last of all: what is left to TensorFlow's reader says nothing impossible, which would end the process.
    _require_byte_order(header, file)
    return index


def _stored(entry: Entry) -> Iterator[tuple[bytes, Entry]]:
    yield entry.key.encode("utf-8", "surrogateescape"), entry
    for stored in entry.slices:
        yield slice_key(entry.key, stored.part), stored.entry


def _message(entry: Entry) -> Any:
    message = BundleEntry(dtype=dtype_number(entry.dtype), shard_id=entry.shard)
    message.shape.SetInParent()  # TensorFlow writes the shape of a scalar too
    for size in entry.shape:
        message.shape.dim.add(size=size)
    for stored in entry.slices:
        proto = message.slices.add()
        for extent in stored.part.extents:
            proto.extent.add(**({} if extent is None else {"start": extent[0], "length": extent[1]}))
    if not entry.slices:
        message.offset, message.size, message.crc32c = entry.offset, entry.size, masked(entry.checksum)
    return message


def _require_byte_order(header: Any, file: str) -> None:
    if header.endianness != _ENDIANNESS:
        raise UnsupportedBundleError(
            f"cannot read {file}: it comes from a machine with another byte order than this one's, {sys.byteorder}-"
            "endian. TensorFlow reads it: tf.train.load_checkpoint(prefix)."
        )


def _shards(header: Any, file: str) -> int:
    wanted = header.version
    if wanted.min_consumer > _VERSION or _VERSION in wanted.bad_consumers:
        but = " and not 1" if _VERSION in wanted.bad_consumers else ""
        raise UnsupportedBundleError(
            f"cannot read {file}: it needs a reader of format {wanted.min_consumer}{but}, ckptkit reads {_VERSION}. "
            "Read it with the TensorFlow that wrote it."
        )
    if header.num_shards < 1:
        raise ValueError(f"it claims to have {header.num_shards} data shards")
    return int(header.num_shards)


def _entries(messages: dict[bytes, Any], shards: int) -> dict[str, Entry]:
    parts: set[bytes] = set()
    entries: dict[bytes, Entry] = {}
    for key, message in messages.items():
        name = key.decode("utf-8", "surrogateescape")
        slices = tuple(_stored_slice(name, proto, messages, parts) for proto in message.slices)
        entries[key] = _entry(name, message, slices)
    named = {entry.key: entry for key, entry in entries.items() if key not in parts}
    for entry in named.values():
        for each in (entry, *(stored.entry for stored in entry.slices)):
            reason = _why_wrong(each, shards)
            if reason is not None:
                raise ValueError(f"of tensor {entry.key!r} {reason}")
    return named


def _stored_slice(name: str, proto: Any, messages: dict[bytes, Any], parts: set[bytes]) -> StoredSlice:
    part = TensorSlice(tuple((e.start, e.length) if e.HasField("length") else None for e in proto.extent))
    key = slice_key(name, part)
    if key in parts or messages[key].slices:
        raise ValueError(f"slice {part} of tensor {name!r} is listed twice, or itself in slices")
    parts.add(key)
    return StoredSlice(part, _entry(name, messages[key], ()))


def _entry(name: str, message: Any, slices: tuple[StoredSlice, ...]) -> Entry:
    if message.shape.unknown_rank:
        raise ValueError(f"tensor {name!r} has no shape")
    shape = tuple(dim.size for dim in message.shape.dim)
    crc = 0 if slices else unmasked(message.crc32c)
    return Entry(name, dtype_name(message.dtype), shape, message.shard_id, message.offset, message.size, crc, slices)


def _why_wrong(entry: Entry, shards: int) -> str | None:
    """Say what is impossible about an entry, None if nothing is."""
    if len(entry.shape) > _MAX_DIMENSIONS or any(size < 0 for size in entry.shape):
        return f"the shape is impossible: {entry.shape}"
    if math.prod(entry.shape) > _MAX:
        return f"the shape is too large: {entry.shape}"
    if not 0 <= entry.shard < shards:
        return f"shard {entry.shard} is none of {shards}"
    if entry.slices:
        return _why_slices_wrong(entry)
    if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > _MAX:
        return f"{entry.size} bytes at {entry.offset} are impossible"
    least, exact = _size(entry)
    if entry.size < least or (exact and entry.size > least):
        return f"{entry.dtype} {entry.shape} takes {'' if exact else 'at least '}{least} bytes, not {entry.size}"
    return None


def _size(entry: Entry) -> tuple[int, bool]:
    """Return how many bytes a tensor takes by its shape, and whether it takes no more."""
    elements = math.prod(entry.shape)
    if entry.dtype in OF_ANY_LENGTH:
        return elements, False  # of each its length takes a byte or more
    try:
        return elements * numpy_dtype(entry.dtype).itemsize, True
    except UnsupportedBundleError:
        return 0, False


def _why_slices_wrong(entry: Entry) -> str | None:
    for stored in entry.slices:
        try:
            shape = stored.part.shape_in(entry.shape)
        except ValueError as error:
            return str(error)
        if (stored.entry.dtype, stored.entry.shape, stored.entry.slices) != (entry.dtype, shape, ()):
            return f"slice {stored.part} is {stored.entry.dtype} {stored.entry.shape}, not {entry.dtype} {shape}"
    return None
