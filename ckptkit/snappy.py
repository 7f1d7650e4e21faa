r"""Snappy, the compression that a table's block may have; only the reading of it.

decompress(b"\x06\x08abc\x0a\x03\x00")  # b"abcabc": three bytes as they are, then three from three bytes before

    length as varint, then a tag each     its lowest two bits: what follows, the others: how much
    0  bytes as they are                  their number less one, from 60 on in the 1 to 4 bytes behind the tag
    1  a copy of 4 to 11 bytes            how far back: three bits of the tag and a byte
    2  a copy of 1 to 64 bytes            how far back: two bytes
    3  a copy of 1 to 64 bytes            how far back: four bytes

Source: format_description.txt of github.com/google/snappy.
"""

from __future__ import annotations

from ckptkit.varint import decode_varint

__all__ = ["decompress"]

_MOST_PER_BYTE = 22  # three bytes say "64 bytes again"
_LONG = 60  # literals from here on tell their length in bytes of their own


def decompress(content: bytes) -> bytes:
    """Return what was compressed.

    Raises:
        ValueError: It ends early, copies from where nothing is, or is longer or shorter than it says.
    """
    length, at = decode_varint(content, 0)
    if length > _MOST_PER_BYTE * len(content):  # before memory is taken for it
        raise ValueError(f"{len(content)} bytes claim to be {length} compressed ones")
    found = bytearray()
    while at < len(content) and len(found) <= length:
        kind, number = content[at] & 3, content[at] >> 2
        at += 1
        if kind == 0:
            wide = max(0, number - _LONG + 1)
            size = 1 + (_number(content, at, wide) if wide else number)
            at += wide + size
            found += content[at - size : at]
        else:
            wide = (1, 2, 4)[kind - 1]
            back = _number(content, at, wide) + ((number >> 3 << 8) if kind == 1 else 0)
            at += wide
            _copy(found, back, 4 + (number & 7) if kind == 1 else 1 + number)
    if at != len(content) or len(found) != length:
        raise ValueError(f"compressed bytes are {len(found)}, not the {length} that they claim to be")
    return bytes(found)


def _number(content: bytes, at: int, wide: int) -> int:
    return int.from_bytes(content[at : at + wide], "little")


def _copy(found: bytearray, back: int, size: int) -> None:
    if not 0 < back <= len(found):
        raise ValueError(f"a copy from {back} bytes before byte {len(found)}")
    start = len(found) - back
    pattern = found[start : start + size]  # shorter than the copy where that reaches into itself
    found += (pattern * (size // len(pattern) + 1))[:size]
