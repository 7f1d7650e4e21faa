"""Tensors come back from a file into memory of TensorFlow's own, checked, from any checkpoint."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import reading
from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry, encode_index
from ckptkit.bundle_protos import BundleEntry, Header
from ckptkit.bundle_writer import BundleWriter
from ckptkit.checksums import crc32c, masked
from ckptkit.errors import CheckpointDamagedError, UnsupportedBundleError
from ckptkit.reading import CheckpointFile
from ckptkit.table import encode_table

pytestmark = pytest.mark.core


def address(tensor: tf.Tensor) -> int:
    return int(tensor.__array__().__array_interface__["data"][0])


def test_contract_memory_of_an_empty_tensor_can_be_filled_and_a_variable_takes_it_over() -> None:
    """Else a restore would copy everything once more, or every first update after it."""
    tensor = tf.raw_ops.Empty(shape=[1000], dtype=tf.float32, init=False)
    memory = tensor.__array__()
    memory[:] = np.arange(1000)
    place = address(tensor)
    variable = tf.Variable(tf.zeros([1000]))
    variable.assign(tensor)
    del tensor, memory
    assert variable.numpy().tolist() == list(range(1000))
    assert address(variable.read_value_no_copy()) == place
    variable.assign_add(tf.ones([1000]))
    assert address(variable.read_value_no_copy()) == place


@pytest.mark.parametrize("name", sorted(reading._PLAIN))
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)], ids=str)
def test_every_plain_dtype_is_read_into_memory_of_tensorflow(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    dtype = tf.as_dtype(name)
    tensor = tf.cast(tf.reshape(tf.range(float(np.prod(shape))) + 1, shape), dtype)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "x"), tensor_names=["x"], shape_and_slices=[""], tensors=[tensor])
    with CheckpointFile(str(tmp_path / "x")) as file:
        found = file.read(["x"])["x"]
        assert (file.types, file.shapes) == ({"x": dtype}, {"x": shape})
    assert (found.dtype, tuple(found.shape)) == (dtype, shape)
    assert np.array_equal(found.numpy(), tensor.numpy())


def test_strings_slices_and_rare_dtypes_are_read(tmp_path: Path) -> None:
    half = np.arange(4, dtype=np.float32).reshape(2, 2)
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("text", np.array([b"a", b"bc"], object))
        writer.add("sliced", half, "4 2 0,2:-")
        writer.add("sliced", half + 4, "4 2 2,2:-")
        writer.add("quantized", np.array([1, -2], np.int8), dtype="qint8")
        writer.add("scalar", np.array(b"\0a", object))
        writer.add("none", np.empty((0, 2), object))
    with CheckpointFile(str(tmp_path / "x")) as file:
        found = file.read(["text", "sliced", "quantized", "scalar", "none"])
    assert (found["scalar"].shape, found["scalar"].numpy()) == ((), b"\0a")
    assert (found["none"].shape, found["none"].dtype) == ((0, 2), tf.string)
    assert found["text"].numpy().tolist() == [b"a", b"bc"]
    assert found["sliced"].numpy().tolist() == np.arange(8.0).reshape(4, 2).tolist()
    assert (found["quantized"].dtype, found["quantized"].numpy().tolist()) == (tf.qint8, [1, -2])


def test_many_small_and_some_large_tensors_of_many_shards_are_read_at_once(tmp_path: Path) -> None:
    sizes = [1, 10, 3_000_000, 1000, 0, 2_000_000] * 60
    sizes = [size if number < 12 else size % 999 for number, size in enumerate(sizes)]
    with BundleWriter(tmp_path / "x", shards=3) as writer:
        for number, size in enumerate(sizes):
            writer.add(str(number), np.full(size, number, np.float32), shard=number % 3)
    with CheckpointFile(str(tmp_path / "x")) as file:
        found = file.read(file.types)
    for number, size in enumerate(sizes):
        assert np.array_equal(found[str(number)].numpy(), np.full(size, number, np.float32))


def test_a_format_that_we_do_not_read_is_left_to_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", np.ones((2, 3), np.float32))

    def unknown(bundle: Bundle, prefix: str) -> None:
        raise UnsupportedBundleError("compressed")

    monkeypatch.setattr(Bundle, "__init__", unknown)
    with CheckpointFile(str(tmp_path / "x")) as file:
        assert (file.types, file.shapes) == ({"x": tf.float32}, {"x": (2, 3)})
        assert file.read(["x"])["x"].numpy().tolist() == [[1, 1, 1], [1, 1, 1]]


def test_who_looks_on_is_told_of_every_byte_in_few_words(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "x") as writer:
        for at in range(300):
            writer.add(f"small{at}", np.ones(at, np.float32))
        writer.add("large", np.ones(3 << 20, np.int16))
        writer.add("text", np.array([b"a" * 1000, b"b"], object))
        writer.add("sliced", np.ones((1, 4), np.float32), "2 4 0,1:-")
        writer.add("sliced", np.ones((1, 4), np.float32), "2 4 1,1:-")
    told: list[int] = []
    with CheckpointFile(str(tmp_path / "x"), told=told.append) as file:
        file.read(file.types)
    with Bundle(tmp_path / "x") as bundle:
        assert sum(told) == sum(entry.size_bytes for entry in bundle.entries.values())
    assert sorted(told)[-6:] == [1 << 20] * 6  # the large one, a block at a time
    assert len(told) <= 6 + 3 + 2 + 1, "the small ones, many at a time"


@pytest.mark.parametrize("key", ["plain", "text"])
def test_a_tensor_that_is_not_what_was_written_is_named(key: str, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("plain", np.ones(1000, np.float32))
        writer.add("text", np.array([b"a" * 1000], object))
    data = bytearray((tmp_path / "x.data-00000-of-00001").read_bytes())
    data[500 if key == "plain" else 4500] ^= 1
    (tmp_path / "x.data-00000-of-00001").write_bytes(data)
    with CheckpointFile(str(tmp_path / "x")) as file, pytest.raises(CheckpointDamagedError, match="x"):
        file.read([key])


def test_a_tensor_that_is_cut_short_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", np.ones(1000, np.float32))
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"short")
    monkeypatch.setattr(tf.raw_ops, "Empty", lambda **_: pytest.fail("memory was taken"))
    with CheckpointFile(str(tmp_path / "x")) as file, pytest.raises(CheckpointDamagedError, match="ends at byte 4000"):
        file.read(["x"])


def test_a_type_that_this_tensorflow_does_not_have_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", np.ones(1, np.float32))
    monkeypatch.setattr(tf, "as_dtype", lambda name: (_ for _ in ()).throw(TypeError(f"Cannot convert {name!r}")))
    with pytest.raises(CheckpointDamagedError, match="cannot be read: Cannot convert 'float32'"):
        CheckpointFile(str(tmp_path / "x"))


@pytest.mark.parametrize("rest", ["text", "variant"])
def test_tensorflow_is_shown_nothing_that_was_not_read_and_checked_before(
    rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BundleWriter(tmp_path / "x") as writer:
        writer.add(rest, np.array([b"a" * 99], object), dtype="variant" if rest == "variant" else "string")
    data = tmp_path / "x.data-00000-of-00001"
    data.write_bytes(data.read_bytes().replace(b"aa", b"ab", 1))
    monkeypatch.setattr(tf.raw_ops, "RestoreV2", lambda **_: pytest.fail("TensorFlow was asked"))
    with (
        CheckpointFile(str(tmp_path / "x")) as file,
        pytest.raises(CheckpointDamagedError, match=r"has checksum|not 0x"),
    ):
        file.read([rest])


def test_a_value_that_lives_in_a_process_alone_is_damage(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(encode_index([Entry("x", "resource", ())], 1))
    (tmp_path / "x.data-00000-of-00001").touch()
    with (
        CheckpointFile(str(tmp_path / "x")) as file,
        pytest.raises(CheckpointDamagedError, match="cannot be read: cannot read values of dtype resource"),
    ):
        file.read(["x"])


def test_a_tensor_of_more_dimensions_than_can_be_is_damage(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(encode_index([Entry("x", "float32", (1,) * 100, size=4)], 1))
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"1234")
    with CheckpointFile(str(tmp_path / "x")) as file, pytest.raises(CheckpointDamagedError, match="cannot be read"):
        file.read(["x"])


def test_files_that_are_deleted_are_read_to_the_end(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "x", shards=2) as writer:
        writer.add("plain", np.ones(3, np.float32))
        writer.add("text", np.array([b"a"], object), shard=1)
    with CheckpointFile(str(tmp_path / "x")) as file:
        for path in tmp_path.iterdir():
            path.unlink()
        found = file.read(["plain", "text"])
    assert (found["plain"].numpy().tolist(), found["text"].numpy().tolist()) == ([1.0] * 3, [b"a"])


def test_what_cannot_be_opened_whole_leaves_no_file_open(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "x", shards=2) as writer:
        writer.add("a", np.ones(3, np.float32))
        writer.add("b", np.ones(3, np.float32), shard=1)
    (tmp_path / "x.data-00001-of-00002").unlink()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CheckpointDamagedError, match=r"x\.data-00001-of-00002 is missing"):
        CheckpointFile(str(tmp_path / "x"))
    assert len(os.listdir("/proc/self/fd")) == len(before)


entries = st.builds(
    lambda dtype, dims, size, offset, crc: BundleEntry(
        dtype=dtype, size=size, offset=offset, crc32c=crc, shape={"dim": [{"size": dim} for dim in dims]}
    ),
    st.integers(0, 40),
    st.lists(st.integers(-1, 9) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.integers(0, 70) | st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 70) | st.integers(-(2**63), 2**63 - 1),
    st.just(masked(crc32c(bytes(64)))) | st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=150)
@given(
    entries | st.integers(0, 33).map(lambda number: BundleEntry(dtype=number, size=64, shape={"dim": [{"size": 8}]}))
)
def test_whatever_an_index_says_it_is_read_or_refused_as_damage(entry: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [(b"", Header(num_shards=1).SerializeToString()), (b"x", entry.SerializeToString())]
        Path(folder, "x.index").write_bytes(encode_table(rows))
        Path(folder, "x.data-00000-of-00001").write_bytes(bytes(64))
        with suppress(CheckpointDamagedError), CheckpointFile(f"{folder}/x") as file:
            assert set(file.read(file.types)) == {"x"}


def test_an_index_that_went_away_is_damage_and_no_reason_for_a_fresh_start(tmp_path: Path) -> None:
    with pytest.raises(CheckpointDamagedError, match="x cannot be read: its index is gone"):
        CheckpointFile(str(tmp_path / "x"))
