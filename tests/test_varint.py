"""Varints: there and back, the protobuf documentation's example, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.varint import decode_varint, encode_varint


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_a_number_is_read_as_it_was_written_wherever_it_stands(value, before, after):
    encoded = encode_varint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    assert decode_varint(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


def test_bytes_are_those_of_the_documented_example():
    assert encode_varint(150) == b"\x96\x01"  # protobuf.dev, Encoding


@pytest.mark.parametrize("value", [-1, 2**64])
def test_what_has_no_place_in_64_bits_is_refused(value):
    with pytest.raises(ValueError, match=f"a varint holds 0 to 2\\*\\*64 - 1, got {value}"):
        encode_varint(value)


@pytest.mark.parametrize(
    "encoded", [b"", b"\x80", b"\xff" * 9, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"], ids=lambda value: value.hex()
)
def test_what_is_no_number_of_64_bits_is_an_error(encoded):
    with pytest.raises(ValueError, match="no number at byte 1"):
        decode_varint(b"\0" + encoded, 1)
