"""CRC-32C against the published values, in one go and in pieces, and its disguise on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.checksums import crc32c, masked, unmasked


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
    ids=["nothing", "digits", "zeros", "ones", "ascending", "descending"],
)
def test_crc32c_gives_the_published_values(data, checksum):
    # RFC 3720, appendix B.4.
    assert crc32c(data) == checksum


@given(st.binary(), st.binary())
def test_a_checksum_goes_on_where_another_ended(first, second):
    assert crc32c(second, crc32c(first)) == crc32c(first + second)


def test_a_checksum_is_taken_of_any_contiguous_memory():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (
        crc32c(values) == crc32c(memoryview(values)) == crc32c(bytearray(values.tobytes())) == crc32c(values.tobytes())
    )


@given(st.integers(0, 2**32 - 1))
def test_unmasking_undoes_masking_and_no_checksum_is_its_own_mask(crc):
    assert unmasked(masked(crc)) == crc
    assert 0 <= masked(crc) < 2**32
    assert masked(crc) != crc


def test_a_mask_is_the_one_of_leveldb():
    # The index of an empty tensor of TensorFlow's holds this for the checksum of nothing.
    assert masked(0) == 0xA282EAD8
    assert masked(1) == 0xA284EAD8
