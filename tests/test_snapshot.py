"""What a save holds is what was there at the moment of save(), whatever happens to the variables before it is written.

The second half asks TensorFlow whether its private parts still are what ``snapshot.py`` takes them for.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2
from tensorflow.python.checkpoint import checkpoint as tf_checkpoint
from tensorflow.python.checkpoint import checkpoint_options, graph_view, save_util, util
from tensorflow.python.checkpoint import restore as tf_restore
from tensorflow.python.distribute import sharded_variable
from tensorflow.python.eager import context, execute
from tensorflow.python.ops import resource_variable_ops
from tensorflow.python.saved_model import registration
from tensorflow.python.trackable import base
from tensorflow.python.training.saving import saveable_object, saveable_object_util

from ckptkit import CheckpointError, CheckpointManager
from ckptkit.snapshot import CheckpointGraph, is_variable, resource_variable
from ckptkit.store import Store
from ckptkit.which_keras import IS_LEGACY, keras, unwrapped

pytestmark = pytest.mark.core

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
Variable = tf.Variable if IS_LEGACY else keras.Variable


class Saved:
    """Save in the background, change everything before a byte is written, then look into the file."""

    def __init__(self, checkpoint: tf.train.Checkpoint, directory: Path, gate: threading.Event) -> None:
        self.manager = CheckpointManager(checkpoint, directory, None, async_save=True, durable=False)
        self.gate = gate

    def after(self, change: Callable[[], Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Return what is in the file if ``change`` comes after save() and before the write."""
        prefix = self.manager.save()
        change()
        self.gate.set()
        self.manager.wait_until_finished()
        self.gate.clear()
        assert prefix is not None
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        return {key: reader.get_tensor(key) for key, dtype in types.items() if dtype != tf.variant}


def same_bits(array: Any, other: Any) -> bool:
    array, other = np.asarray(array), np.asarray(other)
    if array.dtype == object:
        return array.shape == other.shape and array.tolist() == other.tolist()
    return (array.shape, array.dtype, array.tobytes()) == (other.shape, other.dtype, other.tobytes())


# Updates -------------------------------------------------------------------------------------------------------------

_ACCUMULATOR = tf.Variable(tf.ones([3, 2]))
UPDATES: dict[str, Callable[[tf.Variable], Any]] = {
    "assign": lambda v: v.assign(tf.reverse(v, [0])),
    "assign_add": lambda v: v.assign_add(tf.ones_like(v)),
    "assign_sub": lambda v: v.assign_sub(tf.ones_like(v)),
    "scatter_update": lambda v: v.scatter_update(tf.IndexedSlices([[9.0, 9.0]], [1])),
    "scatter_add": lambda v: v.scatter_add(tf.IndexedSlices([[9.0, 9.0]], [1])),
    "scatter_sub": lambda v: v.scatter_sub(tf.IndexedSlices([[9.0, 9.0]], [1])),
    "scatter_mul": lambda v: v.scatter_mul(tf.IndexedSlices([[9.0, 9.0]], [1])),
    "scatter_max": lambda v: v.scatter_max(tf.IndexedSlices([[9.0, 9.0]], [0])),
    "scatter_min": lambda v: v.scatter_min(tf.IndexedSlices(tf.fill([1, 2], tf.reduce_min(v) - 1.0), [0])),
    "scatter_nd_update": lambda v: v.scatter_nd_update([[0, 0]], [9.0]),
    "batch_scatter_update": lambda v: v.batch_scatter_update(tf.IndexedSlices([[9.0], [9.0], [9.0]], [[0], [0], [0]])),
    "strided_slice_assign": lambda v: v[0].assign([9.0, 9.0]),
    "training_op": lambda v: tf.raw_ops.ResourceApplyGradientDescent(
        var=v.handle, alpha=1.0, delta=tf.ones_like(v), use_locking=True
    ),
    "sparse_training_op": lambda v: tf.raw_ops.ResourceSparseApplyAdagrad(
        var=v.handle, accum=_ACCUMULATOR.handle, lr=1.0, grad=[[1.0, 1.0]], indices=[1], use_locking=True
    ),
}


@pytest.fixture(params=UPDATES)
def update(request: pytest.FixtureRequest) -> Callable[[tf.Variable], Any]:
    return UPDATES[request.param]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf_function"])
def test_an_update_right_after_save_is_not_in_the_file(
    update: Callable[[tf.Variable], Any], compiled: bool, tmp_path: Path, gate: threading.Event
) -> None:
    variable = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def step() -> None:
        update(variable)

    step = tf.function(step, autograph=False) if compiled else step
    saved = Saved(tf.train.Checkpoint(v=variable), tmp_path, gate)
    # The second round begins with a variable that sparse updates have already switched to copying when it is read.
    for _ in range(2):
        before = variable.numpy()
        assert same_bits(saved.after(step)["v" + VALUE], before)
        assert not same_bits(variable, before)
        variable.scatter_add(tf.IndexedSlices([[0.5, 0.5]], [2]))
        variable.scatter_nd_sub([[0], [1]], [[0.25, 0.25], [0.125, 0.125]])


def test_an_update_while_the_file_is_read_back_changes_the_variable_alone(
    tmp_path: Path, gate: threading.Event
) -> None:
    variable = tf.Variable(tf.range(100_000, dtype=tf.float32))
    saved = Saved(tf.train.Checkpoint(v=variable), tmp_path, gate)
    content = saved.after(lambda: [variable.assign_add(tf.ones_like(variable)) for _ in range(5)])
    assert same_bits(content["v" + VALUE], np.arange(100_000, dtype=np.float32))
    assert same_bits(variable, np.arange(100_000, dtype=np.float32) + 5)


# Training ------------------------------------------------------------------------------------------------------------


def variables_by_key(checkpoint: tf.train.Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    """Return a copy of every variable's value by its key in the file; the counter is moved by save() itself."""
    live = [d for d in CheckpointGraph(checkpoint).live() if is_variable(d.trackable)]
    return {d.object_name + VALUE: np.array(d.trackable.numpy()) for d in live if d.object_name != "save_counter"}


def assert_holds(content: dict[str, np.ndarray[Any, Any]], before: dict[str, np.ndarray[Any, Any]]) -> None:
    missing = sorted(set(before) - set(content))
    assert missing == []
    changed = [key for key, value in before.items() if not same_bits(content[key], value)]
    assert changed == []


def make_network() -> tuple[keras.Model, tf.train.Checkpoint]:
    model = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=3),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.1), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def make_step(model: keras.Model, **options: Any) -> Callable[[], Any]:
    x, y = tf.ones([8, 3]) * tf.range(8.0)[:, None], tf.range(8.0)[:, None]

    @tf.function(**options)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    return step


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_training_steps_right_after_save_are_not_in_the_file(
    jit_compile: bool, tmp_path: Path, gate: threading.Event
) -> None:
    model, checkpoint = make_network()
    step = make_step(model, jit_compile=jit_compile)
    step()
    saved = Saved(checkpoint, tmp_path, gate)
    before = variables_by_key(checkpoint)
    content = saved.after(lambda: [step() for _ in range(3)])
    assert_holds(content, before)
    after = variables_by_key(checkpoint)
    same = [key for key in before if same_bits(before[key], after[key])]
    assert [key for key in same if "learning_rate" not in key and "metrics" not in key] == []


def test_fit_right_after_save_is_not_in_the_file(tmp_path: Path, gate: threading.Event) -> None:
    model, checkpoint = make_network()
    x, y = np.ones([8, 3], "float32"), np.ones([8, 1], "float32")
    model.fit(x, y, epochs=1, verbose=0)
    saved = Saved(checkpoint, tmp_path, gate)
    before = variables_by_key(checkpoint)
    assert_holds(saved.after(lambda: model.fit(x, y, epochs=2, verbose=0)), before)


OPTIMIZERS = ["SGD", "Adam", "Adagrad", "RMSprop", "Ftrl"]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow
def test_sparse_embedding_updates_right_after_save_are_not_in_the_file(
    name: str, jit_compile: bool, tmp_path: Path, gate: threading.Event
) -> None:
    table = Variable(np.arange(20, dtype="float32").reshape(10, 2), name="table")
    optimizer = getattr(keras.optimizers, name)(0.5)
    optimizer.build([table])
    checkpoint = tf.train.Checkpoint(table=table, optimizer=optimizer)
    inside = unwrapped(table)

    @tf.function(jit_compile=jit_compile)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(inside, [1, 3, 3]) ** 2)
        gradient = tape.gradient(loss, inside)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient, table)])

    saved = Saved(checkpoint, tmp_path, gate)
    for _ in range(2):  # the second time the table has seen sparse updates
        before = variables_by_key(checkpoint)
        assert_holds(saved.after(step), before)
        assert not same_bits(table, before["table" + VALUE])


def test_updates_under_a_mirrored_strategy_right_after_save_are_not_in_the_file(
    tmp_path: Path, gate: threading.Event
) -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0])
        counts = tf.Variable(
            5.0, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
        )
    checkpoint = tf.train.Checkpoint(v=variable, counts=counts)

    @tf.function
    def step() -> None:
        strategy.run(lambda: (variable.assign_add([10.0, 10.0]), counts.assign_add(10.0)))

    content = Saved(checkpoint, tmp_path, gate).after(step)
    assert content["v" + VALUE].tolist() == [1.0, 2.0]
    assert content["counts" + VALUE].tolist() == 5.0
    assert variable.numpy().tolist() == [11.0, 12.0]


def test_a_save_inside_the_scope_of_a_strategy_is_numbered_as_outside(tmp_path: Path) -> None:
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        manager = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path, None)
        assert [manager.save(), manager.save()] == [str(tmp_path / "ckpt-1"), str(tmp_path / "ckpt-2")]


def test_a_keras_model_under_a_mirrored_strategy_is_held(tmp_path: Path, gate: threading.Event) -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        model, checkpoint = make_network()
    x, y = np.ones([8, 3], "float32"), np.ones([8, 1], "float32")
    model.fit(x, y, epochs=1, verbose=0)
    before = [np.array(v) for v in model.get_weights()]
    saved = Saved(checkpoint, tmp_path, gate)
    saved.after(lambda: model.fit(x, y, epochs=2, verbose=0))
    assert not all(same_bits(a, b) for a, b in zip(model.get_weights(), before))
    saved.manager.restore(1)
    assert all(same_bits(a, b) for a, b in zip(model.get_weights(), before))


# Other things than dense variables -----------------------------------------------------------------------------------


class Text(tf.train.experimental.PythonState):
    """State in Python, serialized when it is asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    def serialize(self) -> str:
        return self.text

    def deserialize(self, value: Any) -> None:
        self.text = value if isinstance(value, str) else value.decode()


def test_python_state_changed_right_after_save_is_not_in_the_file(tmp_path: Path, gate: threading.Event) -> None:
    text = Text("old")
    content = Saved(tf.train.Checkpoint(text=text), tmp_path, gate).after(lambda: setattr(text, "text", "new"))
    assert content["text/.ATTRIBUTES/py_state"] == b"old"


def test_python_state_is_restored(tmp_path: Path) -> None:
    text = Text("old")
    manager = CheckpointManager(tf.train.Checkpoint(text=text), tmp_path, None)
    manager.save()
    text.text = "new"
    manager.restore()
    assert text.text == "old"


def make_table() -> Any:
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, default_value=-1)
    table.insert(["a", "b"], [1, 2])
    return table


def test_a_lookup_table_changed_right_after_save_is_not_in_the_file(tmp_path: Path, gate: threading.Event) -> None:
    table = make_table()
    content = Saved(tf.train.Checkpoint(table=table), tmp_path, gate).after(lambda: table.insert(["a", "c"], [9, 9]))
    keys, values = (content[f"table/.ATTRIBUTES/table-{part}"] for part in ("keys", "values"))
    assert dict(zip(keys.tolist(), values.tolist())) == {b"a": 1, b"b": 2}


def test_a_lookup_table_is_restored(tmp_path: Path) -> None:
    table = make_table()
    manager = CheckpointManager(tf.train.Checkpoint(table=table), tmp_path, None)
    manager.save()
    table.insert(["a", "c"], [9, 9])
    manager.restore()
    assert table.lookup(tf.constant(["a", "b", "c"])).numpy().tolist() == [1, 2, -1]


VALUES: dict[str, Any] = {
    "bfloat16": tf.constant([1.5, -0.0, float("nan")], tf.bfloat16),
    "float16": tf.constant([1.5, -0.0, float("inf")], tf.float16),
    "float32": tf.constant([1.5, -0.0, float("nan")], tf.float32),
    "float64": tf.constant([[1.5], [2.5]], tf.float64),
    "bool": tf.constant([True, False, True]),
    "int8": tf.constant([-128, 127], tf.int8),
    "uint8": tf.constant([0, 255], tf.uint8),
    "int16": tf.constant([-32768], tf.int16),
    "int32": tf.constant([[1, 2], [3, 4]], tf.int32),
    "int64": tf.constant(2**62, tf.int64),
    "uint64": tf.constant(2**63, tf.uint64),
    "complex64": tf.constant([1 + 2j, -3j], tf.complex64),
    "complex128": tf.constant(1 + 2j, tf.complex128),
    "string": tf.constant([b"", b"\0\xff", b"text" * 100]),
    "scalar_string": tf.constant("text"),
    "empty": tf.zeros([0, 3]),
    "float8": tf.cast([1.5, -2.0], tf.dtypes.experimental.float8_e4m3fn),
}
OTHERS: dict[str, Callable[[tf.Tensor], Any]] = {
    "bool": tf.logical_not,
    "string": lambda value: tf.strings.join([value, "x"]),
    "scalar_string": lambda value: tf.strings.join([value, "x"]),
    "float8": lambda value: tf.cast([0.5, 0.5], value.dtype),
}


@pytest.fixture(params=VALUES)
def value(request: pytest.FixtureRequest) -> tuple[tf.Tensor, tf.Tensor]:
    """A value and another one of the same shape and dtype."""
    other = OTHERS.get(request.param, tf.zeros_like)
    return VALUES[request.param], other(VALUES[request.param])


def test_a_value_of_this_dtype_is_held(
    value: tuple[tf.Tensor, tf.Tensor], tmp_path: Path, gate: threading.Event
) -> None:
    variable = tf.Variable(value[0])
    content = Saved(tf.train.Checkpoint(v=variable), tmp_path, gate).after(lambda: variable.assign(value[1]))
    assert same_bits(content["v" + VALUE], value[0].numpy())
    assert same_bits(variable, value[1].numpy())


def test_a_value_of_this_dtype_is_restored(value: tuple[tf.Tensor, tf.Tensor], tmp_path: Path) -> None:
    variable = tf.Variable(value[0])
    manager = CheckpointManager(tf.train.Checkpoint(v=variable), tmp_path, None)
    manager.save()
    variable.assign(value[1])
    manager.restore()
    assert same_bits(variable, value[0].numpy())


def test_the_table_in_the_manifest_tells_dtype_shape_and_size(
    value: tuple[tf.Tensor, tf.Tensor], tmp_path: Path
) -> None:
    manager = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(value[0])), tmp_path, None)
    manager.save()
    manifest = Store(str(tmp_path)).manifest(manager.records()[0])
    (info,) = [tensor for tensor in manifest.tensors if tensor.key == "v" + VALUE]
    size = 0 if value[0].dtype == tf.string else value[0].numpy().nbytes
    assert (info.dtype, info.shape, info.size_bytes) == (value[0].dtype.name, tuple(value[0].shape), size)


def test_a_variable_of_changing_shape_is_held_with_the_shape_it_had(tmp_path: Path, gate: threading.Event) -> None:
    variable = tf.Variable([1.0, 2.0], shape=tf.TensorShape([None]))
    content = Saved(tf.train.Checkpoint(v=variable), tmp_path, gate).after(lambda: variable.assign([1.0, 2.0, 3.0]))
    assert content["v" + VALUE].tolist() == [1.0, 2.0]


def test_the_position_of_an_iterator_is_held_and_restored(tmp_path: Path, gate: threading.Event) -> None:
    iterator = iter(tf.data.Dataset.range(10))
    next(iterator)
    saved = Saved(tf.train.Checkpoint(iterator=iterator), tmp_path, gate)
    saved.after(lambda: [next(iterator) for _ in range(5)])
    saved.manager.restore()
    assert int(next(iterator)) == 1


def test_a_sharded_variable_is_held_and_restored_whole(tmp_path: Path, gate: threading.Event) -> None:
    parts = [tf.Variable([[1.0], [2.0]]), tf.Variable([[3.0]])]
    whole = sharded_variable.ShardedVariable(parts, name="s")
    saved = Saved(tf.train.Checkpoint(s=whole), tmp_path, gate)
    content = saved.after(lambda: [part.assign(part * 0.0) for part in parts])
    assert content["s" + VALUE].tolist() == [[1.0], [2.0], [3.0]]
    saved.manager.restore()
    assert tf.convert_to_tensor(whole).numpy().tolist() == [[1.0], [2.0], [3.0]]


def test_a_variable_without_a_value_is_left_out_as_tensorflow_leaves_it_out(tmp_path: Path) -> None:
    checkpoints = {}
    for make, name in ((tf.train.CheckpointManager, "theirs"), (CheckpointManager, "ours")):
        empty = resource_variable_ops.UninitializedVariable(shape=[2], dtype=tf.float32)
        checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0), empty=empty)
        checkpoints[name] = make(checkpoint, str(tmp_path / name), None).save()
    theirs, ours = ({key for key, _ in tf.train.list_variables(path)} for path in checkpoints.values())
    assert "v" + VALUE in ours
    assert ours == theirs


def test_a_checkpoint_with_a_variable_without_a_value_is_restored(tmp_path: Path) -> None:
    # TensorFlow's own restore raises a NotFoundError without a message here.
    empty = resource_variable_ops.UninitializedVariable(shape=[2], dtype=tf.float32)
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0), empty=empty)
    manager = CheckpointManager(checkpoint, tmp_path, None)
    manager.save()
    checkpoint.v.assign(2.0)
    manager.restore()
    assert float(checkpoint.v) == 1.0
    assert not empty.is_initialized()


def test_a_variable_with_a_serializer_of_its_own_is_saved_as_it_says(tmp_path: Path) -> None:
    class Half(resource_variable_ops.ResourceVariable if IS_LEGACY else keras.Variable):
        def _serialize_to_tensors(self) -> dict[str, Any]:
            return {"VARIABLE_VALUE": unwrapped(self) / 2.0}

    half = Half(2.0)
    manager = CheckpointManager(tf.train.Checkpoint(v=half), tmp_path, None)
    assert float(tf.train.load_variable(manager.save(), "v" + VALUE)) == 1.0
    half.assign(6.0)
    assert float(tf.train.load_variable(manager.save(), "v" + VALUE)) == 3.0


def test_a_large_variable_is_not_copied_by_a_save_after_a_sparse_update() -> None:
    variable = tf.Variable(tf.zeros([1 << 18]))  # a megabyte
    graph = CheckpointGraph(tf.train.Checkpoint(v=variable))
    for _ in range(2):
        variable.scatter_update(tf.IndexedSlices([9.0], [1]))
        (held,) = [value.tensor for value in graph.take()._values if value.key == "v" + VALUE]
        assert address(held) == address(variable.read_value_no_copy())


@pytest.mark.parametrize("where", ["thread", "scope", "device"])
def test_what_was_collected_elsewhere_is_held_here(where: str, tmp_path: Path) -> None:
    variables = [tf.Variable(float(number)) for number in range(3)]
    model, _ = make_network()
    graph = CheckpointGraph(tf.train.Checkpoint(variables=variables, model=model, text=Text("a")))
    if where == "thread":
        thread = threading.Thread(target=graph.take)
        thread.start()
        thread.join()
    else:
        with tf.distribute.MirroredStrategy(["/cpu:0"]).scope() if where == "scope" else tf.device("cpu:0"):
            graph.take()
    plan = graph._plan
    variables[1].assign(7.0)
    graph.take().write(str(tmp_path / "c"))
    assert plan is not None
    assert graph._plan is plan
    assert float(tf.train.load_variable(str(tmp_path / "c"), "variables/1" + VALUE)) == 7.0


def test_what_was_collected_here_is_held_in_a_thread_and_in_a_scope() -> None:
    variable = tf.Variable(1.0)
    graph = CheckpointGraph(tf.train.Checkpoint(v=variable))
    graph.take()
    found = []
    thread = threading.Thread(target=lambda: found.append(graph.take()))
    thread.start()
    thread.join()
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        found.append(graph.take())
    values = [float(value.tensor) for held in found for value in held._values if value.key == "v" + VALUE]
    assert values == [1.0, 1.0]


def test_an_unbuilt_layer_is_saved_as_far_as_it_is_there(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    manager = CheckpointManager(tf.train.Checkpoint(model=model, v=tf.Variable(1.0)), tmp_path, None)
    prefix = manager.save()
    assert {key for key, _ in tf.train.list_variables(prefix)} >= {"v" + VALUE}
    model(tf.ones([1, 3]))
    prefix = manager.save()
    assert len([key for key, _ in tf.train.list_variables(prefix) if "kernel" in key]) == 2


def test_extra_values_are_stored_beside_the_objects(tmp_path: Path) -> None:
    manager = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path, None)
    manager.save(state={"bytes": b"\0\xff", "array": np.arange(3), "tensor": tf.constant([True])})
    state = manager.state(manager.records()[0])
    assert {name: value.numpy() if value.shape == () else value.numpy().tolist() for name, value in state.items()} == {
        "bytes": b"\0\xff",
        "array": [0, 1, 2],
        "tensor": [True],
    }


def test_an_object_with_a_saver_of_its_own_is_refused(tmp_path: Path) -> None:
    class OwnSaver(tf.Module):
        pass

    registration.register_checkpoint_saver(
        name="own_saver",
        predicate=lambda obj: isinstance(obj, OwnSaver),
        save_fn=lambda trackables, file_prefix: [],
        restore_fn=lambda trackables, merged_prefix: None,
    )
    manager = CheckpointManager(tf.train.Checkpoint(own=OwnSaver()), tmp_path, None)
    with pytest.raises(CheckpointError, match=r"cannot save objects with a saver of their own \(.*own_saver\)"):
        manager.save()
    assert list(tmp_path.glob("ckpt*")) == []


def test_tensorflows_own_object_graph_is_what_tensorflow_would_write(tmp_path: Path) -> None:
    model, checkpoint = make_network()
    theirs = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "theirs" / "ckpt"))
    ours = CheckpointManager(checkpoint, tmp_path / "ours", None).save()
    texts = [
        trackable_object_graph_pb2.TrackableObjectGraph.FromString(
            tf.train.load_variable(path, base.OBJECT_GRAPH_PROTO_KEY)
        )
        for path in (theirs, ours)
    ]
    assert texts[0] == texts[1]


# What snapshot.py relies on ------------------------------------------------------------------------------------------

LOST = "TensorFlow changed a private part that ckptkit/snapshot.py uses: "


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


class _Root:
    checkpoint = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0]))  # a view refers to it weakly


@pytest.fixture
def view() -> graph_view.ObjectGraphView:
    return graph_view.ObjectGraphView(_Root.checkpoint)


def serialize(checkpoint: tf.train.Checkpoint) -> tuple[dict[str, Any], Any, list[Any]]:
    """Do as snapshot.py does: return the values by key, the graph, and the objects that stand for the values."""
    data, ids = save_util._gather_trackable_data(graph_view.ObjectGraphView(checkpoint), None)
    graph = save_util._fill_object_graph_proto(data)
    table = save_util._get_and_write_tensors_to_serialize(data, ids, None, None, graph)
    return {key: value for by_key in table.values() for key, value in by_key.items()}, graph, list(table)


def test_contract_split_trackables_tells_tensors_python_state_and_savers_apart() -> None:
    text, checkpoint = Text("a"), tf.train.Checkpoint(v=tf.Variable(1.0))
    checkpoint.text = text
    data, _ = save_util._gather_trackable_data(graph_view.ObjectGraphView(checkpoint), None)
    returned = save_util._split_trackables(data)
    assert len(returned) == 3, LOST + "_split_trackables does not return three things"
    tensors, states, registered = returned
    assert [each.trackable for each in tensors] == [checkpoint, checkpoint.v], LOST + "_split_trackables: tensors"
    assert [each.trackable for each in states] == [text], LOST + "_split_trackables: Python state"
    assert dict(registered) == {}, LOST + "_split_trackables returns registered savers where there are none"


def test_contract_split_trackables_puts_an_object_with_a_registered_saver_under_its_name() -> None:
    class HasSaver(tf.Module):
        pass

    registration.register_checkpoint_saver(
        name="contract_saver",
        predicate=lambda obj: isinstance(obj, HasSaver),
        save_fn=lambda trackables, file_prefix: [],
        restore_fn=lambda trackables, merged_prefix: None,
    )
    checkpoint = tf.train.Checkpoint(own=HasSaver())
    data, _ = save_util._gather_trackable_data(graph_view.ObjectGraphView(checkpoint), None)
    _, _, registered = save_util._split_trackables(data)
    ((name, found),) = registered.items()
    assert "contract_saver" in name, LOST + "_split_trackables: names of savers"
    assert [each.trackable for each in found] == [checkpoint.own], LOST + "_split_trackables: objects of a saver"


def test_contract_fill_object_graph_proto_writes_children_and_no_values(view: Any) -> None:
    graph = save_util._fill_object_graph_proto(save_util._gather_trackable_data(view, None)[0])
    assert isinstance(graph, trackable_object_graph_pb2.TrackableObjectGraph), LOST + "_fill_object_graph_proto's graph"
    children = [[(child.local_name, child.node_id) for child in node.children] for node in graph.nodes]
    assert children == [[("v", 1)], []], LOST + "_fill_object_graph_proto: children"
    assert not any(node.attributes for node in graph.nodes), LOST + "_fill_object_graph_proto writes values"


def test_contract_tensors_to_serialize_come_by_object_and_key_and_are_told_to_the_graph() -> None:
    checkpoint = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0]), text=Text("a"))
    values, graph, objects = serialize(checkpoint)
    assert {"v" + VALUE, "text/.ATTRIBUTES/py_state"} == set(values), LOST + "_get_and_write_tensors_to_serialize: keys"
    assert {id(checkpoint.v), id(checkpoint.text)} <= {id(each) for each in objects}, LOST + "objects of values"
    told = {attribute.checkpoint_key for node in graph.nodes for attribute in node.attributes}
    assert told == set(values), LOST + "_get_and_write_tensors_to_serialize does not tell the graph"


def test_contract_tensors_to_serialize_go_into_a_graph_of_as_many_nodes() -> None:
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0), text=Text("a"))
    data, ids = save_util._gather_trackable_data(graph_view.ObjectGraphView(checkpoint), None)
    kind = trackable_object_graph_pb2.TrackableObjectGraph
    graph = kind(nodes=[kind.TrackableObject()] * len(ids))
    (text,) = [each for each in data if each.trackable is checkpoint.text]
    table = save_util._get_and_write_tensors_to_serialize([text], ids, None, None, graph)
    assert len(table) == 1, LOST + "_get_and_write_tensors_to_serialize of some objects"
    filled = [number for number, node in enumerate(graph.nodes) if node.attributes]
    assert filled == [text.node_id], LOST + "_get_and_write_tensors_to_serialize: places in the graph"


def test_contract_slices_come_as_a_dict_and_their_object_is_wrapped() -> None:
    whole = sharded_variable.ShardedVariable([tf.Variable([1.0]), tf.Variable([2.0])])
    values, _, objects = serialize(tf.train.Checkpoint(s=whole))
    assert isinstance(values["s" + VALUE], dict), LOST + "a sharded variable is not serialized as slices by name"
    wrapped = [each for each in objects if isinstance(each, saveable_object_util.SaveableCompatibilityConverter)]
    assert [each.obj for each in wrapped if each.obj is whole] == [whole], LOST + "SaveableCompatibilityConverter.obj"


def test_contract_add_checkpoint_values_check_marks_what_has_values_below() -> None:
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0), empty=tf.Module())
    _, graph, _ = serialize(checkpoint)
    assert not any(node.has_checkpoint_values.value for node in graph.nodes), LOST + "values are marked before"
    util.add_checkpoint_values_check(graph)
    by_name = {child.local_name: graph.nodes[child.node_id] for child in graph.nodes[0].children}
    marked = {name: node.has_checkpoint_values.value for name, node in by_name.items()}
    assert marked == {"v": True, "empty": False}, LOST + "add_checkpoint_values_check"
    assert graph.nodes[0].has_checkpoint_values.value, LOST + "add_checkpoint_values_check: parents"


def test_contract_the_base_class_has_no_values() -> None:
    plain = tf.Module()
    gather = plain._gather_saveables_for_checkpoint
    assert gather.__func__ is base.Trackable._gather_saveables_for_checkpoint, LOST + "_gather_saveables_for_checkpoint"
    assert dict(gather()) == {}, LOST + "_gather_saveables_for_checkpoint of an object without values"
    assert plain._serialize_to_tensors.__func__ is base.Trackable._serialize_to_tensors, LOST + "_serialize_to_tensors"
    assert not saveable_object_util.trackable_has_serialize_to_tensor(plain), LOST + "has_serialize_to_tensor"


def test_contract_an_object_with_a_serializer_is_told_by_its_class_and_by_itself() -> None:
    alone = tf.Module()
    alone._serialize_to_tensors = dict
    tells = saveable_object_util.trackable_has_serialize_to_tensor
    assert all(map(tells, (Text("a"), make_table(), tf.Variable(1.0), alone))), LOST + "has_serialize_to_tensor"


def test_contract_what_a_loaded_object_gathers_is_its_own() -> None:
    module = tf.Module()
    vars(module)["_self_saveable_object_factories"] = {"a": tf.Variable(1.0)}
    assert list(module._gather_saveables_for_checkpoint()) == ["a"], LOST + "_self_saveable_object_factories"


@pytest.mark.parametrize("make", [tf.Variable, Variable], ids=["tf", "keras"])
def test_contract_a_plain_variable_serializes_as_its_base_class_does(make: Callable[[Any], Any]) -> None:
    serialize = resource_variable_ops.BaseResourceVariable._serialize_to_tensors
    expected = serialize if make is tf.Variable else keras.Variable._serialize_to_tensors
    variable = make([1.0])
    assert variable._serialize_to_tensors.__func__ is expected, LOST + "_serialize_to_tensors of variables"
    assert resource_variable(variable)._serialize_to_tensors.__func__ is serialize, LOST + "BaseResourceVariable"
    assert list(variable._serialize_to_tensors()) == [base.VARIABLE_VALUE_KEY], LOST + "a variable has more values"


def read_all(variables: list[tf.Variable]) -> list[tf.Tensor]:
    """Read with the op that snapshot.py uses."""
    dtypes = [variable.dtype.as_datatype_enum for variable in variables]
    attributes = ("N", len(variables), "dtypes", dtypes)
    handles = [variable.handle for variable in variables]
    return list(execute.execute(b"_ReadVariablesOp", len(handles), handles, attributes, context.context()))


def test_contract_one_op_reads_variables_of_all_dtypes() -> None:
    variables = [tf.Variable(value) for value in VALUES.values()]
    tensors = read_all(variables)
    assert [tensor.dtype for tensor in tensors] == [value.dtype for value in VALUES.values()], LOST + "_ReadVariablesOp"
    wrong = [name for (name, value), tensor in zip(VALUES.items(), tensors) if not same_bits(tensor, value)]
    assert wrong == [], LOST + "_ReadVariablesOp: values"
    assert {tensor.device for tensor in tensors} == {variables[0].device}, LOST + "_ReadVariablesOp: device"


def test_contract_one_op_reads_a_single_variable() -> None:
    assert [tensor.numpy().tolist() for tensor in read_all([tf.Variable([1.0])])] == [[1.0]], LOST + "one variable"


def test_contract_one_op_reads_the_buffers_of_all_variables() -> None:
    variables = [tf.Variable(tf.range(1000.0)) for _ in range(3)]
    first, second = (list(map(address, read_all(variables))) for _ in range(2))
    assert first == second, LOST + "_ReadVariablesOp copies"
    assert first == [address(v.read_value_no_copy()) for v in variables], LOST + "_ReadVariablesOp copies"


def test_contract_one_op_copies_after_a_sparse_update_until_it_is_told_not_to() -> None:
    variable = tf.Variable(tf.range(1000.0))
    variable.scatter_update(tf.IndexedSlices([9.0], [1]))
    first, second = read_all([variable, variable])
    assert address(first) != address(second), LOST + "_ReadVariablesOp shares: DisableCopyOnRead is not needed"
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)
    third, fourth = read_all([variable, variable])
    assert address(third) == address(fourth), LOST + "DisableCopyOnRead"
    variable.scatter_update(tf.IndexedSlices([7.0], [1]))
    held = [float(tensor[1]) for tensor in (first, second, third, fourth)]
    assert held == [9.0] * 4, LOST + "a sparse update changes what is held"


def test_contract_an_update_of_what_one_op_holds_goes_to_a_fresh_buffer() -> None:
    variable = tf.Variable(tf.range(1000.0))
    (held,) = read_all([variable])
    variable.assign_add(tf.ones([1000]))
    assert float(held[1]) == 1.0, LOST + "updates are not copy on write any more"


def test_contract_one_op_does_not_tell_that_a_variable_has_no_value() -> None:
    empty = resource_variable_ops.UninitializedVariable(shape=[2], dtype=tf.float32)
    (found,) = read_all([empty])
    assert found.shape == (0,), LOST + "_ReadVariablesOp of a variable without a value, which snapshot.py keeps from it"


def test_contract_gather_trackable_data_describes_live_objects(view: Any) -> None:
    data, ids = save_util._gather_trackable_data(view, None)
    wanted = {"trackable", "object_name", "children_proto", "slot_variable_proto"}
    assert wanted <= set(data[0]._fields), LOST + "fields of _TrackableData"
    assert [(d.object_name, d.trackable is view.root) for d in data] == [("", True), ("v", False)], LOST + "names"
    assert [(c.local_name, c.node_id) for c in data[0].children_proto] == [("v", 1)], LOST + "children_proto"
    assert len(ids) == 2, LOST + "_gather_trackable_data does not return node ids"


def test_contract_a_checkpoint_has_a_saver_with_a_graph_view() -> None:
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    assert type(checkpoint._saver) is tf_checkpoint.TrackableSaver, LOST + "Checkpoint._saver"
    assert parameters(tf_checkpoint.TrackableSaver) == ["graph_view"], LOST + "TrackableSaver()"
    assert isinstance(checkpoint._saver._graph_view, graph_view.ObjectGraphView), LOST + "TrackableSaver._graph_view"
    assert parameters(checkpoint._saver.restore) == ["save_path", "options"], LOST + "TrackableSaver.restore"


@pytest.mark.parametrize("method", ["restore", "read"])
def test_contract_a_checkpoint_restores_through_its_saver(method: str, tmp_path: Path) -> None:
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    path = checkpoint.save(str(tmp_path / "c"))
    calls = []

    class Saver(tf_checkpoint.TrackableSaver):
        def restore(self, save_path: Any, options: Any = None) -> Any:
            calls.append(save_path)
            return super().restore(save_path, options)

    checkpoint._saver = Saver(checkpoint._saver._graph_view)
    getattr(checkpoint, method)(path)
    assert calls == [path], LOST + f"Checkpoint.{method} does not go through _saver.restore"


def test_contract_a_graph_view_tells_root_children_and_attached_dependencies(view: Any) -> None:
    extra = tf.Variable(5.0)
    reference = base.TrackableReference("extra", extra)
    wider = graph_view.ObjectGraphView(view.root, attached_dependencies=[reference])
    assert wider.root is view.root, LOST + "ObjectGraphView.root"
    assert view.attached_dependencies is None, LOST + "ObjectGraphView.attached_dependencies"
    assert [(name, ref) for name, ref in wider.attached_dependencies] == [("extra", extra)], LOST + "attached"
    assert set(wider.children(view.root)) == {"v", "extra"}, LOST + "children() leaves out what is attached"


def test_contract_children_of_any_trackable_can_be_named_by_it() -> None:
    class Own(base.Trackable):
        def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
            return {"a:b": tf.Variable(1.0)}

    assert list(graph_view.ObjectGraphView(Own()).children(Own())) == ["a:b"], LOST + "Trackable._trackable_children"


def test_contract_the_restore_coordinator_takes_these_arguments() -> None:
    assert parameters(tf_checkpoint._CheckpointRestoreCoordinator) == [
        "object_graph_proto",
        "save_path",
        "save_path_tensor",
        "reader",
        "restore_op_cache",
        "graph_view",
        "options",
        "saveables_cache",
    ], LOST + "_CheckpointRestoreCoordinator()"


def test_contract_the_restore_coordinator_restores_and_remembers(view: Any, tmp_path: Path) -> None:
    path = tf.train.Checkpoint(v=tf.Variable([5.0, 6.0])).write(str(tmp_path / "c"))
    reader = tf.train.load_checkpoint(path)
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(base.OBJECT_GRAPH_PROTO_KEY))
    coordinator = tf_checkpoint._CheckpointRestoreCoordinator(
        object_graph_proto=graph,
        save_path=path,
        save_path_tensor=tf.constant(path),
        reader=reader,
        restore_op_cache={},
        graph_view=view,
        options=checkpoint_options.CheckpointOptions(),
        saveables_cache=None,
    )
    coordinator.expect_partial = True
    tf_restore.CheckpointPosition(checkpoint=coordinator, proto_id=0).restore(view.root, reader)
    assert view.root.v.numpy().tolist() == [5.0, 6.0], LOST + "CheckpointPosition.restore does not restore"
    assert {0, 1} <= coordinator.matched_proto_ids, LOST + "matched_proto_ids"
    assert coordinator.object_by_proto_id[1] is view.root.v, LOST + "object_by_proto_id"


def test_contract_a_load_status_tells_what_was_restored(tmp_path: Path) -> None:
    path = tf.train.Checkpoint(v=tf.Variable(1.0), later=tf.Variable(2.0)).write(str(tmp_path / "c"))
    checkpoint = tf.train.Checkpoint(v=tf.Variable(0.0))
    done = checkpoint._saver.restore(path)._checkpoint
    keys = {
        a.checkpoint_key for n in list(done.object_by_proto_id) for a in done.object_graph_proto.nodes[n].attributes
    }
    assert keys == {"v" + VALUE}, LOST + "CheckpointLoadStatus._checkpoint"


def test_contract_the_object_graph_has_these_fields() -> None:
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    node = graph.nodes.add()
    wanted = {
        "node": (node, {"children", "attributes", "slot_variables", "has_checkpoint_values", "registered_saver"}),
        "child": (node.children.add(), {"node_id", "local_name"}),
        "attribute": (node.attributes.add(), {"checkpoint_key"}),
        "slot": (node.slot_variables.add(), {"original_variable_node_id", "slot_name", "slot_variable_node_id"}),
        "flag": (node.has_checkpoint_values, {"value"}),
    }
    lost = {what: names - set(m.DESCRIPTOR.fields_by_name) for what, (m, names) in wanted.items()}
    assert not any(lost.values()), LOST + f"TrackableObjectGraph: {lost}"


def test_contract_the_key_of_the_object_graph() -> None:
    assert base.OBJECT_GRAPH_PROTO_KEY == "_CHECKPOINTABLE_OBJECT_GRAPH", LOST + "OBJECT_GRAPH_PROTO_KEY"


def address(tensor: tf.Tensor) -> int:
    return int(np.frombuffer(memoryview(tensor), dtype=np.uint8).ctypes.data)


def test_contract_read_value_no_copy_shares_the_buffer() -> None:
    variable = tf.Variable(tf.range(1000.0))
    first, second = variable.read_value_no_copy(), variable.read_value_no_copy()
    assert address(first) == address(second), LOST + "read_value_no_copy copies"


def test_contract_read_value_no_copy_shares_the_buffer_after_sparse_updates() -> None:
    variable = tf.Variable(tf.range(1000.0))
    variable.scatter_update(tf.IndexedSlices([9.0], [1]))
    first, second = variable.read_value_no_copy(), variable.read_value_no_copy()
    assert address(first) == address(second), LOST + "read_value_no_copy copies once a sparse update has been"


def test_contract_an_update_of_a_shared_buffer_goes_to_a_fresh_one() -> None:
    variable = tf.Variable(tf.range(1000.0))
    held = variable.read_value_no_copy()
    at = address(held)
    variable.assign_add(tf.ones([1000]))
    assert address(held) == at, LOST + "a held tensor moved"
    assert address(variable.read_value_no_copy()) != at, LOST + "updates are not copy on write any more"


def test_contract_an_update_of_an_unshared_buffer_is_in_place() -> None:
    variable = tf.Variable(tf.range(1000.0))
    at = address(variable.read_value_no_copy())
    variable.assign_add(tf.ones([1000]))
    assert address(variable.read_value_no_copy()) == at, LOST + "a tensor that was let go still costs a copy"


def test_contract_a_save_spec_gives_its_tensor_when_asked() -> None:
    asked = []

    def read() -> tf.Tensor:
        asked.append(1)
        return tf.constant(1.0)

    spec = saveable_object.SaveSpec(read, "", "v", dtype=tf.float32, device="cpu:0")
    assert asked == [], LOST + "SaveSpec reads too early"
    assert float(spec.tensor) == 1.0, LOST + "SaveSpec.tensor"
    assert spec.device == "cpu:0", LOST + "SaveSpec.device"


def test_contract_the_save_spec_of_a_variable_without_value_is_none() -> None:
    empty = resource_variable_ops.UninitializedVariable(shape=[2], dtype=tf.float32)
    spec = serialize(tf.train.Checkpoint(v=empty))[0]["v" + VALUE]
    assert isinstance(spec, saveable_object.SaveSpec), LOST + "variables are not serialized as SaveSpec"
    assert spec.tensor is None, LOST + "SaveSpec.tensor of an uninitialized variable"


def test_contract_a_variable_without_value_is_of_its_own_kind() -> None:
    empty = resource_variable_ops.UninitializedVariable(shape=[2], dtype=tf.float32)
    assert not empty.is_initialized(), LOST + "UninitializedVariable.is_initialized"
    assert not isinstance(tf.Variable(1.0), resource_variable_ops.UninitializedVariable), LOST + "tf.Variable"


def test_contract_a_variable_takes_a_tensor_by_the_value_key() -> None:
    variable = tf.Variable([1.0, 2.0])
    variable._restore_from_tensors({base.VARIABLE_VALUE_KEY: tf.constant([3.0, 4.0])})
    assert variable.numpy().tolist() == [3.0, 4.0], LOST + "_restore_from_tensors"


@pytest.mark.skipif(IS_LEGACY, reason="Keras 2 wraps none but those of a layer in mixed precision")
def test_contract_a_keras_variable_is_a_trackable_around_a_resource_variable() -> None:
    variable = keras.Variable([1.0, 2.0])
    assert isinstance(variable, base.Trackable), LOST + "keras.Variable is no Trackable"
    assert resource_variable_ops.is_resource_variable(variable.value), LOST + "keras.Variable.value"
    assert resource_variable(variable) is variable.value


def test_contract_an_iterator_gives_and_takes_its_position() -> None:
    iterator = iter(tf.data.Dataset.range(3))
    position = iterator._serialize_to_tensors()
    next(iterator)
    assert len(position) == 1, LOST + "an iterator's state is not one tensor"
    iterator._restore_from_tensors(position)
    assert int(next(iterator)) == 0, LOST + "an iterator does not go back"
