"""A graph that is reused is the graph that would be collected again, whatever happened to the objects in between."""

from __future__ import annotations

import collections
import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import trackable_object_graph_pb2
from tensorflow.python.distribute import sharded_variable
from tensorflow.python.ops import resource_variable_ops

from ckptkit import graph_watch
from ckptkit.snapshot import GRAPH_KEY, WHOLE_GRAPH_KEY, CheckpointGraph

Case = Callable[[], Iterator[tf.train.Checkpoint]]
CASES: dict[str, Case] = {}
X = np.ones([4, 3], "float32")


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def content(graph: CheckpointGraph) -> dict[Any, Any]:
    """Return all that would be in the file, or why there would be none."""
    try:
        values = list(graph.take()._values)
    except ValueError as error:  # of a list, say, that TensorFlow cannot save any more
        return {"error": str(error)}
    found = {(value.key, value.slice_spec): plain(value.key, value.tensor) for value in values}
    assert len(found) == len(values)
    return found


def plain(key: str, tensor: tf.Tensor) -> Any:
    if key in (GRAPH_KEY, WHOLE_GRAPH_KEY):
        return str(trackable_object_graph_pb2.TrackableObjectGraph.FromString(tensor.numpy()))
    if tensor.dtype in (tf.variant, tf.string):
        return tf.io.serialize_tensor(tensor).numpy()
    return (tensor.dtype.name, tensor.shape, tensor.numpy().tobytes())


def assert_as_new(graph: CheckpointGraph, checkpoint: tf.train.Checkpoint) -> None:
    """The law: reused or not, the graph gives what a new one gives."""
    second, fresh = content(graph), content(CheckpointGraph(checkpoint))
    assert sorted(second) == sorted(fresh)
    assert [key for key in fresh if second[key] != fresh[key]] == []


def dense(units: int = 2) -> keras.layers.Layer:
    layer = keras.layers.Dense(units)
    layer.build([None, 3])
    return layer


class Holder(keras.layers.Layer):
    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.held = held


def opened(layer: Any) -> Any:
    """Return a built layer in a state that Keras allows to no one else: it takes new layers and weights."""
    layer._tracker.unlock()
    return layer


def model_of(*layers: Any) -> keras.Model:
    return keras.Sequential([keras.Input([3]), *layers, keras.layers.Dense(1)])


# Attributes and containers


@case
def an_attribute_is_replaced() -> Iterator[Any]:
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    yield checkpoint
    checkpoint.v = tf.Variable(2.0)
    yield checkpoint
    checkpoint.later = tf.Variable(3.0)
    yield checkpoint
    checkpoint.layer = dense()
    yield checkpoint
    checkpoint.layer.extra = tf.Variable(3.0)
    yield checkpoint
    del checkpoint.v
    yield checkpoint
    checkpoint.layer = None
    yield checkpoint


@case
def a_list_of_layers_changes() -> Iterator[Any]:
    holder = Holder([dense(), dense()])
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held.append(dense())
    yield checkpoint
    holder.held.reverse()
    yield checkpoint
    holder.held.pop(0)
    yield checkpoint
    holder.held[0] = dense()
    yield checkpoint
    holder.held.insert(1, [dense()])
    yield checkpoint
    holder.held[1].append(dense())
    yield checkpoint
    holder.held[1] = (dense(), {"a": [dense()]})
    yield checkpoint
    holder.held[1][1]["a"].append(dense())
    yield checkpoint
    holder.held[1][1]["b"] = holder.held[1][1].pop("a")
    yield checkpoint
    holder.held.clear()
    yield checkpoint


@case
def a_dict_of_layers_changes() -> Iterator[Any]:
    holder = Holder({"a": dense(), "b": dense()})
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held["c"] = holder.held.pop("a")
    yield checkpoint
    holder.held["b"], holder.held["c"] = holder.held["c"], holder.held["b"]
    yield checkpoint
    holder.held[1] = dense()
    yield checkpoint
    holder.held["1"] = holder.held.pop(1)
    yield checkpoint
    holder.held.update({"b": dense()})
    yield checkpoint
    holder.held.popitem()
    yield checkpoint
    holder.other = collections.OrderedDict(x=dense(), y=dense())
    yield checkpoint
    if hasattr(holder.other, "move_to_end"):  # before 3.14 Keras makes a dict of its own of it
        holder.other.move_to_end("x")
        yield checkpoint


@case
def a_list_moves_into_a_dict() -> Iterator[Any]:
    one, two = dense(), dense()
    holder = Holder([[one], two])
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held[0].append(holder.held.pop())
    yield checkpoint
    holder.held = {"a": [one, two]}
    yield checkpoint


@case
def a_set_of_layers_changes() -> Iterator[Any]:
    one = dense()
    holder = Holder({one})
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held.add(dense())
    yield checkpoint
    holder.held.discard(one)
    yield checkpoint


@case
def variables_in_containers_change() -> Iterator[Any]:
    holder = Holder([keras.Variable(1.0), tf.Variable(2.0)])
    holder.more = {"a": tf.Variable(3.0)}
    holder.seeds = [keras.random.SeedGenerator(1)]
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held[0] = keras.Variable(7.0)
    yield checkpoint
    holder.more["a"] = tf.Variable(8.0)
    yield checkpoint
    holder.more["b"] = keras.Variable(9.0)
    yield checkpoint
    holder.seeds.append(keras.random.SeedGenerator(2))
    yield checkpoint
    holder.seed = keras.random.SeedGenerator(3)
    yield checkpoint
    holder.seed.state = keras.Variable(np.zeros(2, "int32"), dtype="int32")
    yield checkpoint


@case
def attributes_of_a_module_change() -> Iterator[Any]:
    module = tf.Module()
    module.items = [tf.Variable(1.0), {"a": tf.Variable(2.0)}]
    module.pair = (tf.Variable(1.0), [tf.Variable(2.0)])
    module.by_name = {"a": [tf.Variable(3.0)]}
    yield (checkpoint := tf.train.Checkpoint(m=module))
    module.items.append(tf.Variable(4.0))
    yield checkpoint
    module.items[1]["b"] = tf.Variable(5.0)
    yield checkpoint
    module.pair[1].append(tf.Variable(6.0))
    yield checkpoint
    module.by_name["a"].append(dense())
    yield checkpoint
    module.by_name["b"] = module.by_name["a"]
    yield checkpoint
    module.inner = tf.Module()
    yield checkpoint
    module.inner.v = tf.Variable(7.0)
    yield checkpoint
    module.inner = tf.Module()
    yield checkpoint


@case
def a_list_of_tensorflow_changes_beyond_what_it_can_save() -> Iterator[Any]:
    module = tf.Module()
    module.items = [tf.Variable(1.0), tf.Variable(2.0)]
    yield (checkpoint := tf.train.Checkpoint(m=module))
    module.items = [module.items[1]]
    yield checkpoint
    module.by_name = {"a": tf.Variable(1.0)}
    yield checkpoint
    module.by_name = {"b": module.by_name["a"]}
    yield checkpoint


@case
def a_keras_list_in_a_module_in_a_list_changes() -> Iterator[Any]:
    module = tf.Module()
    module.nets = [Holder([dense()]), keras.Sequential([dense()])]
    yield (checkpoint := tf.train.Checkpoint(m=module))
    module.nets[0].held.append(dense())
    yield checkpoint
    module.nets[1].add(dense())
    yield checkpoint
    opened(module.nets[0].held[0]).extra = Holder([dense()])
    yield checkpoint
    module.nets[0].held[0].extra.held.append(dense())
    yield checkpoint


@case
def a_layer_gives_its_place_in_memory_to_another() -> Iterator[Any]:
    holder = Holder([dense() for _ in range(3)])
    checkpoint = tf.train.Checkpoint(h=holder)
    yield checkpoint
    for _ in range(4):
        holder.held.clear()
        gc.collect()
        holder.held.extend([dense() for _ in range(3)])
        holder.held[1].kernel.assign_add(np.ones([3, 2]))
        yield checkpoint


@case
def the_checkpoint_has_a_root_and_more() -> Iterator[Any]:
    root = tf.Module()
    root.v = tf.Variable(1.0)
    checkpoint = tf.train.Checkpoint(root, extra=tf.Variable(2.0))
    yield checkpoint
    checkpoint.save_counter.assign_add(1)
    yield checkpoint
    root.w = tf.Variable(2.0)
    yield checkpoint
    root.holder = Holder([dense()])
    yield checkpoint
    root.holder.held.append(dense())
    yield checkpoint


@case
def the_root_is_a_keras_model() -> Iterator[Any]:
    model = keras.Sequential([keras.Input([3]), Holder([dense()]), keras.layers.Dropout(0.5)])
    checkpoint = tf.train.Checkpoint(model, extra=tf.Variable(2.0))
    yield checkpoint
    checkpoint.save_counter.assign_add(1)
    yield checkpoint
    opened(model.layers[0]).held.append(dense())
    yield checkpoint


@case
def an_object_is_tracked_under_a_name_that_is_no_attribute() -> Iterator[Any]:
    holder, module = Holder(), tf.Module()
    yield (checkpoint := tf.train.Checkpoint(h=holder, m=module))
    holder._track_trackable(tf.Variable(1.0), "quiet")
    yield checkpoint
    module._track_trackable(tf.Variable(1.0), "quiet")
    yield checkpoint
    holder._track_trackable(tf.Variable(2.0), "quiet", overwrite=True)
    yield checkpoint


@case
def attributes_are_set_past_setattr() -> Iterator[Any]:
    holder = Holder()
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    vars(holder)["hidden"] = dense()
    yield checkpoint
    holder._layers.append(dense())
    yield checkpoint
    holder._trainable_variables.append(keras.Variable(1.0))
    yield checkpoint


# Keras layers and models


@case
def a_layer_is_built_later() -> Iterator[Any]:
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])
    yield (checkpoint := tf.train.Checkpoint(model=model))
    model(X, training=True)
    yield checkpoint
    model.add(keras.layers.Dense(1))
    yield checkpoint
    model.pop()
    yield checkpoint


@case
def weights_are_added_later() -> Iterator[Any]:
    layer = Holder([dense()])
    layer.build([])
    yield (checkpoint := tf.train.Checkpoint(layer=layer))
    opened(layer).add_weight(shape=[2], name="late")
    yield checkpoint
    layer.held[0].late = opened(layer.held[0]).add_weight(shape=[2])
    yield checkpoint


@case
def models_are_nested() -> Iterator[Any]:
    inner = model_of(Holder([dense()]))
    outer = keras.Sequential([keras.Input([3]), keras.layers.Dense(3)])
    outer.add(keras.layers.Dense(3))
    wrapper = Holder({"a": outer})
    yield (checkpoint := tf.train.Checkpoint(m=wrapper))
    wrapper.held["b"] = inner
    yield checkpoint
    opened(inner.layers[0]).held.append(dense())
    yield checkpoint


@case
def a_functional_model_is_rewired() -> Iterator[Any]:
    inputs = keras.Input([3])
    middle = keras.layers.Dense(3)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GaussianNoise(0.1)(middle)))
    yield (checkpoint := tf.train.Checkpoint(m=model))
    checkpoint.m = keras.Model(inputs, middle)
    yield checkpoint
    opened(model.layers[1]).quirk = [dense()]
    yield checkpoint


@case
def keras_replaces_the_value_of_a_variable() -> Iterator[Any]:
    layer, holder = dense(), Holder([keras.Variable(1.0)])
    yield (checkpoint := tf.train.Checkpoint(layer=layer, h=holder))
    layer.kernel._initialize(np.full([3, 2], 7.0, "float32"))
    yield checkpoint
    holder.held[0]._initialize(tf.Variable(5.0))
    yield checkpoint
    layer.kernel._value = tf.Variable(tf.zeros([3, 2], tf.bfloat16))
    yield checkpoint


@case
def a_layer_takes_lora_and_is_quantized() -> Iterator[Any]:
    model = model_of(keras.layers.Dense(4), keras.layers.Dense(4))
    yield (checkpoint := tf.train.Checkpoint(m=model))
    model.layers[0].enable_lora(2)
    yield checkpoint
    model.layers[1].quantize("int8")
    yield checkpoint


@case
def a_stateful_network_goes_on() -> Iterator[Any]:
    model = keras.Sequential([keras.Input([2, 3], batch_size=4), keras.layers.LSTM(2, stateful=True, dropout=0.5)])
    yield (checkpoint := tf.train.Checkpoint(m=model))
    model(np.ones([4, 2, 3]), training=True)
    yield checkpoint
    model.layers[0].reset_states()
    yield checkpoint


@case
def a_normalization_and_a_lookup_are_adapted() -> Iterator[Any]:
    normalization, lookup = keras.layers.Normalization(), keras.layers.StringLookup()
    text = keras.layers.TextVectorization()
    yield (checkpoint := tf.train.Checkpoint(n=normalization, lookup=lookup, text=text))
    normalization.adapt(X)
    yield checkpoint
    lookup.adapt(["a", "b"])
    yield checkpoint
    text.adapt(["a b", "c"])
    yield checkpoint


@case
def a_cell_of_a_network_is_replaced() -> Iterator[Any]:
    layer = keras.layers.RNN([keras.layers.GRUCell(2, dropout=0.5), keras.layers.LSTMCell(2)])
    layer(np.ones([4, 2, 3]))
    yield (checkpoint := tf.train.Checkpoint(layer=layer))
    opened(layer).cell.cells[0] = keras.layers.LSTMCell(2)
    yield checkpoint
    layer.cell = keras.layers.GRUCell(3)
    yield checkpoint


# Metrics, losses, optimizers


@case
def a_model_is_compiled_and_trained() -> Iterator[Any]:
    model = model_of(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5))
    yield (checkpoint := tf.train.Checkpoint(model=model))
    model.compile("adam", "mse", metrics=["mae", keras.metrics.RootMeanSquaredError()])
    yield checkpoint
    model.train_on_batch(X, X[:, :1])
    yield checkpoint
    model.compile("sgd", "mse", metrics=["mae"])
    yield checkpoint
    model.train_on_batch(X, X[:, :1])
    yield checkpoint
    model.compile(model.optimizer, "mse", metrics=["mse", "mae"], weighted_metrics=["mae"])
    yield checkpoint
    model.evaluate(X, X[:, :1], verbose=0)
    yield checkpoint
    model.optimizer = keras.optimizers.Adam()
    yield checkpoint
    model.optimizer.build(model.trainable_variables)
    yield checkpoint


@case
def a_model_with_two_outputs_is_trained() -> Iterator[Any]:
    inputs = keras.Input([3])
    model = keras.Model(
        inputs, {"a": keras.layers.Dense(1, name="a")(inputs), "b": keras.layers.Dense(1, name="b")(inputs)}
    )
    model.compile("adam", {"a": "mse", "b": "mae"}, metrics={"a": ["mae"], "b": [keras.metrics.MeanSquaredError()]})
    yield (checkpoint := tf.train.Checkpoint(model=model))
    model.train_on_batch(X, {"a": X[:, :1], "b": X[:, :1]})
    yield checkpoint


@case
def metrics_come_and_go() -> Iterator[Any]:
    holder = Holder([keras.metrics.Mean()])
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.mean = keras.metrics.Mean()
    yield checkpoint
    holder.held.append(keras.metrics.MeanIoU(2))
    yield checkpoint
    holder.mean.add_variable([2], "zeros", name="late")
    yield checkpoint
    holder.mean.inner = keras.metrics.Mean()
    yield checkpoint
    holder.mean.inner.add_variable([2], "zeros", name="late")
    yield checkpoint
    holder.mean = keras.metrics.Mean()
    yield checkpoint


@case
def an_optimizer_is_built_later() -> Iterator[Any]:
    layer = dense()
    for optimizer in (
        keras.optimizers.Adam(use_ema=True, amsgrad=True, gradient_accumulation_steps=2),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.optimizers.Adafactor(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
        *([keras.optimizers.Muon()] if keras.__version__ >= "3.13" else []),  # before, it updates nothing by itself
    ):
        checkpoint = tf.train.Checkpoint(layer=layer, o=optimizer)
        yield checkpoint
        optimizer.build(layer.trainable_variables)
        yield checkpoint
        optimizer.apply([tf.ones([3, 2]), tf.ones([2])])
        yield checkpoint
        optimizer.add_variable([2], name="late")
        yield checkpoint


@case
def an_optimizer_of_tensorflow_1_makes_slots() -> Iterator[Any]:
    variables = [tf.Variable([1.0, 2.0]), tf.Variable(3.0)]
    for optimizer in (tf.compat.v1.train.AdamOptimizer(), tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)):
        checkpoint = tf.train.Checkpoint(v=variables, o=optimizer)
        yield checkpoint
        for variable in variables:
            optimizer.apply_gradients([(tf.ones_like(variable), variable)])
            yield checkpoint
        checkpoint.late = tf.Variable(5.0)
        yield checkpoint
        optimizer.apply_gradients([(1.0, checkpoint.late)])
        yield checkpoint


# Other things than dense variables


@case
def tables_and_iterators_and_python_state_change() -> Iterator[Any]:
    class Text(tf.train.experimental.PythonState):
        text = "old"

        def serialize(self) -> str:
            return self.text

        def deserialize(self, value: Any) -> None:
            self.text = value

    text, iterator = Text(), iter(tf.data.Dataset.range(9).shuffle(3, seed=1))
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    dense_table = tf.lookup.experimental.DenseHashTable(tf.int64, tf.int64, 0, -1, -2)
    generator = tf.random.Generator.from_seed(1)
    checkpoint = tf.train.Checkpoint(text=text, iterator=iterator, table=table, dense=dense_table, random=generator)
    yield checkpoint
    text.text = "new"
    table.insert(["a"], [1])
    dense_table.insert(tf.constant([1], tf.int64), tf.constant([1], tf.int64))
    next(iterator)
    generator.normal([2])
    yield checkpoint
    checkpoint.iterator = iter(tf.data.Dataset.range(4))
    yield checkpoint
    generator.reset_from_seed(5)
    yield checkpoint


@case
def a_variable_gets_its_value_later() -> Iterator[Any]:
    empty = resource_variable_ops.UninitializedVariable(shape=[2], dtype=tf.float32)
    yield (checkpoint := tf.train.Checkpoint(v=tf.Variable(1.0), empty=empty))
    empty.assign([1.0, 2.0])
    yield checkpoint


@case
def a_variable_is_made_in_a_function() -> Iterator[Any]:
    class Lazy(tf.Module):
        @tf.function
        def __call__(self) -> Any:
            if not hasattr(self, "v"):
                self.v = tf.Variable(tf.random.normal([2]))
            return self.v.assign_add([1.0, 1.0])

    lazy = Lazy()
    yield (checkpoint := tf.train.Checkpoint(m=lazy))
    lazy()
    yield checkpoint
    lazy()
    yield checkpoint


@case
def a_sharded_variable_is_replaced() -> Iterator[Any]:
    parts = [tf.Variable([1.0]), tf.Variable([2.0])]
    yield (checkpoint := tf.train.Checkpoint(s=sharded_variable.ShardedVariable(parts)))
    parts[1].assign([5.0])
    yield checkpoint
    checkpoint.s = sharded_variable.ShardedVariable([tf.Variable([1.0, 2.0]), tf.Variable([2.0])])
    yield checkpoint


@case
def variables_of_replicas_change() -> Iterator[Any]:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        layer, counts = (
            dense(),
            tf.Variable(
                1.0, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
            ),
        )
        yield (checkpoint := tf.train.Checkpoint(layer=layer, counts=counts))
        layer.kernel.assign_add(np.ones([3, 2]))
        yield checkpoint
    checkpoint.layer = dense()
    yield checkpoint
    with strategy.scope():
        checkpoint.layer.kernel._initialize(np.full([3, 2], 7.0, "float32"))
    yield checkpoint


@case
def a_saved_model_is_loaded() -> Iterator[Any]:
    import tempfile

    module = tf.Module()
    module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    module.v = tf.Variable(1.0)
    module.table.insert(["a"], [1])
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory)
        loaded = tf.saved_model.load(directory)
    yield (checkpoint := tf.train.Checkpoint(m=loaded))
    loaded.v.assign(2.0)
    yield checkpoint


# What users write


class Own(tf.__internal__.tracking.Trackable):
    """Serializes what it holds."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {name: tf.convert_to_tensor(value) for name, value in self.values.items()}


@case
def an_object_of_the_users_has_values() -> Iterator[Any]:
    own = Own(a=1.0)
    yield (checkpoint := tf.train.Checkpoint(own=own))
    own.values["a"] = 2.0
    yield checkpoint
    own.values["b"] = 2.0
    yield checkpoint
    own.values["c"] = own.values.pop("a")
    yield checkpoint
    own.values.clear()
    yield checkpoint
    own.values["a"] = 1.0
    yield checkpoint


@case
def an_object_has_factories_of_its_own() -> Iterator[Any]:
    variable, module = tf.Variable(1.0), tf.Module()
    module._self_saveable_object_factories = {"a": variable}
    other = tf.Module()
    yield (checkpoint := tf.train.Checkpoint(m=module, other=other))
    variable.assign(2.0)
    yield checkpoint
    other._self_saveable_object_factories = {"b": variable}
    yield checkpoint


@case
def an_instance_serializes_itself() -> Iterator[Any]:
    module = tf.Module()
    module._serialize_to_tensors = lambda: {"a": tf.constant(1.0)}
    yield (checkpoint := tf.train.Checkpoint(m=module))
    module._serialize_to_tensors = lambda: {"b": tf.constant(1.0)}
    yield checkpoint


@case
def a_variable_serializes_itself_in_its_own_way() -> Iterator[Any]:
    class Half(keras.Variable):
        def _serialize_to_tensors(self) -> dict[str, Any]:
            return {"VARIABLE_VALUE": self.value / 2.0}

    half = Half(2.0)
    yield (checkpoint := tf.train.Checkpoint(v=half))
    half.assign(6.0)
    yield checkpoint


@case
def a_layer_names_children_of_its_own() -> Iterator[Any]:
    class Strange(keras.layers.Layer):
        def __init__(self, children: dict[str, Any]) -> None:
            super().__init__()
            self._names = (lambda: children,)

        def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
            return {**super()._trackable_children(save_type, **kwargs), **self._names[0]()}

    children = {"a": tf.Variable(1.0)}
    layer = Strange(children)
    yield (checkpoint := tf.train.Checkpoint(layer=layer))
    children["b"] = tf.Variable(2.0)
    yield checkpoint
    children["a"] = dense()
    yield checkpoint
    opened(children["a"]).extra = [dense()]
    yield checkpoint


@case
def a_model_counts_its_variables_in_its_own_way() -> Iterator[Any]:
    class Hider:
        def __init__(self) -> None:
            self.metrics = [keras.metrics.Mean()]
            self.variables = [keras.Variable(1.0)]
            self.layers = [dense()]

    class Strange(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hider = Hider()

        @property
        def metrics(self) -> list[Any]:
            return [*super().metrics, *self.hider.metrics]

        @property
        def variables(self) -> list[Any]:
            return [*super().variables, *self.hider.variables]

    model = Strange()
    hider = model.hider
    yield (checkpoint := tf.train.Checkpoint(m=model))
    hider.variables.append(keras.Variable(2.0))
    yield checkpoint
    hider.metrics.append(keras.metrics.Mean())
    yield checkpoint
    hider.metrics[0].add_variable([2], "zeros", name="late")
    yield checkpoint
    hider.metrics[1].inner = keras.metrics.Mean()
    yield checkpoint
    hider.metrics[1].inner.add_variable([2], "zeros", name="late")
    yield checkpoint
    hider.metrics[0] = keras.metrics.Mean()
    yield checkpoint


@case
def a_model_finds_its_layers_in_its_own_way() -> Iterator[Any]:
    class Strange(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            found = [dense()]
            self.hidden = (lambda: found,)

        def _flatten_layers(self, include_self: bool = True, recursive: bool = True) -> Any:
            yield from super()._flatten_layers(include_self, recursive)
            yield from self.hidden[0]()

        @property
        def metrics_variables(self) -> list[Any]:
            return [variable for layer in self._flatten_layers() for variable in layer._trainable_variables]

    model = Strange()
    yield (checkpoint := tf.train.Checkpoint(m=model))
    model.hidden[0]().append(dense())
    yield checkpoint


@case
def a_class_has_slots_only() -> Iterator[Any]:
    class Slots(keras.layers.Layer):
        __slots__ = ("inner", "parts")

    class Small(tf.Module):
        __slots__ = ("inner",)

    layer, module = Slots(), Small()
    layer.parts = [dense()]
    yield (checkpoint := tf.train.Checkpoint(layer=layer, module=module))
    layer.inner = dense()
    yield checkpoint
    layer.parts.append(dense())
    yield checkpoint
    module.inner = tf.Variable(1.0)
    yield checkpoint
    layer.inner = dense()
    yield checkpoint
    layer.parts = [dense()]
    yield checkpoint


@case
def a_class_attribute_is_called_as_what_keras_computes() -> Iterator[Any]:
    class Plain(keras.layers.Layer):
        metrics = ()
        metrics_variables = ()
        _flatten_layers = None

    layer = Plain()
    yield (checkpoint := tf.train.Checkpoint(layer=layer))
    layer.inner = dense()
    yield checkpoint


@case
def a_place_in_a_list_is_taken_by_what_is_not_saved() -> Iterator[Any]:
    holder = Holder([dense(), [keras.Variable(1.0)], (dense(), [dense()])])
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held.insert(0, None)
    yield checkpoint
    holder.held[2].insert(0, [])
    yield checkpoint
    holder.held[3][1].insert(0, 5)
    yield checkpoint
    holder.held[0] = dense()
    yield checkpoint


@case
def a_tuple_holds_a_list_of_layers() -> Iterator[Any]:
    holder = Holder((dense(), [dense(), dense()]))
    yield (checkpoint := tf.train.Checkpoint(h=holder))
    holder.held[1].reverse()
    yield checkpoint
    holder.held[1].append(tf.Variable(1.0))
    yield checkpoint


@case
def a_property_raises() -> Iterator[Any]:
    class Grumpy(keras.layers.Layer):
        @property
        def weights(self) -> Any:
            raise RuntimeError("no weights")

        @property
        def anything(self) -> Any:
            raise RuntimeError("nothing")

    layer = Grumpy()
    yield (checkpoint := tf.train.Checkpoint(layer=layer))
    layer.inner = dense()
    yield checkpoint


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_a_second_save_is_as_a_first_one_although(name: str) -> None:
    changes = CASES[name]()
    graphs: dict[int, tuple[Any, CheckpointGraph]] = {}
    for checkpoint in changes:
        if id(checkpoint) not in graphs:
            graphs[id(checkpoint)] = checkpoint, CheckpointGraph(checkpoint)
        graph = graphs[id(checkpoint)][1]
        assert_as_new(graph, checkpoint)
        plan = graph._plan
        graph.take()
        assert graph._plan is plan, "a graph that did not change is collected again"


# Any changes at all


class Random:
    """A graph of Keras and TensorFlow objects, changed by numbers."""

    def __init__(self) -> None:
        self.root = tf.Module()
        self.root.a, self.root.b = Holder([dense()]), tf.Module()
        self.checkpoint = tf.train.Checkpoint(root=self.root)

    def change(self, where: int, how: int, what: int) -> None:
        """Change one of the containers that there are."""
        places = self.places()
        place, new = places[where % len(places)], self.new(what)
        if isinstance(place, list):
            self.change_list(place, how, new)
        elif isinstance(place, dict):
            self.change_dict(place, how, new)
        else:
            self.change_object(place, how, new)

    def places(self) -> list[Any]:
        found: list[Any] = []
        queue: list[Any] = [self.root]
        for item in queue:
            if isinstance(item, (list, dict, Holder, tf.Module)) and not isinstance(item, tf.Variable):
                found.append(item)
            queue.extend(self.inside(item))
        return found

    def inside(self, item: Any) -> list[Any]:
        if isinstance(item, (list, tuple)):
            return list(item)
        if isinstance(item, dict):
            return list(item.values())
        return (
            [vars(item)[name] for name in "abc" if name in vars(item)] if isinstance(item, (Holder, tf.Module)) else []
        )

    def new(self, what: int) -> Any:
        leaves = [leaf for place in self.places() for leaf in self.inside(place) if isinstance(leaf, tf.Variable)]
        makers: list[Callable[[], Any]] = [
            dense,
            lambda: tf.Variable(float(what)),
            lambda: leaves[what % len(leaves)] if leaves else tf.Variable(0.0),
            lambda: keras.Variable(float(what)),
            lambda: [dense(), tf.Variable(1.0)],
            lambda: {"a": Holder([dense()]), "b": [tf.Variable(1.0)]},
            lambda: (dense(), [Holder()]),
            Holder,
            tf.Module,
            lambda: keras.layers.Dropout(0.5),
            keras.metrics.Mean,
            lambda: keras.layers.Dense(2),
            lambda: keras.random.SeedGenerator(what),
            lambda: keras.Sequential([dense()]),
            lambda: keras.optimizers.SGD(momentum=0.9),
            lambda: Own(a=what),
            lambda: 5,
            lambda: None,
        ]
        return makers[what % len(makers)]()

    def change_list(self, place: Any, how: int, new: Any) -> None:
        changes: list[Callable[[], Any]] = [
            lambda: place.append(new),
            lambda: place.append(new),
            lambda: place.insert(0, new),
            lambda: place and place.pop(how % len(place)),
            lambda: place and place.__setitem__(how % len(place), new),
            place.reverse,
            lambda: place and place.append(place.pop(0)),
            place.clear,
        ]
        changes[how % len(changes)]()

    def change_dict(self, place: Any, how: int, new: Any) -> None:
        key = "abc"[how % 3]
        changes: list[Callable[[], Any]] = [
            lambda: place.__setitem__(key, new),
            lambda: place.pop(key, None),
            lambda: key in place and place.__setitem__("d", place.pop(key)),
            lambda: place and place.__setitem__(key, place.pop(next(iter(place)))),
        ]
        changes[how % len(changes)]()

    def change_object(self, place: Any, how: int, new: Any) -> None:
        name, other = "abc"[how % 3], "abc"[(how + 1) % 3]
        changes: list[Callable[[], Any]] = [
            lambda: setattr(place, name, new),
            lambda: setattr(place, name, new),
            lambda: hasattr(place, name) and delattr(place, name),
            lambda: hasattr(place, name) and setattr(place, other, getattr(place, name)),
            lambda: [
                leaf.build([None, 3])
                for leaf in self.inside(place)
                if isinstance(leaf, keras.layers.Dense) and not leaf.built
            ],
            lambda: [
                leaf.kernel._initialize(np.ones([3, 2])) for leaf in self.inside(place) if hasattr(leaf, "kernel")
            ],
            lambda: isinstance(place, Holder) and place.add_weight(shape=()),
            lambda: [leaf.add(dense()) for leaf in self.inside(place) if isinstance(leaf, keras.Sequential)],
            lambda: [
                leaf.build([keras.Variable(1.0)])
                for leaf in self.inside(place)
                if isinstance(leaf, keras.optimizers.Optimizer) and not leaf.built
            ],
            lambda: [leaf.values.update({name: how}) for leaf in self.inside(place) if isinstance(leaf, Own)],
        ]
        changes[how % len(changes)]()


NUMBERS = st.integers(0, 10**6)
CHANGES = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(CHANGES)
@pytest.mark.slow
def test_a_second_save_is_as_a_first_one_after_any_changes(between_saves: list[list[tuple[int, int, int]]]) -> None:
    objects = Random()
    graph = CheckpointGraph(objects.checkpoint)
    for changes in between_saves:
        for change in changes:
            with contextlib.suppress(ValueError, TypeError, AttributeError):  # Keras or TensorFlow does not take it
                objects.change(*change)
        assert_as_new(graph, objects.checkpoint)


# Nothing has changed


def test_no_class_of_keras_computes_what_it_computes_in_a_way_of_its_own() -> None:
    modules = (keras.layers, keras.optimizers, keras.metrics, keras.losses, keras)
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    kinds = {kind for kind in kinds if issubclass(kind, graph_watch._OWNERS)}
    assert len(kinds) > 100
    assert [kind for kind in kinds if graph_watch._computes(kind)] == []


@pytest.fixture
def collections_of(monkeypatch: pytest.MonkeyPatch) -> list[CheckpointGraph]:
    """Return a list to which each collection of a graph adds it."""
    found: list[CheckpointGraph] = []
    collect = CheckpointGraph._collect
    monkeypatch.setattr(CheckpointGraph, "_collect", lambda graph: (found.append(graph), collect(graph))[1])
    return found


class SavesAllTheTime(keras.callbacks.Callback):
    def __init__(self, graph: CheckpointGraph, collected: list[CheckpointGraph]) -> None:
        super().__init__()
        self.graph, self.collected, self.counts = graph, collected, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.graph.take()
        self.counts.append(len(self.collected))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.on_train_batch_end(batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.on_train_batch_end(epoch)


class Noting(keras.Model):
    """A model that keeps a history, and counts a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [[keras.layers.Dense(3), keras.layers.BatchNormalization()], {"drop": keras.layers.Dropout(0.5)}]
        self.last = keras.layers.Dense(1)
        self.mean = keras.metrics.Mean()
        self.history_of_steps: list[Any] = []
        self.notes: dict[str, Any] = {}

    @property
    def metrics(self) -> list[Any]:
        return [*super().metrics, self.mean]

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in (*self.blocks[0], self.blocks[1]["drop"]):
            x = layer(x, training=training)
        self.add_loss(0.1 * keras.ops.mean(x))
        return self.last(x)

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        self.mean.update_state(1.0)
        return logs

    def note(self) -> None:
        self.history_of_steps.append((len(self.history_of_steps), [0.5]))
        self.notes[f"step {len(self.notes)}"] = {"loss": [0.5], "names": ()}
        self.step = len(self.notes)


FITS: dict[str, Callable[[], tuple[keras.Model, dict[str, Any]]]] = {
    "sequential": lambda: (model_of(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)), {}),
    "subclassed": lambda: (Noting(), {}),
    "eager": lambda: (Noting(), {"run_eagerly": True}),
    "xla": lambda: (model_of(keras.layers.BatchNormalization()), {"jit_compile": True}),
    "steps_at_once": lambda: (model_of(keras.layers.Dropout(0.5)), {"steps_per_execution": 2}),
    "stateful": lambda: (
        keras.Sequential(
            [
                keras.Input([3], batch_size=2),
                keras.layers.Reshape([3, 1]),
                keras.layers.LSTM(2, stateful=True, dropout=0.5),
                keras.layers.Dense(1),
            ]
        ),
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_fit_changes_nothing_after_its_first_epoch(name: str, collections_of: list[CheckpointGraph]) -> None:
    model, options = FITS[name]()
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), use_ema=True)
    model.compile(optimizer, "mse", metrics=["mae", keras.metrics.RootMeanSquaredError()], **options)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    saves = SavesAllTheTime(CheckpointGraph(checkpoint), collections_of)
    noted = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: getattr(model, "note", int)())
    others = [keras.callbacks.EarlyStopping("loss", patience=9), keras.callbacks.TerminateOnNaN(), noted]
    fit = {"batch_size": 2, "verbose": 0, "validation_data": (X, X[:, :1]), "callbacks": [saves, *others]}
    model.fit(X, X[:, :1], epochs=1, **fit)
    model.predict(X, batch_size=2, verbose=0)  # makes a function, which is an object that TensorFlow saves
    saves.graph.take()
    first = len(collections_of)
    model.fit(X, X[:, :1], epochs=3, **fit)
    model.evaluate(X, X[:, :1], batch_size=2, verbose=0, callbacks=[saves])
    assert len(collections_of) == first
    assert saves.counts[0] == 1


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf_function"])
@pytest.mark.parametrize("kind", ["keras", "tensorflow_1"])
def test_a_loop_with_a_tape_changes_nothing_after_its_first_step(
    kind: str, compiled: bool, collections_of: list[CheckpointGraph]
) -> None:
    model = model_of(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5))
    optimizer = keras.optimizers.Adam(0.1) if kind == "keras" else tf.compat.v1.train.AdamOptimizer(0.1)
    mean, step = keras.metrics.Mean(), tf.Variable(0, dtype=tf.int64)
    iterator = iter(tf.data.Dataset.from_tensors((X, X[:, :1])).repeat())
    module = tf.Module()
    module.metrics, module.names = [mean.variables], {"a": 1}
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, step=step, iterator=iterator, module=module)
    graph = CheckpointGraph(checkpoint)

    def train() -> None:
        x, y = next(iterator)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = [variable.value for variable in model.trainable_variables]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        mean.update_state(loss)
        step.assign_add(1)

    run = tf.function(train) if compiled else train
    for _ in range(4):
        run()
        graph.take()
    assert len(collections_of) == 1


def test_a_graph_that_cannot_be_collected_is_tried_again(collections_of: list[CheckpointGraph]) -> None:
    module = tf.Module()
    module.items = [tf.Variable(1.0), tf.Variable(2.0)]
    checkpoint = tf.train.Checkpoint(m=module)
    graph = CheckpointGraph(checkpoint)
    graph.take()
    items, module.items = module.items, module.items[:1]
    module.broken = items
    module.broken.pop()
    with pytest.raises(ValueError, match="Unable to save the object ListWrapper"):
        graph.take()
    module.broken = [items[0]]
    assert_as_new(graph, checkpoint)
