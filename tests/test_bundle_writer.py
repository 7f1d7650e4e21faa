"""The plain writer: the same files as TensorFlow's, gaps where they serve, and nonsense refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from tests.bundle_cases import files, raw, restore, save, some

pytestmark = pytest.mark.core

VALUES = {
    "b/kernel": some("float32", (7, 3)),
    "a": some("string", (3, 2)),
    "z": some("bfloat16", ()),
    "é": some("int64", (0,)),
}


def write(prefix, values, **options):
    with BundleWriter(prefix, **options) as writer:
        for key, value in values.items():
            writer.add(key, value)


def test_files_are_those_of_tensorflow_byte_for_byte(tmp_path):
    write(tmp_path / "ours", VALUES)
    save(tmp_path / "theirs", VALUES)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert set(files(tmp_path / "ours")) == {".index", ".data-00000-of-00001"}


def test_nothing_at_all_is_a_checkpoint(tmp_path):
    write(tmp_path / "x", {})
    assert tf.train.list_variables(str(tmp_path / "x")) == []


def test_large_tensors_begin_where_direct_io_wants_them_and_tensorflow_does_not_mind_the_gaps(tmp_path):
    values = {key: some("float32", ((1 << 18) + key,)) for key in range(4)}
    with BundleWriter(tmp_path / "x") as writer:
        for key, value in values.items():
            writer.add(f"t{key}", value)
    with Bundle(tmp_path / "x") as bundle:
        for key, value in values.items():
            assert (bundle.entries[f"t{key}"].offset - value.ctypes.data) % 4096 == 0
    for key, value in values.items():
        assert raw(restore(tmp_path / "x", f"t{key}", "float32").numpy()) == raw(value)


def test_tensors_go_to_the_shard_they_are_meant_for_and_tensorflow_finds_them(tmp_path):
    with BundleWriter(tmp_path / "x", shards=5) as writer:
        for shard in (3, 0, 4, 1):
            writer.add(f"t{shard}", np.full(shard + 1, shard), shard=shard)
    assert [len(content) for content in files(tmp_path / "x").values()][:5] == [8, 16, 0, 32, 40]
    reader = tf.train.load_checkpoint(str(tmp_path / "x"))
    assert {key: reader.get_tensor(key).tolist() for key in reader.get_variable_to_shape_map()} == {
        "t0": [0], "t1": [1, 1], "t3": [3, 3, 3, 3], "t4": [4, 4, 4, 4, 4]
    }  # fmt: skip


def test_no_shard_waits_for_the_memory_of_another(tmp_path):
    with BundleWriter(tmp_path / "x", shards=9) as writer:
        for shard in range(9):
            writer.add(f"t{shard}", np.full(3, shard), shard=shard)
    with Bundle(tmp_path / "x") as bundle:
        assert [bundle.read(f"t{shard}").tolist() for shard in range(9)] == [[shard] * 3 for shard in range(9)]


@pytest.mark.parametrize(
    "values", [np.arange(6, dtype=">i4").reshape(2, 3), np.arange(6, dtype=np.int32).reshape(3, 2).T]
)
def test_an_array_of_another_byte_order_or_in_pieces_is_stored_as_its_values(values, tmp_path):
    write(tmp_path / "x", {"x": values})
    assert restore(tmp_path / "x", "x", "int32").numpy().tolist() == values.tolist()


def test_a_spec_of_the_whole_is_no_slice_as_with_tensorflow(tmp_path):
    with BundleWriter(tmp_path / "ours") as writer:
        writer.add("x", VALUES["b/kernel"], "7 3 0,7:-")
    save(tmp_path / "theirs", {"x": VALUES["b/kernel"]}, ["7 3 0,7:-"])
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


def test_what_fails_half_way_leaves_no_index(tmp_path):
    def fail():
        with BundleWriter(tmp_path / "x") as writer:
            writer.add("x", np.arange(3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert set(files(tmp_path / "x")) == {".data-00000-of-00001"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("x", np.arange(2)), "tensor 'x' was added before"),
        (("part", np.zeros((2, 2)), "4 2 2,2:-"), r"slice 2,2:- of 'part', float64 .* does not fit what was"),
        (("part", np.zeros((2, 2), int), "5 2 2,2:-"), "does not fit what was added before"),
        (("part", np.zeros((4, 2), int)), "tensor 'part' was added before"),
        (("x", np.zeros((2, 2), int), "4 2 2,2:-"), "does not fit what was added before"),
        (("y", np.zeros((2, 2), int), "4 2 2,1:-"), r"slice_spec '4 2 2,1:-' of 'y' says \(1, 2\), got \(2, 2\)"),
        (("y", np.zeros((2, 2), int), "4 2"), "a shape and slice reads like"),
        (("y", np.array(["text"])), "cannot store an array of dtype <U4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(arguments, why, tmp_path):
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("x", np.arange(3))
        writer.add("part", np.ones((2, 2), int), "4 2 0,2:-")
        with pytest.raises(ValueError, match=why):
            writer.add(*arguments)
        writer.add("part", np.zeros((2, 2), int), "4 2 2,2:-")
    with Bundle(tmp_path / "x") as bundle:
        assert {key: bundle.read(key).tolist() for key in bundle.entries} == {
            "x": [0, 1, 2],
            "part": [[1, 1], [1, 1], [0, 0], [0, 0]],
        }


def test_a_type_that_is_not_known_is_refused(tmp_path):
    with (
        BundleWriter(tmp_path / "x") as writer,
        pytest.raises(ValueError, match="no TensorFlow dtype is called 'float23'"),
    ):
        writer.add("x", np.arange(3), dtype="float23")
