"""Strings and variants: there and back, and damage is seen. What TensorFlow makes of them is in ``test_bundle.py``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.string_tensors import _of_lengths, decode_strings, decode_variants, encode_strings, encode_variants

VALUES = [b"", b"a", b"\xff\0", b"x" * 128, b"y" * 20_000]
WRONG = r"it has checksum 0x|do not fill|follow the last|it ends early|no number at byte"
both = pytest.mark.parametrize(
    ("encode", "decode"),
    [(encode_strings, decode_strings), (encode_variants, decode_variants)],
    ids=["string", "variant"],
)


@both
@given(values=st.lists(st.binary(max_size=200)))
def test_values_are_read_as_they_were_written(encode, decode, values):
    content, checksum = encode(values)
    assert decode(content, len(values), checksum) == values


@both
def test_every_flipped_byte_is_seen(encode, decode):
    content, checksum = encode(VALUES[:4])
    for at in range(len(content)):
        flipped = content[:at] + bytes([content[at] ^ 0x11]) + content[at + 1 :]
        with pytest.raises(ValueError, match=WRONG):
            decode(flipped, 4, checksum)


@both
def test_every_missing_end_and_every_byte_too_many_is_seen(encode, decode):
    content, checksum = encode(VALUES[:4])
    for wrong in [*(content[:size] for size in range(len(content))), content + b"\0"]:
        with pytest.raises(ValueError, match=WRONG):
            decode(wrong, 4, checksum)


@both
@pytest.mark.parametrize("count", [0, 3, 5, 2**62])
def test_another_number_of_values_is_seen(encode, decode, count):
    content, checksum = encode(VALUES[:4])
    with pytest.raises(ValueError, match=WRONG):
        decode(content, count, checksum)


@both
def test_another_checksum_is_seen(encode, decode):
    content, checksum = encode(VALUES)
    with pytest.raises(ValueError, match=f"it has checksum {checksum:#010x}, not {checksum ^ 1:#010x}"):
        decode(content, len(VALUES), checksum ^ 1)


def test_no_strings_at_all_may_have_left_no_bytes():
    assert decode_strings(b"", 0, 0) == []
    assert encode_strings([]) == (b"\xd8\xea\x82\xa2", encode_strings([])[1])


def test_lengths_beyond_32_bits_count_as_64():
    assert _of_lengths([2**32 - 1]) == _of_lengths([0xFFFFFFFF])
    assert _of_lengths([2**32]) == _of_lengths([0, 1])  # the same eight bytes, on a little-endian machine
