"""The index: the same bytes as TensorFlow's, and what is impossible in one is refused with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.bundle_index import Entry, StoredSlice, decode_index, encode_index, shard_path
from ckptkit.bundle_protos import BundleEntry, Header
from ckptkit.errors import CheckpointDamagedError, UnsupportedBundleError
from ckptkit.slices import TensorSlice, slice_key
from ckptkit.table import decode_table, encode_table

pytestmark = pytest.mark.core

KERNEL = Entry("kernel", "float32", (2, 3), 0, 64, 24, 0x12345678)
ROWS = TensorSlice.parse("0,2:-"), TensorSlice.parse("2,3:-")
SLICED = Entry(
    "table",
    "float32",
    (5, 2),
    slices=(
        StoredSlice(ROWS[0], Entry("table", "float32", (2, 2), 1, 0, 16, 1)),
        StoredSlice(ROWS[1], Entry("table", "float32", (3, 2), 0, 8, 24, 2)),
    ),
)
ENTRIES = (KERNEL, SLICED, Entry("words", "string", (), 1, 16, 7, 3))


def index_of(header=None, rows=None, **changes):
    """An index with the header, fields of the kernel or whole rows changed, its checksums right."""
    all_rows = dict(decode_table(encode_index(ENTRIES, 2), "x"))
    if header is not None:
        all_rows[b""] = header.SerializeToString()
    kernel = BundleEntry.FromString(all_rows[b"kernel"])
    for field, value in changes.items():
        setattr(kernel, field, value)
    all_rows[b"kernel"] = kernel.SerializeToString()
    return encode_table(sorted({**all_rows, **(rows or {})}.items()))


def shaped(*sizes, **fields):
    """A row of a tensor of some shape."""
    entry = BundleEntry(dtype=1, **fields)
    for size in sizes:
        entry.shape.dim.add(size=size)
    return entry.SerializeToString()


def sliced(*texts):
    """A row of a tensor of 5 by 2 that lists slices."""
    entry = BundleEntry.FromString(shaped(5, 2))
    for text in texts:
        proto = entry.slices.add()
        for extent in text:
            proto.extent.add(**dict(zip(("start", "length"), extent)))
    return entry.SerializeToString()


def test_entries_come_back_in_order_of_their_keys():
    index = decode_index(encode_index(reversed(ENTRIES), 2), "x")
    assert (list(index.entries.values()), index.shards) == (list(ENTRIES), 2)
    assert list(index.entries) == ["kernel", "table", "words"]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1).map(str)
        | st.binary(min_size=1).map(lambda key: key.decode("utf-8", "surrogateescape")),
        st.tuples(
            st.lists(st.integers(0, 9), max_size=4), st.integers(0, 2), st.integers(0, 2**50), st.integers(0, 2**32 - 1)
        ),
    )
)
def test_any_entries_come_back(rows):
    entries = []
    for key, (shape, shard, offset, checksum) in rows.items():
        size = 1
        for dim in shape:
            size *= dim
        entries.append(Entry(key, "int8", tuple(shape), shard, offset, size, checksum))
    assert decode_index(encode_index(entries, 3), "x").entries == {entry.key: entry for entry in entries}


def test_ten_thousand_entries_come_back():
    entries = [
        Entry(f"model/layer-{n // 9}/kernel-{n}", "float32", (4,), n % 3, 4096 * n, 16, n) for n in range(10_000)
    ]
    assert decode_index(encode_index(entries, 3), "x").entries == {entry.key: entry for entry in entries}


def test_a_tensor_is_as_large_as_its_slices():
    assert (KERNEL.size_bytes, SLICED.size_bytes) == (24, 40)


def test_a_shard_is_called_as_tensorflow_calls_it():
    assert shard_path("run/ckpt-1", 2, 12) == "run/ckpt-1.data-00002-of-00012"


def test_a_tensor_of_a_type_that_is_not_known_is_listed():
    assert decode_index(index_of(dtype=99), "x").entries["kernel"] == replace(KERNEL, dtype="unknown-99")


def test_every_flipped_byte_and_every_missing_end_is_seen_or_changes_nothing():
    content = encode_index(ENTRIES, 2)
    index = decode_index(content, "x")
    damaged = [content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :] for at in range(len(content))]
    damaged += [content[:size] for size in range(len(content))]
    seen = 0
    for each in damaged:
        try:
            assert decode_index(each, "x") == index
        except CheckpointDamagedError:
            seen += 1
    assert len(damaged) - 60 < seen < len(damaged)  # unseen: padding, and a block of no rows that nobody reads


def test_every_changed_byte_under_a_right_checksum_is_an_error_or_another_index():
    rows = decode_table(encode_index(ENTRIES, 2), "x")
    for number, (key, row) in enumerate(rows):
        for at in range(len(row)):
            for value in {0, 1, 0x7F, 0x80, 0xFF, row[at] ^ 1, row[at] ^ 8}:
                changed = [*rows]
                changed[number] = key, row[:at] + bytes([value]) + row[at + 1 :]
                try:
                    index = decode_index(encode_table(changed), "x")
                except (CheckpointDamagedError, UnsupportedBundleError):
                    continue
                assert set(index.entries) <= {"kernel", "table", "words"} | {
                    key.decode(errors="surrogateescape") for key, _ in rows
                }


@given(
    st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=30)),
    st.binary(max_size=12) | st.just(b"\x08\2\x1a\2\x08\1"),
)
def test_garbage_in_a_sound_table_is_an_index_or_an_error(rows, header):
    content = encode_table(sorted({**rows, b"": header}.items()))
    try:
        index = decode_index(content, "x")
    except (CheckpointDamagedError, UnsupportedBundleError):
        return
    assert len(index.entries) <= len(rows)


BELOW = slice_key("table", ROWS[0])
BELOW_THAT = slice_key(BELOW.decode("utf-8", "surrogateescape"), ROWS[0])
BEYOND = slice_key("table", TensorSlice.parse("4,2:-"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (index_of(Header(num_shards=0)), "it claims to have 0 data shards"),
        (index_of(Header(num_shards=-1)), "it claims to have -1 data shards"),
        (index_of(Header(num_shards=1)), "of tensor 'table' shard 1 is none of 1"),
        (index_of(shard_id=2), "of tensor 'kernel' shard 2 is none of 2"),
        (index_of(shard_id=-1), "of tensor 'kernel' shard -1 is none of 2"),
        (index_of(offset=-1), "of tensor 'kernel' 24 bytes at -1 are impossible"),
        (index_of(size=-24), "of tensor 'kernel' -24 bytes at 64 are impossible"),
        (index_of(offset=2**63 - 20), "of tensor 'kernel' 24 bytes at 9223372036854775788 are impossible"),
        (index_of(size=25), "of tensor 'kernel' float32 (2, 3) takes 24 bytes, not 25"),
        (index_of(size=23), "of tensor 'kernel' float32 (2, 3) takes 24 bytes, not 23"),
        (index_of(dtype=2), "of tensor 'kernel' float64 (2, 3) takes 48 bytes, not 24"),
        (index_of(dtype=7, size=5), "of tensor 'kernel' string (2, 3) takes at least 6 bytes, not 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_impossible_of_the_header_and_of_numbers_is_said(content, why):
    with pytest.raises(CheckpointDamagedError) as caught:
        decode_index(content, "run/ckpt-1.index")
    assert str(caught.value) == f"run/ckpt-1.index is damaged: {why}."


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({b"x": shaped(-2, -3, size=24)}, "of tensor 'x' the shape is impossible: (-2, -3)"),
        ({b"x": shaped(*[1] * 255, size=4)}, "of tensor 'x' the shape is impossible: (1, 1, "),
        ({b"x": shaped(2**62, 4)}, f"of tensor 'x' the shape is too large: ({2**62}, 4)"),
        ({b"x": b"\x12\2\x18\1"}, "tensor 'x' has no shape"),
        ({b"x": b"\x12\xff"}, "Error parsing message"),
        ({b"x": sliced([(0, 2), ()])}, "it lacks row b'\\x00x\\x00\\x01\\x01\\x02\\x80\\x82\\x80\\x7f'"),
        ({b"table": sliced([(0, 2)])}, "it lacks row"),
        ({b"table": sliced([(0, 2), ()], [(0, 2), ()])}, "slice 0,2:- of tensor 'table' is listed twice"),
        ({b"table": sliced([(0, 0), ()])}, "a slice starts at 0 or later and is not empty, got 0,0:-"),
        ({b"table": sliced([(-1, 2), ()])}, "a slice starts at 0 or later and is not empty, got -1,2:-"),
        ({b"table": sliced([(2**63 - 1, 2), ()])}, "a slice starts at 0 or later"),
        ({BELOW: shaped(2, 3, size=24)}, "of tensor 'table' slice 0,2:- is float32 (2, 3), not float32 (2, 2)"),
        ({BELOW: shaped(2, 2, size=16, shard_id=2)}, "of tensor 'table' shard 2 is none of 2"),
        (
            {BELOW: sliced([(0, 2), ()]), BELOW_THAT: shaped(2, 2, size=16)},
            "slice 0,2:- of tensor 'table' is listed twice, or itself in slices",
        ),
        (
            {b"table": sliced([(4, 2), ()]), BEYOND: shaped(2, 2, size=16)},
            "of tensor 'table' slice 4,2:- reaches beyond shape (5, 2)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_impossible_of_shapes_and_slices_is_said(rows, why):
    with pytest.raises(CheckpointDamagedError) as caught:
        decode_index(index_of(rows=rows), "run/ckpt-1.index")
    assert str(caught.value).startswith(f"run/ckpt-1.index is damaged: {why}")


def test_an_index_without_a_header_is_damaged():
    with pytest.raises(CheckpointDamagedError, match="x is damaged: it lacks row b''"):
        decode_index(encode_table([(b"kernel", shaped(2, 3, size=24))]), "x")


def header(**version):
    made = Header(num_shards=2)
    for field, value in version.items():
        if isinstance(value, list):
            getattr(made.version, field).extend(value)
        else:
            setattr(made.version, field, value)
    return made


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (
            Header(num_shards=2, endianness=1),
            "it comes from a machine with another byte order than this one's, little-endian",
        ),
        (header(min_consumer=2), "it needs a reader of format 2, ckptkit reads 1"),
        (header(bad_consumers=[1]), "it needs a reader of format 0 and not 1, ckptkit reads 1"),
    ],
    ids=["big-endian", "newer", "forbidden"],
)
def test_what_is_sound_and_not_for_us_is_left_to_tensorflow(header, why):
    with pytest.raises(UnsupportedBundleError, match="TensorFlow") as caught:
        decode_index(index_of(header), "run/ckpt-1.index")
    assert str(caught.value).startswith(f"cannot read run/ckpt-1.index: {why}")


def test_a_newer_producer_is_no_hindrance():
    assert (
        decode_index(index_of(header(producer=7, min_consumer=1, bad_consumers=[3])), "x").entries["kernel"] == KERNEL
    )


@pytest.mark.parametrize(
    ("entries", "shards", "why"),
    [
        ([KERNEL, KERNEL], 1, "a checkpoint's tensors have a name each, got 'kernel' twice or empty"),
        ([replace(KERNEL, key="")], 1, "a checkpoint's tensors have a name each, got '' twice or empty"),
        ([SLICED, SLICED], 2, "a checkpoint's tensors have a name each, got 'table' twice or empty"),
        ([], 0, "a checkpoint has a data shard or more, got 0"),
        ([SLICED], 1, "cannot write an index with tensor 'table': shard 1 is none of 1"),
        (
            [replace(KERNEL, size=23)],
            1,
            r"cannot write an index with tensor 'kernel': float32 \(2, 3\) takes 24 bytes, not 23",
        ),
        ([replace(KERNEL, shape=(3, 3))], 1, r"tensor 'kernel': float32 \(3, 3\) takes 36 bytes, not 24"),
        ([replace(KERNEL, offset=-4)], 1, "tensor 'kernel': 24 bytes at -4 are impossible"),
        ([replace(KERNEL, dtype="float23")], 1, "no TensorFlow dtype is called 'float23'"),
        ([replace(SLICED, shape=(4, 2))], 2, r"tensor 'table': slice 2,3:- reaches beyond shape \(4, 2\)"),
        ([replace(SLICED, shape=(5,))], 2, r"tensor 'table': slice 0,2:- is of 2 dimensions, shape \(5,\) has 1"),
        ([replace(SLICED, dtype="int32")], 2, r"tensor 'table': slice 0,2:- is float32 \(2, 2\), not int32 \(2, 2\)"),
    ],
)
def test_an_index_of_what_cannot_be_is_not_written(entries, shards, why):
    with pytest.raises(ValueError, match=why):
        encode_index(entries, shards)
