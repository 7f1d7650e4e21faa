"""Nothing of a Keras model is lost, wherever its layers and variables sit; and what plain TensorFlow loses of it."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ckptkit import CheckpointManager
from ckptkit.snapshot import CheckpointGraph
from ckptkit.which_keras import IS_LEGACY, SEED_GENERATORS, builder_of, counts_of, keras, unwrapped

pytestmark = pytest.mark.slow

WIDTH = 4
Variable = tf.Variable if IS_LEGACY else keras.Variable
SeedGenerator = SEED_GENERATORS[0]


def normal(shape: Any, seed: Any) -> Any:
    return seed.random_normal(shape) if IS_LEGACY else keras.random.normal(shape, seed=seed)


class Block(keras.layers.Layer):
    """A piece of a network with everything that gets lost: moving statistics, a seed, a variable of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(WIDTH)
        self.norm = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.5, seed=7)

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(name="gain", shape=(), initializer="ones", trainable=False)
        self.dense.build(shape)
        self.norm.build((*shape[:-1], WIDTH))

    def call(self, x: Any, training: bool = False) -> Any:
        return self.gain * self.drop(self.norm(self.dense(x), training=training), training=training)


class Holder(keras.Model):
    """Runs the layers that ``layers_of`` finds in what ``hold`` returns."""

    def __init__(self, hold: Callable[[], Any]) -> None:
        super().__init__()
        self.held = hold()

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in flat(self.held):
            x = layer(x, training=training)
        return x


def flat(held: Any) -> list[Any]:
    if isinstance(held, dict):
        return [layer for key in held for layer in flat(held[key])]
    if isinstance(held, (list, tuple)):
        return [layer for item in held for layer in flat(item)]
    return [held] if isinstance(held, keras.layers.Layer) else []


Pair = collections.namedtuple("Pair", ["first", "second"])


def shared_layers() -> Any:
    block = Block()
    return {"one": [block], "again": block, "other": Block()}


class WithVariables(keras.Model):
    """Variables of all sorts in Python containers."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [Variable(1.0), Variable([1.0] * WIDTH)]
        self.shifts = {"a": tf.Variable([0.0] * WIDTH), "b": {"c": (Variable(0.0, trainable=False),)}}
        self.seeds = [SeedGenerator(1), SeedGenerator(2)]

    def call(self, x: Any, training: bool = False) -> Any:
        x = x * self.scales[0] * self.scales[1] + self.shifts["a"] + self.shifts["b"]["c"][0]
        return x + normal([WIDTH], self.seeds[0]) if training else x


class Deep(keras.Model):
    """A model in a list in a layer in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = {"inner": Holder(lambda: [Holder(lambda: (Block(),)), Block()])}
        self.tail = keras.Sequential([keras.layers.Dense(WIDTH), keras.layers.BatchNormalization()])

    def call(self, x: Any, training: bool = False) -> Any:
        return self.tail(self.parts["inner"](x, training=training), training=training)


class BuildsInBuild(keras.Model):
    """Makes its blocks when it is built."""

    def build(self, shape: Any) -> None:
        self.blocks = [Block() for _ in range(2)]
        for block in self.blocks:
            block.build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        for block in self.blocks:
            x = block(x, training=training)
        return x


def functional() -> keras.Model:
    x = inputs = keras.Input([WIDTH])
    for _ in range(2):
        x = keras.layers.Dropout(0.5, seed=3)(keras.layers.BatchNormalization()(keras.layers.Dense(WIDTH)(x)))
    return keras.Model(inputs, Block()(x))


def functional_in_functional() -> keras.Model:
    inputs = keras.Input([WIDTH])
    return keras.Model(inputs, functional()(functional()(inputs)))


def sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input([WIDTH]), keras.layers.Dense(WIDTH), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    )


def sequential_of_blocks() -> keras.Model:
    return keras.Sequential([keras.Input([WIDTH]), Block(), keras.layers.GaussianNoise(0.1), Block()])


def recurrent() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input([WIDTH]),
            keras.layers.Reshape([2, 2]),
            keras.layers.RNN([keras.layers.GRUCell(3, dropout=0.2), keras.layers.LSTMCell(3)], return_sequences=True),
            keras.layers.Bidirectional(keras.layers.LSTM(2, return_sequences=True, recurrent_dropout=0.1)),
            keras.layers.TimeDistributed(keras.layers.Dense(2)),
            keras.layers.Flatten(),
            keras.layers.Dense(WIDTH),
        ]
    )


def attention() -> keras.Model:
    inputs = keras.Input([WIDTH])
    x = keras.layers.Reshape([2, 2])(inputs)
    x = keras.layers.MultiHeadAttention(2, 2, dropout=0.1)(x, x)
    return keras.Model(inputs, keras.layers.Dense(WIDTH)(keras.layers.Flatten()(x)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "list": lambda: Holder(lambda: [Block(), Block()]),
    "dict": lambda: Holder(lambda: {"a": Block(), "b": Block()}),
    "tuple": lambda: Holder(lambda: (Block(), Block())),
    "namedtuple": lambda: Holder(lambda: Pair(Block(), Block())),
    "nested_lists": lambda: Holder(lambda: [[Block()], [[Block()], Block()]]),
    "list_in_dict": lambda: Holder(lambda: {"a": [Block()], "b": {"c": (Block(),)}}),
    "dict_in_list": lambda: Holder(lambda: [{"a": Block()}, {"a": Block()}]),
    "integer_keys": lambda: Holder(lambda: {1: Block(), 2: Block()}),
    "keys_that_look_alike": lambda: Holder(lambda: {1: Block(), "1": Block()}),
    "keys_with_separators": lambda: Holder(lambda: {"a:0": Block(), "a": [Block()], "a/0": Block(), "": Block()}),
    "a_key_called_metrics": lambda: Holder(lambda: {"metrics": [Block()], "other": Block()}),
    "shared": lambda: Holder(shared_layers),
    "single": lambda: Holder(Block),
    "variables": WithVariables,
    "deep": Deep,
    "made_in_build": BuildsInBuild,
    "functional": functional,
    "functional_in_functional": functional_in_functional,
    "sequential": sequential,
    "sequential_of_blocks": sequential_of_blocks,
    "recurrent": recurrent,
    "attention": attention,
}
# Those that run on Keras 2 as well.
CORE = ("list", "keys_with_separators", "shared", "variables", "deep")
# In these plain TensorFlow loses something, even when the model is compiled and its optimizer built.
LOSSY = ["list", "dict", "tuple", "nested_lists", "list_in_dict", "dict_in_list", "deep", "made_in_build", "variables"]
X = np.linspace(-1, 1, 3 * WIDTH, dtype="float32").reshape(3, WIDTH)


def make(name: str, compiled: bool) -> tuple[keras.Model, tf.train.Checkpoint]:
    """Build a model with names as they come: Keras counts them up within a process."""
    model = MODELS[name]()
    model(X)
    if not compiled:
        return model, tf.train.Checkpoint(model=model)
    model.compile(
        keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"], run_eagerly=IS_LEGACY
    )  # a trace is dear there
    build(model)
    return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def build(model: keras.Model) -> None:
    optimizer, method = builder_of(model.optimizer)
    getattr(optimizer, method)(model.trainable_variables)


def every_variable(model: keras.Model) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    checkpoint = tf.train.Checkpoint(m=model)
    found = [v for v, _ in CheckpointGraph(checkpoint).variables()]
    plain = [v for v in found if isinstance(v, tf.Variable) and v is not checkpoint.save_counter]
    return [*model.variables, *plain, *(optimizer.variables if optimizer is not None else ())]


def scramble(variables: list[Any], seed: int) -> None:
    """Give every variable, seeds and counters too, a value of its own."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        dtype = tf.as_dtype(variable.dtype)
        value = rng.uniform(0.5, 1.5, variable.shape) if dtype.is_floating else rng.integers(1, 1000, variable.shape)
        variable.assign(tf.cast(value, dtype))


def digest(variables: list[Any]) -> list[str]:
    return [hashlib.sha256(np.asarray(tf.convert_to_tensor(v)).tobytes()).hexdigest()[:12] for v in variables]


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.core] if name in CORE else []) for name in MODELS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(
    params=[True] if IS_LEGACY else [True, False], ids=lambda compiled: "compiled" if compiled else "uncompiled"
)
def compiled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def saved(name: str, compiled: bool, directory: Path) -> keras.Model:
    """Save a model with scrambled values and return it."""
    model, checkpoint = make(name, compiled)
    scramble(every_variable(model), 1)
    CheckpointManager(checkpoint, directory, None, durable=False).save()
    return model


def assert_same(restored: keras.Model, original: keras.Model) -> None:
    assert digest(every_variable(restored)) == digest(every_variable(original))
    assert np.array_equal(restored(X), original(X))
    # One step of dropout and moving statistics further they are the same, too.
    assert np.array_equal(restored(X, training=True), original(X, training=True))
    assert digest(every_variable(restored)) == digest(every_variable(original))


def test_a_model_comes_back_whole_through_the_manager(name: str, compiled: bool, tmp_path: Path) -> None:
    original = saved(name, compiled, tmp_path)
    model, checkpoint = make(name, compiled)
    scramble(every_variable(model), 2)
    CheckpointManager(checkpoint, tmp_path, None).restore()
    assert_same(model, original)


def test_a_model_comes_back_whole_through_tensorflows_own_restore(name: str, compiled: bool, tmp_path: Path) -> None:
    original = saved(name, compiled, tmp_path)
    model, checkpoint = make(name, compiled)
    scramble(every_variable(model), 2)
    manager = CheckpointManager(checkpoint, tmp_path, None)
    checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    assert_same(model, original)


def test_every_variable_has_a_name_of_its_own_that_does_not_hang_on_keras_counters(name: str) -> None:
    described = []
    for _ in range(2):
        _, checkpoint = make(name, compiled=True)
        described.append([data.object_name for data in CheckpointGraph(checkpoint).live()])
    assert described[0] == described[1]
    assert len(set(described[0])) == len(described[0])


def test_every_variable_is_in_the_file_once(name: str, compiled: bool, tmp_path: Path) -> None:
    model, checkpoint = make(name, compiled)
    manager = CheckpointManager(checkpoint, tmp_path, None, durable=False)
    manager.save()
    keys = [key for key, _ in tf.train.list_variables(manager.latest_checkpoint) if key.endswith("VARIABLE_VALUE")]
    unique = {id(unwrapped(v)) for v in every_variable(model)} - {id(v) for v in counts_of(model)}
    expected = len(unique) + 1 + len(counts_of(model))  # the save counter; metrics come with compile()
    assert len(keys) == expected


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "uncompiled"])
def test_plain_tensorflow_loses_something_and_says_nothing(name: str, compiled: bool, tmp_path: Path) -> None:
    original, checkpoint = make(name, compiled)
    scramble(every_variable(original), 1)
    path = checkpoint.save(str(tmp_path / "plain"))
    model, checkpoint = make(name, compiled)
    scramble(every_variable(model), 2)
    checkpoint.restore(path).assert_consumed()
    lost = sum(a != b for a, b in zip(digest(every_variable(model)), digest(every_variable(original))))
    assert lost > 0, "TensorFlow or Keras was mended: plain checkpoints hold all of this now; untracked.py can shrink"


def test_plain_tensorflow_loses_moving_statistics_of_blocks_in_a_list(tmp_path: Path) -> None:
    original, checkpoint = make("list", compiled=True)
    scramble(every_variable(original), 1)
    path = checkpoint.save(str(tmp_path / "plain"))
    model, checkpoint = make("list", compiled=True)
    checkpoint.restore(path).assert_consumed()
    same = [np.array_equal(a, b) for a, b in zip(model.trainable_variables, original.trainable_variables)]
    assert all(same)  # found through the optimizer
    lost = [not np.array_equal(a.norm.moving_mean, b.norm.moving_mean) for a, b in zip(model.held, original.held)]
    assert all(lost), "TensorFlow or Keras was mended: it follows lists of layers now; untracked.py can shrink"


@pytest.mark.core
def test_a_model_built_twice_in_one_process_is_the_same_to_a_checkpoint(tmp_path: Path) -> None:
    first, checkpoint = make("deep", compiled=True)
    scramble(every_variable(first), 1)
    CheckpointManager(checkpoint, tmp_path, None).save()
    keras.layers.Dense(1)  # counts Keras' automatic names up further
    second, checkpoint = make("deep", compiled=True)
    assert [v.name for v in first.layers] != [v.name for v in second.layers]
    CheckpointManager(checkpoint, tmp_path, None).restore()
    assert_same(second, first)


@pytest.mark.core
def test_two_models_in_one_checkpoint_stay_apart(tmp_path: Path) -> None:
    def make_both() -> tuple[keras.Model, keras.Model, tf.train.Checkpoint]:
        one, two = (make("list", compiled=False)[0] for _ in range(2))
        return one, two, tf.train.Checkpoint(generator=one, discriminator=two)

    one, two, checkpoint = make_both()
    scramble(every_variable(one), 1)
    scramble(every_variable(two), 2)
    CheckpointManager(checkpoint, tmp_path, None).save()
    other_one, other_two, checkpoint = make_both()
    CheckpointManager(checkpoint, tmp_path, None).restore()
    assert_same(other_one, one)
    assert_same(other_two, two)


@pytest.mark.core
def test_a_model_in_an_object_that_tensorflow_tracks_is_found(tmp_path: Path) -> None:
    def make_module() -> tf.Module:
        module = tf.Module()
        module.nets = {"a": [make("list", compiled=False)[0]]}
        return module

    first, second = make_module(), make_module()
    scramble(every_variable(first.nets["a"][0]), 1)
    CheckpointManager(tf.train.Checkpoint(first), tmp_path, None).save()
    CheckpointManager(tf.train.Checkpoint(second), tmp_path, None).restore()
    assert_same(second.nets["a"][0], first.nets["a"][0])


@pytest.mark.core
def test_metrics_of_a_compiled_model_come_back(tmp_path: Path) -> None:
    original, checkpoint = make("list", compiled=True)
    original.fit(X, X, verbose=0)
    CheckpointManager(checkpoint, tmp_path, None).save()
    model, checkpoint = make("list", compiled=True)
    model.train_on_batch(X, X)  # compile() makes them late
    CheckpointManager(checkpoint, tmp_path, None).restore()
    assert len(counts_of(model)) > 2
    assert digest(counts_of(model)) == digest(counts_of(original))


@pytest.mark.core
def test_metrics_may_be_missing_on_either_side(tmp_path: Path) -> None:
    original, checkpoint = make("list", compiled=True)
    original.fit(X, X, verbose=0)
    CheckpointManager(checkpoint, tmp_path / "with", None).save()
    model, checkpoint = make("list", compiled=True)
    model.compile(model.optimizer, loss="mse")
    manager = CheckpointManager(checkpoint, tmp_path / "with", None)
    manager.restore()
    assert manager.leftovers() == []
    assert digest(model.variables) == digest(original.variables)


@pytest.mark.core
def test_an_adapted_normalization_comes_back(tmp_path: Path) -> None:
    def make_layer() -> tuple[Any, tf.train.Checkpoint]:
        layer = keras.layers.Normalization()
        layer.build([None, WIDTH])
        return layer, tf.train.Checkpoint(layers=[layer])

    original, checkpoint = make_layer()
    original.adapt(X)
    CheckpointManager(checkpoint, tmp_path, None).save()
    layer, checkpoint = make_layer()
    CheckpointManager(checkpoint, tmp_path, None).restore()
    assert digest(layer.variables) == digest(original.variables)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd_with_momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam_with_averages": lambda: keras.optimizers.Adam(0.1, amsgrad=True, use_ema=True),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
    "accumulating": lambda: keras.optimizers.RMSprop(0.1, centered=True, gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.Adafactor(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
    "lion": lambda: keras.optimizers.Lion(0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.1),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_slot_of_an_optimizer_comes_back(optimizer: str, tmp_path: Path) -> None:
    def make_compiled() -> tuple[keras.Model, tf.train.Checkpoint]:
        model, _ = make("list", compiled=False)
        model.compile(OPTIMIZERS[optimizer](), loss="mse")
        build(model)
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    original, checkpoint = make_compiled()
    scramble(every_variable(original), 1)
    CheckpointManager(checkpoint, tmp_path, None).save()
    model, checkpoint = make_compiled()
    CheckpointManager(checkpoint, tmp_path, None).restore()
    assert_same(model, original)


@pytest.mark.core
def test_an_optimizer_that_only_the_model_holds_is_found(tmp_path: Path) -> None:
    original, _ = make("list", compiled=True)
    scramble(every_variable(original), 1)
    CheckpointManager(tf.train.Checkpoint(model=original), tmp_path, None).save()
    model, _ = make("list", compiled=True)
    CheckpointManager(tf.train.Checkpoint(model=model), tmp_path, None).restore()
    assert_same(model, original)
