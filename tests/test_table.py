"""LevelDB's table: rows come back, every flipped or missing byte is seen, and hostile input costs no memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.checksums import crc32c, masked
from ckptkit.errors import CheckpointDamagedError
from ckptkit.table import decode_table, encode_table
from ckptkit.varint import decode_varint, encode_varint

pytestmark = pytest.mark.core

SMALL = [(b"", b"header"), *((b"layer/%02d/kernel" % n, b"value %d" % n) for n in range(20)), (b"z", b"")]
MAGIC = bytes.fromhex("57fb808b247547db")


def sealed(block, kind=0):
    """A block as it stands in a file."""
    covered = block + bytes([kind])
    return covered + masked(crc32c(covered)).to_bytes(4, "little")


def row(key, value, shared=0):
    return encode_varint(shared) + encode_varint(len(key)) + encode_varint(len(value)) + key + value


def block_of(*rows):
    return b"".join(rows) + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def table_of(*blocks, kind=0):
    """A table of blocks as they are given: right in all that has to be right to get to them."""
    content, handles = b"", []
    for block in blocks:
        handles.append(encode_varint(len(content)) + encode_varint(len(block)))
        content += sealed(block, kind)
    index = block_of(*(row(b"%09d" % n, handle) for n, handle in enumerate(handles)))
    return with_index(content, index)


def with_index(content, index):
    where = encode_varint(len(content)) + encode_varint(len(index))
    return content + sealed(index) + (b"\0\0" + where).ljust(40, b"\0") + MAGIC


def index_block(content):
    """Key and place of each block, as the table's own index says."""
    at = decode_varint(content[-48:], decode_varint(content[-48:], decode_varint(content[-48:], 0)[1])[1])
    size, _ = decode_varint(content[-48:], at[1])
    return content[at[0] : at[0] + size]


@given(st.dictionaries(st.binary(max_size=30), st.binary(max_size=200), max_size=60))
def test_rows_come_back(rows):
    assert decode_table(encode_table(sorted(rows.items())), "x") == sorted(rows.items())


@pytest.mark.parametrize(
    "rows",
    [
        [(b"key/%06d" % n, b"v" * 60) for n in range(20_000)],
        [(b"a", b"x" * 600_000), (b"b", b""), (b"c", b"y" * 524_288), (b"d", b"z")],
        [(b"k" * 100_000 + b"%03d" % n, b"") for n in range(70)],
        [(b"\xff" * n, b"v" * 300_000) for n in range(1, 5)],
    ],
    ids=["many", "large values", "long keys", "keys without a successor"],
)
def test_rows_of_many_blocks_come_back(rows):
    content = encode_table(rows)
    assert index_block(content)[-4:] != (1).to_bytes(4, "little")  # more than one block
    assert decode_table(content, "x") == rows


def test_keys_are_stored_without_what_they_share():
    assert len(encode_table([(b"k" * 1000 + b"%02d" % n, b"") for n in range(32)])) < 2500


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"]])
def test_rows_out_of_order_are_refused(keys):
    with pytest.raises(ValueError, match=r"rows of a table are in increasing order, got b'a' after b'[ab]'"):
        encode_table((key, b"") for key in keys)


def test_every_flipped_byte_is_seen_or_changes_nothing():
    content = encode_table(SMALL)
    unseen = 0
    for at in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            flipped = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            try:
                unseen += decode_table(flipped, "x") == SMALL or pytest.fail(f"byte {at} gives other rows")
            except CheckpointDamagedError as error:
                assert str(error).startswith("x is damaged: ")  # noqa: PT017
    # Of padding, and of the block of no rows that nobody reads.
    assert unseen < 3 * 55


def test_every_missing_end_is_seen():
    content = encode_table(SMALL)
    for size in range(len(content)):
        with pytest.raises(CheckpointDamagedError, match="x is damaged: "):
            decode_table(content[:size], "x")


@given(st.binary(max_size=300))
def test_garbage_is_damage(content):
    with pytest.raises(CheckpointDamagedError):
        decode_table(content + MAGIC, "x")


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=300)
def test_garbage_with_a_right_checksum_is_rows_or_damage(block, as_index):
    content = with_index(b"", block) if as_index else table_of(block)
    try:
        rows = decode_table(content, "x")
    except CheckpointDamagedError:
        return
    assert [key for key, _ in rows] == sorted({key for key, _ in rows})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes are too few for a table"),
        (bytes(100), "it does not end in the magic number of a table"),
        (b"\xff" * 92 + MAGIC, "no number at byte 0"),
        (
            with_index(b"", block_of(row(b"a", encode_varint(2**60) * 2))),
            "a block of 1152921504606846976 bytes at byte ",
        ),
        (with_index(b"", block_of(row(b"a", b"\0"))), "no number at byte 1"),
        (table_of(b""), "a block of 0 bytes claims 0 restarts"),
        (table_of(b"\xff\xff\xff\xff"), "a block of 4 bytes claims 4294967295 restarts"),
        (table_of(block_of(row(b"b", b"")), block_of(row(b"a", b""))), "key b'a' comes after b'b'"),
        (table_of(block_of(row(b"a", b""), row(b"a", b""))), "key b'a' comes after b'a'"),
        (table_of(block_of(row(b"a", b"", shared=1))), "a row before byte 3 of its block has impossible lengths"),
        (table_of(block_of(b"\0\x05\0a")), "a row before byte 3 of its block has impossible lengths"),
        (table_of(block_of(b"\0\1\x09a")), "a row before byte 3 of its block has impossible lengths"),
        (table_of(block_of(), kind=7), "the block at byte 0 is of unknown kind 7"),
        (
            with_index(sealed(block_of()), block_of(row(b"a", b"\0\x08"), row(b"b", b"\0\x08"))),
            "the block at byte 0 overlaps the one before",
        ),
    ],
)
def test_what_is_wrong_is_said(content, why):
    with pytest.raises(CheckpointDamagedError) as caught:
        decode_table(content, "run/ckpt-1.index")
    assert str(caught.value).startswith(f"run/ckpt-1.index is damaged: {why}")


def test_a_wrong_checksum_is_told_with_both_sides():
    content = bytearray(encode_table(SMALL))
    content[3] ^= 1
    with pytest.raises(
        CheckpointDamagedError, match=r"the block at byte 0 has checksum 0x[0-9a-f]{8}, not 0x[0-9a-f]{8}\.$"
    ):
        decode_table(bytes(content), "x")


def compressed(block):
    """A block compressed with snappy, as far as one literal is that."""
    return encode_varint(len(block)) + bytes([61 << 2]) + (len(block) - 1).to_bytes(2, "little") + block


def test_a_compressed_table_is_read():
    block = block_of(row(b"a", b"1"), row(b"b", b"2"))
    content = table_of(compressed(block), kind=1)
    assert decode_table(content, "x") == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize(
    "block",
    [b"", b"\x05\x08abc", encode_varint(2**40) + b"\x08abc", encode_varint(2**63) + b"\x08abc" * 100],
    ids=["empty", "cut short", "a bomb", "a larger one"],
)
def test_a_compressed_block_that_is_not_what_it_claims_to_be_is_damage_and_takes_no_memory(block):
    with pytest.raises(CheckpointDamagedError, match=r"^x is damaged: "):
        decode_table(table_of(block, kind=1), "x")


def test_keys_that_grow_by_sharing_do_not_fill_the_memory():
    # 100,000 rows of five bytes each that say "the key before, and one byte more": 5 GB of keys.
    bomb = block_of(row(b"a", b""), *(row(b"a", b"", shared=n) for n in range(1, 100_000)))
    with pytest.raises(CheckpointDamagedError, match="has impossible lengths"):
        decode_table(table_of(bomb), "x")
