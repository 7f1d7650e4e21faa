r"""Whole numbers in as few bytes as they need, seven bits a byte, lowest first: LevelDB's and protobuf's ``varint64``.

encode_varint(300)  # b"\xac\x02"
decode_varint(b"\xac\x02", 0)  # (300, 2): the number, and where it ends
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["decode_varint", "encode_varint"]

_MAX_BYTES = 10  # of 64 bits


@lru_cache(maxsize=4096)
def encode_varint(value: int) -> bytes:
    """Return a number from 0 to 2**64 - 1 as a varint."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"a varint holds 0 to 2**64 - 1, got {value}")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """Read the varint that starts at ``at``.

    Returns:
        The number, and the place after its last byte.

    Raises:
        ValueError: The buffer ends within it, or it does not fit 64 bits.
    """
    if at < len(buffer) and buffer[at] < 0x80:  # nearly all of them: an index has three a row
        return buffer[at], at + 1
    value = 0
    for place, byte in enumerate(buffer[at : at + _MAX_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + place + 1
    raise ValueError(f"no number at byte {at}")
