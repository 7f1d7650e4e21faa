"""Tensors come back from a file into memory of TensorFlow's own, checked, from any checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ckptkit import reading
from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.errors import CheckpointDamagedError, UnsupportedBundleError
from ckptkit.reading import CheckpointFile


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


def test_strings_slices_and_rare_dtypes_are_read_by_tensorflow(tmp_path: Path) -> None:
    half = np.arange(4, dtype=np.float32).reshape(2, 2)
    with BundleWriter(tmp_path / "x") as writer:
        writer.add("text", np.array([b"a", b"bc"], object))
        writer.add("sliced", half, "4 2 0,2:-")
        writer.add("sliced", half + 4, "4 2 2,2:-")
        writer.add("quantized", np.array([1, -2], np.int8), dtype="qint8")
    with CheckpointFile(str(tmp_path / "x")) as file:
        found = file.read(["text", "sliced", "quantized"])
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


def test_an_index_that_went_away_is_damage_and_no_reason_for_a_fresh_start(tmp_path: Path) -> None:
    with pytest.raises(CheckpointDamagedError, match="x cannot be read: its index is gone"):
        CheckpointFile(str(tmp_path / "x"))
