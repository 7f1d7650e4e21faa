"""The bytes and the checksum of string and variant tensors, whose elements have no fixed size.

content, checksum = encode_strings([b"a", b"bc"])
decode_strings(content, 2, checksum)  # [b"a", b"bc"]; ValueError says what does not fit

    string     varint length … | checksum of the lengths | bytes …
    variant    varint length, bytes, checksum of all so far | the same for the next …

A checksum here is masked and four bytes long, and it covers lengths not as they are stored but as whole numbers: of a
string in 32 bits (64 where it needs them), of a variant in 64, both in the machine's byte order.

Source: WriteStringTensor and WriteVariantTensor of tensorflow/core/util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ckptkit.checksums import crc32c, masked, unmasked
from ckptkit.varint import decode_varint, encode_varint

__all__ = ["decode_strings", "decode_variants", "encode_strings", "encode_variants"]

_CHECKSUM = 4  # bytes


def encode_strings(values: Sequence[bytes]) -> tuple[bytes, int]:
    """Return what a checkpoint stores for a tensor of strings, in row-major order, and its checksum."""
    lengths = b"".join(encode_varint(len(value)) for value in values)
    crc = _of_lengths([len(value) for value in values])
    middle, body = _stored(crc), b"".join(values)
    return lengths + middle + body, crc32c(body, crc32c(middle, crc))


def encode_elements(dtype: str, values: Sequence[bytes]) -> tuple[bytes, int]:
    """Return the same for a tensor of strings or of variants, as its type says."""
    return encode_strings(values) if dtype == "string" else encode_variants(values)


def decode_strings(content: bytes, count: int, checksum: int) -> list[bytes]:
    """Return the strings of a tensor of ``count`` elements.

    Raises:
        ValueError: The content is not that of so many strings, or does not have the checksum.
    """
    lengths, at = [], 0
    for _ in range(count):
        length, at = decode_varint(content, at)
        lengths.append(length)
    if not content and not checksum:
        return []  # TensorFlow of old wrote nothing for no strings
    crc, at = _check(content, at, _of_lengths(lengths))
    if at + sum(lengths) != len(content):
        raise ValueError(f"strings of {sum(lengths)} bytes do not fill {len(content) - at}")
    _compare(crc32c(memoryview(content)[at:], crc), checksum)
    values = []
    for length in lengths:
        values.append(content[at : at + length])
        at += length
    return values


def encode_variants(values: Sequence[bytes]) -> tuple[bytes, int]:
    """Return what a checkpoint stores for serialized ``VariantTensorDataProto``, and its checksum."""
    content, crc = bytearray(), 0
    for value in values:
        crc = crc32c(value, crc32c(len(value).to_bytes(8, sys.byteorder), crc))
        stored = _stored(crc)
        crc = crc32c(stored, crc)
        content += encode_varint(len(value)) + value + stored
    return bytes(content), crc


def decode_variants(content: bytes, count: int, checksum: int) -> list[bytes]:
    """Return the serialized ``VariantTensorDataProto`` of a tensor of ``count`` elements.

    Raises:
        ValueError: The content is not that of so many variants, or does not have the checksum.
    """
    values, at, crc = [], 0, 0
    for _ in range(count):
        length, at = decode_varint(content, at)
        value = content[at : at + length]
        crc = crc32c(value, crc32c(length.to_bytes(8, sys.byteorder), crc))
        crc, at = _check(content, at + length, crc)
        values.append(value)
    if at != len(content):
        raise ValueError(f"{len(content) - at} bytes follow the last of {count} variants")
    _compare(crc, checksum)
    return values


def _of_lengths(lengths: Sequence[int]) -> int:
    """Return the checksum of strings' lengths; a long one takes 64 bits, as TensorFlow's older files knew only 32."""
    return crc32c(b"".join(length.to_bytes(4 if length >> 32 == 0 else 8, sys.byteorder) for length in lengths))


def _stored(crc: int) -> bytes:
    return masked(crc).to_bytes(_CHECKSUM, sys.byteorder)


def _check(content: bytes, at: int, crc: int) -> tuple[int, int]:
    """Compare a checksum with the one stored at a place; return it with its own bytes added, and the place after."""
    stored = content[at : at + _CHECKSUM]
    if len(stored) < _CHECKSUM:
        raise ValueError("it ends early")
    _compare(crc, unmasked(int.from_bytes(stored, sys.byteorder)))
    return crc32c(stored, crc), at + _CHECKSUM


def _compare(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"it has checksum {found:#010x}, not {expected:#010x}")
