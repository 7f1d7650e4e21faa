"""What is held is let go as soon as it is copied, and as much is copied ahead of the disk as pays."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.data_file import DataFile
from ckptkit.held import Held, HeldValue, Staging
from ckptkit.snapshot import CheckpointGraph
from ckptkit.staging import PIECE_BYTES

ELEMENTS = PIECE_BYTES // 4  # float32 of one piece of memory


def address(variable: tf.Variable) -> int:
    return int(variable.read_value_no_copy().__array__().__array_interface__["data"][0])


def large(count: int) -> tuple[list[tf.Variable], CheckpointGraph]:
    """Variables of a piece each, and the graph of a checkpoint of them."""
    variables = [tf.Variable(tf.fill([ELEMENTS], float(number))) for number in range(count)]
    return variables, CheckpointGraph(tf.train.Checkpoint(variables=variables))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing goes to the disk before the test sets it."""
    opened, write = threading.Event(), DataFile.write
    monkeypatch.setattr(DataFile, "write", lambda file, block: (opened.wait(60), write(file, block))[1])
    return opened


def in_place(variables: list[tf.Variable]) -> None:
    for variable in variables:
        variable.assign_add(tf.ones([ELEMENTS]))


def swapped(variables: list[tf.Variable]) -> None:
    """What a step compiled by XLA does to what is held when it begins: it puts a new buffer in its place."""
    held = [variable.read_value_no_copy() for variable in variables]
    in_place(variables)
    assert held


def test_contract_the_elements_of_a_tensor_on_the_host_are_seen_without_a_copy() -> None:
    tensor = tf.Variable([1.0, 2.0]).read_value_no_copy()
    assert (
        tensor.__array__().__array_interface__["data"][0]
        == np.asarray(memoryview(tensor)).__array_interface__["data"][0]
    )


def test_a_value_that_was_copied_is_updated_in_place_while_it_is_written(
    tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, graph = large(3)
    held, before = graph.take(), [address(variable) for variable in variables]
    copied, finish = threading.Event(), BundleWriter.finish
    monkeypatch.setattr(BundleWriter, "finish", lambda writer: (copied.set(), finish(writer))[1])
    thread = threading.Thread(target=lambda: held.write(str(tmp_path / "x")))
    thread.start()
    assert copied.wait(60)
    in_place(variables)
    after = [address(variable) for variable in variables]
    disk.set()
    thread.join()
    assert after == before
    with Bundle(tmp_path / "x") as bundle:
        for number in range(3):
            key = f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE"
            assert set(bundle.read(key).tolist()) == {float(number)}


def test_writing_uses_the_values_up(tmp_path: Path) -> None:
    _, graph = large(1)
    held = graph.take()
    held.write(str(tmp_path / "x"))
    assert not held._values


@pytest.mark.parametrize(
    ("step", "share"), [(in_place, 1.0), (swapped, 0.2)], ids=["updates in place", "new buffers as with XLA"]
)
def test_as_much_is_copied_ahead_of_the_disk_as_the_steps_of_before_let_pay(step: Any, share: float) -> None:
    variables, graph = large(10)
    staging = Staging()
    state = 10 * PIECE_BYTES
    limits = []
    for _ in range(3):
        values = graph.take()._values
        limits.append(staging.limit_bytes(values) / state)
        del values
        step(variables)
    assert limits == pytest.approx([0.2, share, share], abs=0.001)


def test_steps_that_keep_half_of_the_buffers_get_what_is_left_of_the_memory() -> None:
    variables, graph = large(10)
    staging = Staging()
    staging.limit_bytes(graph.take()._values)
    in_place(variables[:5])
    swapped(variables[5:])
    assert staging.limit_bytes(graph.take()._values) == pytest.approx(0.7 * 10 * PIECE_BYTES, rel=0.01)


def test_memory_beyond_the_limit_is_given_back_before_a_save() -> None:
    variables, graph = large(10)
    staging = Staging()
    staging.limit_bytes(graph.take()._values)
    for piece in [staging.buffers.take(10 * PIECE_BYTES) for _ in range(10)]:
        staging.buffers.give_back(piece)
    swapped(variables)
    staging.limit_bytes(graph.take()._values)
    assert staging.buffers.size_bytes == 2 * PIECE_BYTES
    staging.close()
    assert staging.buffers.size_bytes == 0


def test_a_state_of_small_values_is_copied_whole() -> None:
    graph = CheckpointGraph(tf.train.Checkpoint(values=[tf.Variable(tf.zeros([1000])) for _ in range(5)]))
    values = graph.take()._values
    assert Staging().limit_bytes(values) == sum(value.size_bytes for value in values)


@pytest.mark.parametrize(
    "tensor",
    [
        tf.constant(b"text"),
        tf.constant([b"a", b""]),
        tf.zeros([0, 3], tf.string),
        tf.constant(True),
        tf.cast([1.5], tf.bfloat16),
        tf.bitcast(tf.constant([1, -2], tf.int8), tf.qint8),
        tf.constant(1 + 2j, tf.complex128),
    ],
    ids=lambda tensor: f"{tensor.dtype.name}{tensor.shape}",
)
def test_tensorflow_reads_what_was_held(tensor: tf.Tensor, tmp_path: Path) -> None:
    Held([HeldValue("x", "", tensor)]).write(str(tmp_path / "x"))
    found = tf.raw_ops.RestoreV2(
        prefix=str(tmp_path / "x"), tensor_names=["x"], shape_and_slices=[""], dtypes=[tensor.dtype]
    )[0]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert np.asarray(found.numpy()).tolist() == np.asarray(tensor.numpy()).tolist()


def test_slices_of_one_variable_are_stored_as_tensorflow_stores_them(tmp_path: Path) -> None:
    Held([HeldValue("x", "4 2 0,1:-", tf.zeros([1, 2])), HeldValue("x", "4 2 1,3:-", tf.ones([3, 2]))]).write(
        str(tmp_path / "x")
    )
    assert tf.train.load_checkpoint(str(tmp_path / "x")).get_tensor("x").tolist() == [[0, 0]] + [[1, 1]] * 3


def test_the_position_of_an_iterator_is_stored_as_tensorflow_stores_it(tmp_path: Path) -> None:
    iterator = iter(tf.data.Dataset.range(50).shuffle(10))
    for _ in range(7):
        next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    CheckpointGraph(checkpoint).take().write(str(tmp_path / "ours"))
    checkpoint.write(str(tmp_path / "theirs"))
    with Bundle(tmp_path / "ours") as ours, Bundle(tmp_path / "theirs") as theirs:
        (key,) = (key for key, entry in theirs.entries.items() if entry.dtype == "variant")
        assert ours.read(key).tolist() == theirs.read(key).tolist()
    rest = [int(each) for each in iterator]
    again = iter(tf.data.Dataset.range(50).shuffle(10))
    tf.train.Checkpoint(iterator=again).read(str(tmp_path / "ours")).assert_consumed()
    assert [int(each) for each in again] == rest
