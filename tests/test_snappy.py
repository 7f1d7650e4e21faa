"""Snappy, read: all kinds of tags, what TensorFlow reads as the same bytes, and nothing that claims more than it is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.snappy import decompress
from ckptkit.varint import encode_varint


def literal(content):
    size = len(content) - 1
    if size < 60:
        return bytes([size << 2]) + content
    wide = (size.bit_length() + 7) // 8
    return bytes([59 + wide << 2]) + size.to_bytes(wide, "little") + content


def copy(back, size, wide):
    if wide == 1:
        return bytes([back >> 8 << 5 | size - 4 << 2 | 1, back & 255])
    return bytes([size - 1 << 2 | (2 if wide == 2 else 3)]) + back.to_bytes(wide, "little")


@st.composite
def streams(draw):
    """Compressed bytes with tags of every kind, and what they stand for."""
    plain, packed = bytearray(), b""
    for _ in range(draw(st.integers(1, 12))):
        wide = draw(st.sampled_from([0, 1, 2, 4])) if plain else 0
        if wide:
            back, size = draw(st.integers(1, min(len(plain), 2047))), draw(st.integers(4, 11 if wide == 1 else 64))
            packed += copy(back, size, wide)
            for _ in range(size):
                plain.append(plain[-back])
        else:
            content = draw(st.binary(min_size=1, max_size=20)) * draw(st.sampled_from([1, 4, 30, 4000]))
            packed += literal(content)
            plain += content
    return encode_varint(len(plain)) + packed, bytes(plain)


@settings(deadline=None)
@given(streams())
def test_what_was_compressed_comes_back(stream):
    packed, plain = stream
    assert decompress(packed) == plain


def test_nothing_at_all_comes_back_as_nothing():
    assert decompress(b"\0") == b""


@settings(deadline=None)
@given(streams(), st.data())
def test_a_missing_end_is_seen(stream, data):
    packed, _ = stream
    with pytest.raises(ValueError, match=r"claim|no number at byte|a copy from"):
        decompress(packed[: data.draw(st.integers(0, len(packed) - 1))])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | st.tuples(streams(), st.binary(max_size=5)).map(lambda both: both[0][0] + both[1]))
def test_garbage_is_no_more_than_so_many_times_as_long(content):
    with suppress(ValueError):
        assert len(decompress(content)) <= 22 * len(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no number at byte 0"),
        (encode_varint(2**40) + b"\x08abc", f"10 bytes claim to be {2**40} compressed ones"),
        (b"\x03\x08ab", "compressed bytes are 2, not the 3 that they claim to be"),
        (b"\x03\x08abcd", "compressed bytes are"),
        (b"\x02\x08abc", "compressed bytes are 3, not the 2 that they claim to be"),
        (b"\x06\x08abc\x0a\x00\x00", "a copy from 0 bytes before byte 3"),
        (b"\x06\x08abc\x0a\x04\x00", "a copy from 4 bytes before byte 3"),
        (b"\x03\xf0", "compressed bytes are"),
    ],
    ids=["empty", "bomb", "short", "tail", "longer", "from itself", "from before", "no length"],
)
def test_what_is_no_compressed_content_is_said(content, why):
    with pytest.raises(ValueError, match=why):
        decompress(content)
