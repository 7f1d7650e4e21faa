"""What is held is right in the file whatever comes after, and is let go as soon as it is copied or written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ckptkit import held as held_module
from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.data_file import DataFile
from ckptkit.held import Held, HeldValue
from ckptkit.replicas import name_of
from ckptkit.snapshot import CheckpointGraph
from ckptkit.staging import PIECE_BYTES, StagingBuffers

pytestmark = pytest.mark.core

ELEMENTS = PIECE_BYTES // 4  # float32 of one piece of memory
SMALL = 1000


def address(variable: tf.Variable) -> int:
    return int(variable.read_value_no_copy().__array__().__array_interface__["data"][0])


def assert_holds(prefix: Path, count: int) -> None:
    """Assert that each variable has its number everywhere."""
    with Bundle(prefix) as bundle:
        for number in range(count):
            assert np.all(bundle.read(f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE") == number)


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


def test_contract_the_elements_of_a_tensor_on_the_host_are_seen_without_a_copy() -> None:
    tensor = tf.Variable([1.0, 2.0]).read_value_no_copy()
    assert (
        tensor.__array__().__array_interface__["data"][0]
        == np.asarray(memoryview(tensor)).__array_interface__["data"][0]
    )


def test_a_small_value_is_updated_in_place_while_it_is_written(
    tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = [tf.Variable(tf.fill([SMALL], float(number))) for number in range(3)]
    graph = CheckpointGraph(tf.train.Checkpoint(variables=variables))
    held, before = graph.take(), [address(variable) for variable in variables]
    copied, finish = threading.Event(), BundleWriter.finish
    monkeypatch.setattr(BundleWriter, "finish", lambda writer: (copied.set(), finish(writer))[1])
    thread = threading.Thread(target=lambda: held.write(str(tmp_path / "x")))
    thread.start()
    assert copied.wait(60)
    for variable in variables:
        variable.assign_add(tf.ones([SMALL]))
    after = [address(variable) for variable in variables]
    disk.set()
    thread.join()
    assert after == before
    assert_holds(tmp_path / "x", 3)


def dense(variable: tf.Variable) -> None:
    variable.assign_add(tf.ones([ELEMENTS]))


def sparse(variable: tf.Variable) -> None:
    variable.scatter_add(tf.IndexedSlices(tf.constant([1.0, 1.0]), tf.constant([0, ELEMENTS - 1])))


@pytest.mark.parametrize("update", [dense, sparse], ids=["dense", "sparse"])
@pytest.mark.parametrize("jit_compile", [None, False, True], ids=["eager", "graph", "xla"])
def test_a_large_value_is_updated_elsewhere_while_it_is_written(
    update: Callable[[tf.Variable], None],
    jit_compile: bool | None,
    tmp_path: Path,
    disk: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables, graph = large(3)

    def step() -> None:
        for variable in variables:
            update(variable)

    train = step if jit_compile is None else tf.function(step, jit_compile=jit_compile)
    train()  # after a sparse update a variable is another one
    for number, variable in enumerate(variables):
        variable.assign(tf.fill([ELEMENTS], float(number)))
    held, buffers = graph.take(), StagingBuffers()
    laid_out, finish = threading.Event(), BundleWriter.finish
    monkeypatch.setattr(BundleWriter, "finish", lambda writer: (laid_out.set(), finish(writer))[1])
    thread = threading.Thread(target=lambda: held.write(str(tmp_path / "x"), buffers))
    thread.start()
    assert laid_out.wait(60)  # only what waits for the disk has the values any more
    for _ in range(3):
        train()
    disk.set()
    thread.join()
    assert buffers.size_bytes <= PIECE_BYTES
    assert_holds(tmp_path / "x", 3)


def test_a_large_value_is_updated_in_place_again_when_it_is_written(tmp_path: Path) -> None:
    variables, graph = large(3)
    graph.take().write(str(tmp_path / "x"))
    before = [address(variable) for variable in variables]
    for variable in variables:
        dense(variable)
    assert [address(variable) for variable in variables] == before


def test_writing_uses_the_values_up(tmp_path: Path) -> None:
    _, graph = large(1)
    held = graph.take()
    held.write(str(tmp_path / "x"))
    assert not held._values


def test_what_a_device_holds_is_copied_to_the_host_without_waiting_for_the_disk(
    tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_module, "_is_on_host", lambda tensor: False)
    _, graph = large(12)
    finish = BundleWriter.finish
    monkeypatch.setattr(BundleWriter, "finish", lambda writer: (disk.set(), finish(writer))[1])  # all of it is copied
    graph.take().write(str(tmp_path / "x"))
    assert_holds(tmp_path / "x", 12)


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
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False  # which goes on between the two saves
    dataset = tf.data.Dataset.range(50).shuffle(10).with_options(options)
    iterator = iter(dataset)
    for _ in range(7):
        next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    CheckpointGraph(checkpoint).take().write(str(tmp_path / "ours"))
    checkpoint.write(str(tmp_path / "theirs"))
    with Bundle(tmp_path / "ours") as ours, Bundle(tmp_path / "theirs") as theirs:
        (key,) = (key for key, entry in theirs.entries.items() if entry.dtype == "variant")
        assert ours.read(key).tolist() == theirs.read(key).tolist()
    rest = [int(each) for each in iterator]
    again = iter(dataset)
    tf.train.Checkpoint(iterator=again).read(str(tmp_path / "ours")).assert_consumed()
    assert [int(each) for each in again] == rest


def test_the_size_that_is_foretold_is_about_that_of_the_files(tmp_path: Path) -> None:
    values = {
        "floats": tf.zeros([300, 100]),
        "brains": tf.zeros([300], tf.bfloat16),
        "flags": tf.constant([True, False]),
        "scalar": tf.constant(7, tf.int64),
        "nothing": tf.zeros([0, 5]),
        "position": tf.constant(b"x" * 50_000),
        "names": tf.constant(["ab", "c" * 300]),
    }
    held = Held(HeldValue(key, "", tensor) for key, tensor in values.items())
    foretold = held.size_bytes()
    held.write(str(tmp_path / "x"))
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written <= foretold <= written + 2000
    with Bundle(tmp_path / "x") as bundle:
        assert bundle.entries.keys() == values.keys()


def test_what_replicas_may_have_in_common_is_not_foretold() -> None:
    common = HeldValue("mean", "", tf.zeros([1000]))
    own = [HeldValue(name_of("mean", number, 4), "", tf.zeros([1000])) for number in range(4)]
    assert Held([common, *own]).size_bytes() == Held([common]).size_bytes() > 4000
