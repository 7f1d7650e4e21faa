"""TensorFlow's checkpoint files against TensorFlow: each reads what the other wrote, and damage is always seen."""

from __future__ import annotations

import errno
import os
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptkit import bundle as bundle_module
from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry, StoredSlice, encode_index
from ckptkit.bundle_writer import BundleWriter
from ckptkit.checksums import crc32c
from ckptkit.dtypes import numpy_dtype
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError, UnsupportedBundleError
from ckptkit.slices import TensorSlice
from ckptkit.table import decode_table, encode_table
from tests.bundle_cases import DTYPES, FIXED, files, raw, restore, save, some

pytestmark = pytest.mark.core

SHAPES = [(), (3,), (2, 0), (3, 4, 2)]
STRINGS = {
    "words": np.array([[b"a", b""], [b"\xff\x00\xfe", b"x" * 20_000]], object),
    "scalar": np.array(b"long" * 50, object),
    "none": np.zeros((0, 4), object),
    "empty ones": np.full((3,), b"", object),
    "many": np.array([b"%d" % n for n in range(3000)], object),
    "of 127, 128 and 16,384 bytes": np.array([b"x" * 127, b"x" * 128, b"x" * 16_384], object),
}


def reencoded(prefix):
    """The index that we would have written for what the one on disk says."""
    with Bundle(prefix) as bundle:
        return encode_index(bundle.entries.values(), bundle.shards)


def merge(folder, parts):
    """Let TensorFlow make the checkpoint x of part-0, part-1, …"""
    prefixes = [str(folder / f"part-{part}") for part in parts]
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=prefixes, destination_prefix=str(folder / "x"), delete_old_dirs=False
    )


# Each reads what the other wrote -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_tensorflow_reads_every_dtype_that_we_write_and_writes_the_same_bytes(name, shape, tmp_path):
    values = some(name, shape)
    with BundleWriter(tmp_path / "ours") as writer:
        writer.add("x", values, dtype=name)
    tensor = restore(tmp_path / "ours", "x", name)
    assert (tensor.dtype.name, tuple(tensor.shape), raw(tensor.numpy())) == (name, shape, raw(values))
    save(tmp_path / "theirs", {"x": tensor})
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    with Bundle(tmp_path / "theirs") as bundle:
        again = bundle.read("x")
    assert (again.dtype, again.shape, raw(again)) == (numpy_dtype(name), shape, raw(values))


def test_there_is_no_dtype_that_tensorflow_has_and_that_is_not_tried_here():
    # A resource cannot be saved: SaveV2 given one aborts the process.
    assert {dtype.name for dtype in DTYPES} == {*FIXED, "string", "variant", "resource"}


@pytest.mark.parametrize("name", STRINGS)
def test_strings_are_the_same_to_both(name, tmp_path):
    values = STRINGS[name]
    with BundleWriter(tmp_path / "ours") as writer:
        writer.add(name, values)
    save(tmp_path / "theirs", {name: tf.constant(values, tf.string)})
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert raw(restore(tmp_path / "ours", name, "string").numpy()) == raw(values)
    with Bundle(tmp_path / "theirs") as bundle:
        again = bundle.read(name)
    assert (again.tolist(), again.shape, again.dtype) == (values.tolist(), values.shape, object)


def test_variants_are_the_same_to_both(tmp_path):
    lists = [tf.raw_ops.TensorListFromTensor(tensor=tf.zeros([n, 2]), element_shape=[2]) for n in (0, 1, 300)]
    save(tmp_path / "theirs", {"lists": tf.stack(lists), "one": lists[2]})
    with Bundle(tmp_path / "theirs") as bundle, BundleWriter(tmp_path / "ours") as writer:
        assert bundle.entries["lists"].dtype == "variant"
        for key in ("lists", "one"):
            writer.add(key, bundle.read(key), dtype="variant")
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    again = restore(tmp_path / "ours", "one", "variant")
    assert tf.raw_ops.TensorListLength(input_handle=again).numpy() == 300


def test_the_state_of_an_iterator_goes_through_our_hands_unharmed(tmp_path):
    def iterator():
        return iter(tf.data.Dataset.range(100).shuffle(10, seed=1).batch(3))

    ours, again = iterator(), iterator()
    for _ in range(4):
        next(ours)
    tf.train.Checkpoint(iterator=ours).write(str(tmp_path / "theirs"))
    with Bundle(tmp_path / "theirs") as bundle, BundleWriter(tmp_path / "ours") as writer:
        for key, entry in bundle.entries.items():
            writer.add(key, bundle.read(key), dtype=entry.dtype)
    tf.train.Checkpoint(iterator=again).read(str(tmp_path / "ours")).assert_consumed()
    assert [batch.numpy().tolist() for batch in again] == [batch.numpy().tolist() for batch in ours]


def test_shards_that_tensorflow_merged_are_read(tmp_path):
    values = {
        f"{key}/{shard}": some(key, (shard, 3), shard) for shard in range(5) for key in ("float32", "int4", "string")
    }
    for shard in range(5):
        save(tmp_path / f"part-{shard}", {key: value for key, value in values.items() if key.endswith(f"/{shard}")})
    merge(tmp_path, range(5))
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.shards == 5
        assert {entry.shard for entry in bundle.entries.values()} == {0, 1, 2, 3, 4}
        assert {key: raw(bundle.read(key)) for key in bundle.entries} == {
            key: raw(value) for key, value in values.items()
        }
    assert reencoded(tmp_path / "x") == files(tmp_path / "x")[".index"]


def test_ten_thousand_tensors_with_names_alike_fill_several_blocks_of_the_same_bytes(tmp_path):
    shuffled = random.Random(1).sample(range(10_000), 10_000)
    values = {f"model/layer_with_weights-{n // 8}/kernel-{n}/.ATTRIBUTES/VARIABLE_VALUE": np.int32(n) for n in shuffled}
    with BundleWriter(tmp_path / "ours") as writer:
        for key, value in values.items():
            writer.add(key, np.asarray(value))
    save(tmp_path / "theirs", values)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert len(files(tmp_path / "ours")[".index"]) > 262_144  # where a block is closed
    reader = tf.train.load_checkpoint(str(tmp_path / "ours"))
    assert len(reader.get_variable_to_shape_map()) == 10_000
    with Bundle(tmp_path / "theirs") as bundle:
        assert list(bundle.entries) == sorted(values)
        for key in random.Random(2).sample(sorted(values), 300):
            assert bundle.read(key) == values[key] == reader.get_tensor(key)


KEYS = [
    "k",
    "k" * 3000,
    "k" * 3000 + "l",
    "gewöhnlich/重み/🙂",
    "with\nline",
    "nul\0nul",
    "\0",
    "\1",
    " ",
    "\x7f",
    "z" * 600_000,
]


def test_odd_names_are_names(tmp_path):
    with BundleWriter(tmp_path / "ours") as writer:
        for number, key in enumerate(KEYS):
            writer.add(key, np.array(number))
    save(tmp_path / "theirs", {key: np.int64(number) for number, key in enumerate(KEYS)})
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    with Bundle(tmp_path / "theirs") as bundle:
        assert [int(bundle.read(key)) for key in KEYS] == list(range(len(KEYS)))
    assert [restore(tmp_path / "ours", key, "int64").numpy() for key in KEYS] == list(range(len(KEYS)))


def test_a_name_that_is_not_unicode_is_a_name_too(tmp_path):
    save(tmp_path / "x", {b"\xff\xfe": np.int64(7)})
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.read(b"\xff\xfe".decode("utf-8", "surrogateescape")) == 7
    assert reencoded(tmp_path / "x") == files(tmp_path / "x")[".index"]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        st.tuples(
            st.sampled_from([*FIXED, "string"]),
            st.lists(st.integers(0, 4), max_size=4).map(tuple),
            st.integers(0, 2**20),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tensors_under_any_names_are_the_same_to_both(tmp_path, drawn):
    values = {key: some(*each) for key, each in drawn.items()}
    with BundleWriter(tmp_path / "ours") as writer:
        for key, value in values.items():
            writer.add(key, value, dtype=drawn[key][0])
    tensors = {key: restore(tmp_path / "ours", key, drawn[key][0]) for key in values}
    assert {key: raw(tensor.numpy()) for key, tensor in tensors.items()} == {key: raw(v) for key, v in values.items()}
    save(tmp_path / "theirs", tensors)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    with Bundle(tmp_path / "theirs") as bundle:
        assert {key: raw(bundle.read(key)) for key in bundle.entries} == {key: raw(v) for key, v in values.items()}


# Slices --------------------------------------------------------------------------------------------------------------

TABLE = some("float32", (20, 10))
ROWS = ["20 10 0,5:-", "20 10 5,8:-", "20 10 13,7:-"]
TILES = ["20 10 0,5:0,4", "20 10 0,5:4,6", "20 10 5,15:0,4", "20 10 5,15:4,6"]


def cut(spec):
    return TABLE[TensorSlice.parse(spec.split()[-1]).bounds_in(TABLE.shape)]


@pytest.mark.parametrize("specs", [ROWS, TILES, [*reversed(TILES)]], ids=["rows", "tiles", "tiles backwards"])
def test_a_tensor_in_slices_is_the_same_to_both_whole_and_in_part(specs, tmp_path):
    with BundleWriter(tmp_path / "ours") as writer:
        writer.add("before", np.arange(3))
        for spec in specs:
            writer.add("table", cut(spec), spec)
    named = [("before", tf.range(3, dtype=tf.int64), ""), *(("table", cut(spec), spec) for spec in specs)]
    names, tensors, all_specs = zip(*named)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "theirs"), tensor_names=names, shape_and_slices=all_specs, tensors=tensors)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert tf.train.list_variables(str(tmp_path / "ours")) == [("before", [3]), ("table", [20, 10])]
    assert raw(tf.train.load_variable(str(tmp_path / "ours"), "table")) == raw(TABLE)
    with Bundle(tmp_path / "theirs") as bundle:
        assert list(bundle.entries) == ["before", "table"]
        assert bundle.entries["table"].shape == (20, 10)
        assert raw(bundle.read("table")) == raw(TABLE)
        for spec in [*ROWS, *TILES, "20 10 3,9:2,5", "20 10 -:9,1", "20 10 0,1:0,1", "20 10 -:-"]:
            assert raw(bundle.read("table", spec)) == raw(cut(spec))
            assert raw(restore(tmp_path / "ours", "table", "float32", spec).numpy()) == raw(cut(spec))


def test_slices_in_several_shards_that_tensorflow_merged_are_read(tmp_path):
    save(tmp_path / "part-3", {"other": TABLE})  # so that the table's own entry is of another shard than the first
    for shard, spec in enumerate(ROWS):
        save(tmp_path / f"part-{shard}", {"table": cut(spec)}, [spec])
    merge(tmp_path, [3, 1, 0, 2])
    with Bundle(tmp_path / "x") as bundle:
        assert [stored.entry.shard for stored in bundle.entries["table"].slices] == [1, 2, 3]
        assert raw(bundle.read("table")) == raw(TABLE)
    assert reencoded(tmp_path / "x") == files(tmp_path / "x")[".index"]


def test_strings_in_slices_are_read_too(tmp_path):
    words = some("string", (4, 3), 3)
    save(tmp_path / "x", {"words": tf.constant(words[:3])}, ["4 3 0,3:-"])
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.read("words", "4 3 1,2:-").tolist() == words[1:3].tolist()


def test_part_of_a_whole_tensor_is_read(tmp_path):
    save(tmp_path / "x", {"table": TABLE})
    with Bundle(tmp_path / "x") as bundle:
        part = bundle.read("table", "20 10 3,9:2,5")
        assert raw(part) == raw(TABLE[3:12, 2:7])
        assert part.base is None


def test_a_part_that_the_tensor_does_not_have_is_refused(tmp_path):
    save(tmp_path / "x", {"table": TABLE})
    with Bundle(tmp_path / "x") as bundle:
        with pytest.raises(
            ValueError, match=r"tensor 'table' has shape \(20, 10\), slice_spec '20 11 -:-' says \(20, 11\)"
        ):
            bundle.read("table", "20 11 -:-")
        with pytest.raises(ValueError, match="a shape and slice reads like"):
            bundle.read("table", "20 10 0,21:-")


def test_a_slice_that_was_not_saved_is_told_and_what_was_saved_is_read(tmp_path):
    save(tmp_path / "x", {"table": cut(ROWS[1])}, [ROWS[1]])
    with Bundle(tmp_path / "x") as bundle:
        assert raw(bundle.read("table", "20 10 6,2:-")) == raw(TABLE[6:8])
        with pytest.raises(
            CheckpointDamagedError,
            match=r"does not hold slice -:- of tensor 'table' once and whole: it has 1 slices of \(20, 10\), 5,8:-\.$",
        ):
            bundle.read("table")
        with pytest.raises(CheckpointDamagedError, match=r"does not hold slice 0,3:- of tensor 'table'"):
            bundle.read("table", "20 10 0,3:-")


@pytest.mark.parametrize(
    "texts",
    [["0,4"], ["0,4", "2,4"], ["0,4", "2,2"], ["0,3", "1,3"], ["0,2", "3,3"]],
    ids=["end missing", "twice and whole", "too little and twice", "as many but twice", "gap"],
)
def test_slices_that_overlap_or_leave_a_gap_are_damage(texts, tmp_path):
    parts = [TensorSlice.parse(text) for text in texts]
    sizes = [part.shape_in((6,))[0] for part in parts]
    entries = [Entry("x", "int8", (size,), size=size, checksum=crc32c(bytes(size))) for size in sizes]
    whole = Entry("x", "int8", (6,), slices=tuple(map(StoredSlice, parts, entries)))
    (tmp_path / "x.index").write_bytes(encode_index([whole], 1))
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(6))
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.read("x", "6 0,1").tolist() == [0]
        for look in (bundle.read, lambda key: bundle.check(bundle.entries[key], print)):
            with pytest.raises(CheckpointDamagedError, match="does not hold slice - of tensor 'x' once and whole"):
                look("x")


# Reading into memory -------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """A checkpoint with tensors of several blocks of a reader, and none, in two shards."""
    values = {f"t{n}": some("bfloat16", (n, 300_001), n) for n in range(6)}
    with BundleWriter(tmp_path / "large", shards=2) as writer:
        for number, (key, value) in enumerate(values.items()):
            writer.add(key, value, shard=number % 2)
    return tmp_path / "large", values


def test_many_threads_read_at_once(large):
    prefix, values = large
    before = len(os.listdir("/proc/self/fd"))
    with Bundle(prefix) as bundle:

        def read(key):
            buffer = np.empty_like(values[key])
            bundle.read_into(bundle.entries[key], buffer)
            return raw(buffer) == raw(values[key])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, list(values) * 8))
        assert len(os.listdir("/proc/self/fd")) == before + 2


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_reads_that_return_less_than_asked_for_go_on(large, block, monkeypatch):
    prefix, values = large
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, [views[0][: max(block, len(views[0]) // 2)]], at))
    with Bundle(prefix) as bundle:
        assert raw(bundle.read("t2")) == raw(values["t2"])


def test_memory_of_any_kind_will_do(large):
    prefix, values = large
    with Bundle(prefix) as bundle:
        entry = bundle.entries["t1"]
        for buffer in (
            bytearray(entry.size),
            np.empty(entry.size // 2, np.int16),
            np.empty((2, entry.size // 2), np.int8),
        ):
            bundle.read_into(entry, buffer)
            assert bytes(memoryview(buffer).cast("B")) == raw(values["t1"])
        bundle.read_into(bundle.entries["t0"], memoryview(bytearray()))
        bundle.read_into(bundle.entries["t0"], np.empty((0, 3)))


@pytest.mark.parametrize(
    ("buffer", "why"),
    [
        (np.empty(300_002, np.int16), "tensor 't1' takes 600002 writable bytes, got 600004 that are writable"),
        (memoryview(bytes(600_002)), "tensor 't1' takes 600002 writable bytes, got 600002 that are not"),
        (np.empty((300_001, 2), np.int16)[:, 0], "does not lie in one piece"),
    ],
    ids=["another size", "read only", "in pieces"],
)
def test_memory_that_does_not_fit_is_refused(buffer, why, large):
    with Bundle(large[0]) as bundle, pytest.raises(ValueError, match=why):
        bundle.read_into(bundle.entries["t1"], buffer)


def test_what_has_no_fixed_size_is_not_read_into_memory(tmp_path):
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("words", np.array([b"a"], object))
        writer.add("table", cut(ROWS[0]), ROWS[0])
    with Bundle(tmp_path / "x") as bundle:
        for key, entry in bundle.entries.items():
            with pytest.raises(
                ValueError, match=rf"tensor '{key}' is stored in slices or elements of any length. Use read"
            ):
                bundle.read_into(entry, bytearray(entry.size))
        part = bundle.entries["table"].slices[0].entry
        buffer = np.empty(part.shape, np.float32)
        bundle.read_into(part, buffer)
        assert raw(buffer) == raw(cut(ROWS[0]))


def test_a_closed_checkpoint_says_so_and_holds_no_files(large):
    before = set(os.listdir("/proc/self/fd"))
    bundle = Bundle(large[0])
    bundle.read("t1")
    bundle.read("t2")
    bundle.close()
    bundle.close()
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match=r"checkpoint .*large is closed"):
        bundle.read("t1")


def test_a_check_reads_every_byte_of_every_kind_and_keeps_none(tmp_path):
    with BundleWriter(tmp_path / "x", shards=2) as writer:
        for at, name in enumerate(FIXED):
            writer.add(name, some(name, (3, 2)), dtype=name, shard=at % 2)
        for key, values in STRINGS.items():
            writer.add(key, values)
        writer.add("variants", np.array([b"v", b""], object), dtype="variant")
        writer.add("blocks", some("uint8", (3 << 20,)))
        for spec in ROWS:
            writer.add("table", cut(spec), spec)
    with Bundle(tmp_path / "x") as bundle:
        for entry in bundle.entries.values():
            told = []
            bundle.check(entry, told.append)
            assert sum(told) == entry.size_bytes
            assert max(told, default=0) <= 1 << 20
            spans_of = spans(entry)
            for start, end in spans_of:
                if start == end:
                    continue
                shard = (entry.slices[0].entry if entry.slices else entry).shard
                path = tmp_path / f"x.data-{shard:05d}-of-00002"
                content = path.read_bytes()
                path.write_bytes(content[: end - 1] + bytes([content[end - 1] ^ 1]) + content[end:])
                with pytest.raises(CheckpointDamagedError, match=f"tensor {entry.key!r} "):
                    bundle.check(entry, told.append)
                path.write_bytes(content)


@pytest.mark.parametrize("name", [*FIXED, "string"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_pieces_of_a_tensor_are_the_tensor(name, shape, tmp_path):
    values = some(name, shape)
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", values, dtype=name)
    with Bundle(tmp_path / "x") as bundle:
        told = []
        pieces = [piece.copy() for piece in bundle.pieces(bundle.entries["x"], 5, told.append)]
        assert sum(told) == bundle.entries["x"].size_bytes
    assert [len(piece) for piece in pieces[:-1]] == [5] * (len(pieces) - 1)
    assert raw(np.concatenate([values.reshape(-1)[:0], *pieces])) == raw(values.reshape(-1))


def test_the_pieces_of_a_tensor_in_slices_are_the_whole_one(tmp_path):
    values = np.arange(12.0).reshape(4, 3)
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", values[2:], "4 3 2,2:-")
        writer.add("x", values[:2], "4 3 0,2:-")
    with Bundle(tmp_path / "x") as bundle:
        assert [list(piece) for piece in bundle.pieces(bundle.entries["x"], 7)] == [
            list(range(7)),
            list(range(7, 12)),
        ]


@pytest.mark.parametrize("spoil", [lambda data: data[:-1] + b"?", lambda data: data[:-8]], ids=["altered", "cut short"])
def test_the_pieces_of_a_damaged_tensor_end_in_an_error(tmp_path, spoil):
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", np.arange(12.0))
    shard = tmp_path / "x.data-00000-of-00001"
    shard.write_bytes(spoil(shard.read_bytes()))
    with Bundle(tmp_path / "x") as bundle, pytest.raises(CheckpointDamagedError, match="tensor 'x'"):
        list(bundle.pieces(bundle.entries["x"], 5))


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A checkpoint with a tensor of each kind."""
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("kernel", some("float32", (2, 3)))
        writer.add("words", np.array([b"one", b"", b"three"], object))
        writer.add("state", np.array([b"\x0a\x01a", b"\x0a\x01b"], object), dtype="variant")
        for spec in ("4 0,3", "4 3,1"):
            writer.add("table", some("int8", TensorSlice.parse(spec[2:]).shape_in((4,))), spec)
    return tmp_path / "x"


def spans(entry):
    return [span for part in entry.slices for span in spans(part.entry)] or [(entry.offset, entry.offset + entry.size)]


def test_every_flipped_byte_of_a_shard_is_seen_by_the_tensor_that_it_belongs_to(small):
    path = small.with_name("x.data-00000-of-00001")
    content = path.read_bytes()
    with Bundle(small) as bundle:
        right = {key: raw(bundle.read(key)) for key in bundle.entries}
        for at in range(len(content)):
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(bytes([content[at] ^ 0x10]))
            for key, entry in bundle.entries.items():
                if any(start <= at < end for start, end in spans(entry)):
                    with pytest.raises(
                        CheckpointDamagedError, match=f"x.data-00000-of-00001 is damaged: tensor '{key}' "
                    ):
                        bundle.read(key)
                else:
                    assert raw(bundle.read(key)) == right[key]
            path.write_bytes(content)


def test_every_missing_end_of_a_shard_is_seen(small):
    path = small.with_name("x.data-00000-of-00001")
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with Bundle(small) as bundle:
            for key, entry in bundle.entries.items():
                if size < max(end for _, end in spans(entry)):
                    with pytest.raises(CheckpointDamagedError, match=f"damaged: tensor '{key}' ends at byte "):
                        bundle.read(key)


def test_a_shard_that_shrinks_while_it_is_open_is_seen(small):
    with Bundle(small) as bundle:
        bundle.read("kernel")
        os.truncate(small.with_name("x.data-00000-of-00001"), 8)
        with pytest.raises(
            CheckpointDamagedError, match=r"x.data-00000-of-00001 is damaged: tensor 'kernel' is cut short\."
        ):
            bundle.read("kernel")


def test_a_wrong_checksum_is_told_with_both_sides(small):
    with open(small.with_name("x.data-00000-of-00001"), "r+b") as file:
        file.write(b"\xff\xfe")
    with (
        Bundle(small) as bundle,
        pytest.raises(
            CheckpointDamagedError, match=r"tensor 'kernel' has checksum 0x[0-9a-f]{8}, not 0x[0-9a-f]{8}\.$"
        ),
    ):
        bundle.read("kernel")


def test_every_flipped_byte_of_an_index_is_seen_or_changes_nothing_that_is_read(small):
    path = small.with_name("x.index")
    content = path.read_bytes()
    with Bundle(small) as bundle:
        right = {key: raw(bundle.read(key)) for key in bundle.entries}
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x21]) + content[at + 1 :])
        try:
            with Bundle(small) as bundle:
                assert {key: raw(bundle.read(key)) for key in bundle.entries} == right
        except CheckpointDamagedError as error:
            assert "x.index is damaged: " in str(error)  # noqa: PT017


def test_every_changed_byte_of_a_row_under_a_right_checksum_is_an_error_or_other_tensors(small):
    path = small.with_name("x.index")
    rows = decode_table(path.read_bytes(), "x")
    for number, (key, row) in enumerate(rows):
        for at in range(len(row)):
            for value in (0, 0x7F, 0x80, 0xFF, row[at] ^ 1, row[at] ^ 8):
                changed = [*rows]
                changed[number] = key, row[:at] + bytes([value]) + row[at + 1 :]
                path.write_bytes(encode_table(changed))
                try:
                    with Bundle(small) as bundle:
                        assert all(bundle.read(name).shape == entry.shape for name, entry in bundle.entries.items())
                except (CheckpointDamagedError, UnsupportedBundleError):
                    continue


@pytest.mark.parametrize("name", ["y", "x.index/x"])
def test_no_index_is_no_checkpoint(name, small):
    with pytest.raises(CheckpointNotFoundError, match=rf"no checkpoint .*{name}: it has no index"):
        Bundle(small.parent / name)


def test_a_missing_shard_and_one_of_another_number_are_damage(small):
    small.with_name("x.data-00000-of-00001").rename(small.with_name("x.data-00000-of-00002"))
    with Bundle(small) as bundle, pytest.raises(CheckpointDamagedError, match=r"x.data-00000-of-00001 is missing"):
        bundle.read("kernel")


@pytest.mark.parametrize("file", ["x.index", "x.data-00000-of-00001"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_damage_and_nobody_waits_for_it(make, file, small):
    os.unlink(small.with_name(file))
    make(small.with_name(file))
    with pytest.raises(CheckpointDamagedError, match=f"{file} is damaged: it is not a file"), Bundle(small) as bundle:
        bundle.read("kernel")


@pytest.mark.parametrize(
    ("file", "told"), [("x.index", "cannot be opened"), ("x.data-00000-of-00001", "cannot be opened")]
)
def test_a_file_that_cannot_be_opened_is_damage(file, told, small):
    os.unlink(small.with_name(file))
    os.symlink(file, small.with_name(file))
    with pytest.raises(CheckpointDamagedError, match=rf"{file} {told}: .*Too many levels"), Bundle(small) as bundle:
        bundle.hold()


def fail_to_read(*arguments):
    raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_fails_to_read_is_damage(small, monkeypatch):
    with Bundle(small) as bundle:
        monkeypatch.setattr(os, "preadv", fail_to_read)
        with pytest.raises(CheckpointDamagedError, match=r"tensor 'kernel' cannot be read: .*Input/output error"):
            bundle.read("kernel")


def test_a_disk_that_fails_to_read_an_index_is_damage(small, monkeypatch):
    monkeypatch.setattr(bundle_module, "_open", fail_to_read)
    with pytest.raises(CheckpointDamagedError, match=r"x\.index cannot be read: .*Input/output error"):
        Bundle(small)


def test_an_index_too_large_to_be_one_is_damage_and_takes_no_memory(small):
    os.truncate(small.with_name("x.index"), 1 << 43)
    with pytest.raises(
        CheckpointDamagedError, match=rf"x\.index is damaged: {1 << 43} bytes are too many for an index"
    ):
        Bundle(small)


def test_what_is_held_is_read_though_it_is_deleted(small):
    with Bundle(small) as bundle:
        kernel = bundle.read("kernel")
    with Bundle(small) as bundle:
        bundle.hold()
        for path in small.parent.iterdir():
            path.unlink()
        assert np.array_equal(bundle.read("kernel"), kernel)


def test_a_tensor_that_is_not_there_is_told_with_one_that_is(small):
    with Bundle(small) as bundle:
        with pytest.raises(CheckpointNotFoundError, match=r"x has no tensor 'kernle'\. Did you mean 'kernel'\?"):
            bundle.read("kernle")
        with pytest.raises(CheckpointNotFoundError, match=r"x has no tensor '重み'\.$"):
            bundle.read("重み")


HUGE = 2**40


@pytest.mark.parametrize(
    "entry",
    [
        Entry("x", "float32", (HUGE,), size=4 * HUGE),
        Entry("x", "float32", (1,), offset=2**62, size=4),
        Entry("x", "float32", (1,), offset=97, size=4),
        Entry("x", "string", (HUGE,), size=HUGE),
        Entry("x", "string", (), size=HUGE),
        Entry("x", "variant", (HUGE,), size=HUGE),
        Entry(
            "x", "int8", (HUGE,), slices=(StoredSlice(TensorSlice.parse("-"), Entry("x", "int8", (HUGE,), size=HUGE)),)
        ),
        Entry(
            "x",
            "string",
            (HUGE,),
            slices=(StoredSlice(TensorSlice.parse("-"), Entry("x", "string", (HUGE,), size=HUGE)),),
        ),
    ],
    ids=lambda entry: f"{entry.dtype} {entry.shape} at {entry.offset}{' in slices' if entry.slices else ''}",
)
def test_no_memory_is_taken_for_bytes_that_are_not_there(entry, tmp_path):
    (tmp_path / "x.index").write_bytes(encode_index([entry], 1))
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(100))
    with Bundle(tmp_path / "x") as bundle, pytest.raises(CheckpointDamagedError, match="tensor 'x' ends at byte"):
        bundle.read("x")


def test_lengths_of_strings_that_are_not_there_take_no_memory(tmp_path):
    content = b"\xff" * 8 + b"\x7f" + bytes(30)
    (tmp_path / "x.index").write_bytes(encode_index([Entry("x", "string", (1,), size=len(content))], 1))
    (tmp_path / "x.data-00000-of-00001").write_bytes(content)
    with Bundle(tmp_path / "x") as bundle, pytest.raises(CheckpointDamagedError, match="tensor 'x' cannot be read: "):
        bundle.read("x")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (Entry("x", "float32", (1,) * 100, size=4), "cannot read tensor 'x' of shape"),
        (Entry("x", "float32", (0, 2**62)), "cannot read tensor 'x' of shape"),
        (Entry("x", "resource", ()), "cannot read values of dtype resource"),
    ],
    ids=["dimensions", "dimension", "resource"],
)
def test_a_tensor_that_numpy_cannot_hold_is_an_error_when_it_is_read(entry, why, tmp_path):
    (tmp_path / "x.index").write_bytes(
        encode_index([entry, Entry("y", "int8", (3,), size=3, checksum=crc32c(b"abc"))], 1)
    )
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"abc1")
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.read("y").tobytes() == b"abc"
        with pytest.raises(UnsupportedBundleError, match=why):
            bundle.read("x")


def test_names_in_an_index_lead_to_no_other_files(tmp_path):
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("../../etc/passwd", np.arange(3))
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.read("../../etc/passwd").tolist() == [0, 1, 2]
    assert os.listdir(tmp_path.parent) == [tmp_path.name] or len(files(tmp_path / "x")) == 2


@given(index=st.binary(max_size=200), data=st.binary(max_size=100), shape=st.lists(st.integers(0, 5), max_size=3))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("dtype", ["string", "variant", "float32"])
def test_garbage_in_a_shard_is_damage(dtype, tmp_path, index, data, shape):
    entries = [Entry("x", dtype, tuple(shape), size=len(data), checksum=crc32c(index))]
    try:
        (tmp_path / "x.index").write_bytes(encode_index(entries, 1))
    except ValueError:
        return
    (tmp_path / "x.data-00000-of-00001").write_bytes(data)
    with Bundle(tmp_path / "x") as bundle:
        try:
            assert bundle.read("x").shape == tuple(shape)
        except CheckpointDamagedError:
            return
        assert data in (b"", b"\xd8\xea\x82\xa2") or dtype == "float32"
