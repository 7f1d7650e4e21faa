"""What Keras 2 keeps in its objects: saved and restored whole, built or not, by whichever optimizer it is trained."""

import contextlib
import inspect

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.snapshot import CheckpointGraph, resource_variable
from ckptkit.which_keras import IS_LEGACY, is_built, keras, seed_of, unwrapped, variables_of

if IS_LEGACY:
    from tf_keras.src.mixed_precision.autocast_variable import AutoCastVariable, enable_auto_cast_variables

pytestmark = [pytest.mark.core, pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 does it otherwise")]

X = np.linspace(0, 1, 24, dtype="float32").reshape(8, 3)
Y = X[:, :2].round()


class InLists(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(3) for _ in range(2)]
        self.named = {
            "norm": keras.layers.BatchNormalization(),
            "pair": (keras.layers.Dense(2), keras.layers.Dropout(0.3)),
        }

    def call(self, inputs, training=False):
        for block in self.blocks:
            inputs = block(inputs)
        dense, drop = self.named["pair"]
        return drop(dense(self.named["norm"](inputs, training=training)), training=training)


def sequential(*first):
    middle = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    return keras.Sequential([*first, *middle, keras.layers.Dense(2)])


MODELS = {
    "built": lambda: sequential(keras.layers.Input((3,))),
    "not built": sequential,
    "nested": lambda: keras.Sequential([keras.layers.Input((3,)), sequential(), keras.layers.Dense(2)]),
    "in lists": InLists,
}


def optimizers():
    """Return makers of optimizers of both generations, by name."""
    old, scaled = keras.optimizers.legacy, keras.mixed_precision.LossScaleOptimizer
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)
    return {
        "adam": lambda: "adam",
        "averaging": lambda: keras.optimizers.AdamW(0.01, use_ema=True),
        "schedule": lambda: keras.optimizers.SGD(schedule, momentum=0.9),
        "scaled": lambda: scaled(keras.optimizers.Adam(0.01)),
        "old adam": lambda: old.Adam(0.01, amsgrad=True),
        "old sgd": lambda: old.SGD(0.01),
        "old nadam": lambda: old.Nadam(),
        "old scaled": lambda: scaled(old.Adam(0.01)),
    }


def compiled(model, optimizer, **options):
    keras.utils.set_random_seed(1)
    made = MODELS[model]()
    made.compile(optimizers()[optimizer](), "mse", metrics=["mae", keras.metrics.AUC(num_thresholds=5)], **options)
    return made


def slots_of(optimizer, model):
    """Return an optimizer's variables in an order that does not depend on when they were made."""
    inside = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(inside, keras.optimizers.legacy.Optimizer):
        return [*variables_of(optimizer)]
    slots = [inside.get_slot(of, name) for of in model.trainable_variables for name in sorted(inside.get_slot_names())]
    return [*slots, inside.iterations, *(each for each in inside.weights if "cache" in each.name)]


def everything(model, *, counts=True):
    generators = [getattr(layer, "_random_generator", None) for layer in model._flatten_layers()]
    seeds = [seed_of(generator) for generator in generators if seed_of(generator) is not None]
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    found = [*model.variables, *slots_of(model.optimizer, model), *seeds]
    found += [model._train_counter, *metrics] if counts else []
    return [variable.numpy().tobytes() for variable in found]


def manager_of(model, directory):
    return ckptkit.CheckpointManager(tf.train.Checkpoint(model=model, optimizer=model.optimizer), directory, None)


def build(model):
    model(X)
    inside = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    getattr(inside, "_create_all_weights", getattr(inside, "build", None))(model.trainable_variables)


@pytest.mark.parametrize("optimizer", optimizers() if IS_LEGACY else [])
def test_a_trained_model_comes_back_bit_for_bit_metrics_and_seeds_included(tmp_path, optimizer):
    saved = compiled("in lists", optimizer, run_eagerly=True)
    with manager_of(saved, tmp_path) as manager:
        manager.save()  # before anything is built: what comes then has to be noticed
        saved.fit(X, Y, verbose=0, batch_size=4)
        manager.save()
    model = compiled("in lists", optimizer, run_eagerly=True)
    model.fit(X, Y, verbose=0, batch_size=8)
    before = everything(model)
    manager_of(model, tmp_path).restore()
    assert everything(model) == everything(saved) != before


@pytest.mark.parametrize(
    ("model", "optimizer"), [*(("not built", name) for name in (optimizers() if IS_LEGACY else ())), ("nested", "adam")]
)
def test_what_is_not_built_takes_its_values_when_it_is(tmp_path, model, optimizer):
    saved = compiled(model, optimizer, run_eagerly=True)
    saved.fit(X, Y, verbose=0, batch_size=4)
    with manager_of(saved, tmp_path) as manager:
        manager.save()
    fresh = compiled(model, optimizer)
    manager = manager_of(fresh, tmp_path)
    manager.restore()
    build(fresh)
    assert everything(fresh, counts=False) == everything(saved, counts=False)
    assert [name for name in manager.leftovers() if "#metrics" not in name] == []


def test_plain_tensorflow_restores_what_it_knows_and_misses_nothing(tmp_path):
    saved = compiled("in lists", "old adam")
    saved.fit(X, Y, verbose=0)
    with manager_of(saved, tmp_path) as manager:
        prefix = manager.save()
    model = compiled("in lists", "old adam")
    model.fit(X, Y, verbose=0)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(prefix)
    assert [v.numpy().tobytes() for v in model.variables] == [v.numpy().tobytes() for v in saved.variables]


def test_what_a_model_is_compiled_with_is_no_part_of_a_checkpoint(tmp_path):
    saved = compiled("built", "adam", steps_per_execution=2)
    with manager_of(saved, tmp_path) as manager:
        manager.save()
    model = compiled("built", "adam", steps_per_execution=4)
    manager_of(model, tmp_path).restore()
    assert int(model._steps_per_execution) == 4


# Mixed precision: variables of float32 in a shell that casts them -----------------------------------------------------


class Half(keras.Model):
    """Makes the variables of its layers while it casts all that it reads."""

    def __init__(self):
        super().__init__(dtype="mixed_float16")
        self.parts = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(2)]

    def call(self, inputs, training=False):
        first, norm, last = self.parts
        return last(norm(first(inputs), training=training))


@pytest.fixture
def half():
    """Return a maker of a model and its manager; the policy is put back, for layers know it when they are made."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")

    def make(directory, **options):
        model = Half()
        return model, ckptkit.CheckpointManager(tf.train.Checkpoint(model=model), directory, None, **options)

    yield make
    keras.mixed_precision.set_global_policy(before)


def full(variables):
    return [unwrapped(variable).numpy().tobytes() for variable in variables]


def test_what_mixed_precision_casts_is_held_as_it_is(tmp_path, half, gate):
    model, manager = half(tmp_path, async_save=True)
    model(X)
    before = full(model.variables)
    with enable_auto_cast_variables(tf.float16):
        prefix = manager.save()
    for variable in model.variables:
        variable.assign_add(tf.ones_like(variable))
    gate.set()
    manager.wait_until_finished()
    plain = Half()
    plain(X)
    tf.train.Checkpoint(model=plain).restore(prefix).assert_consumed()
    assert full(plain.variables) == before
    assert full(model.variables) != before


def test_what_mixed_precision_casts_is_read_with_all_other_variables_in_one_go(tmp_path, half):
    model, _ = half(tmp_path)
    model(X)
    graph = CheckpointGraph(tf.train.Checkpoint(model=model))
    held = {value.key for value in graph.take()._values}
    assert graph._plan.others == ()
    assert len([key for read in graph._plan.reads for key in read.keys if key in held]) == len(model.variables) + 1


@pytest.mark.parametrize("strategy", [None, "mirrored"])
def test_what_mixed_precision_casts_comes_back_built_or_not_and_is_put_back_when_it_was_borrowed(
    tmp_path, half, strategy
):
    with contextlib.nullcontext() if strategy is None else tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        saved, manager = half(tmp_path)
        saved(X)
        for number, variable in enumerate(saved.variables):
            variable.assign(tf.fill(variable.shape, number + 1 / 3))
        with manager:
            manager.save()
        model, manager = half(tmp_path, read_only=True)
        model(X)
        before = full(model.variables)
        with manager.borrowed(manager.records()[0]):
            assert full(model.variables) == full(saved.variables)
        assert full(model.variables) == before != full(saved.variables)
        manager.restore()
        assert full(model.variables) == full(saved.variables)
        late, manager = half(tmp_path, read_only=True)
        manager.restore()
        late(X)
        assert full(late.variables) == full(saved.variables)


def test_contract_a_variable_in_mixed_precision_is_a_shell_around_a_resource_variable(half, tmp_path):
    model, _ = half(tmp_path)
    model(X)
    shell = model.variables[0]
    assert type(shell) is AutoCastVariable
    assert unwrapped(shell) is shell._variable is resource_variable(shell)
    own = AutoCastVariable._serialize_to_tensors
    assert own is tf.__internal__.tracking.Trackable._serialize_to_tensors, "it has values of its own"
    with enable_auto_cast_variables(tf.float16):
        assert (shell.dtype, unwrapped(shell).dtype) == (tf.float16, tf.float32)


def test_contract_where_keras_2_says_that_an_optimizer_is_built():
    for name, make in optimizers().items():
        model = compiled("built", name)
        assert not is_built(model.optimizer), name
        build(model)
        assert is_built(model.optimizer) or name == "old sgd", make


def test_the_metrics_whose_direction_is_known_are_those_of_which_keras_3_says_it():
    import keras as keras3

    from ckptkit import keras2

    said = {"up": set(), "down": set()}
    for name, kind in vars(keras3.metrics).items():
        if inspect.isclass(kind) and hasattr(keras.metrics, name):
            for direction in said:
                if f'self._direction = "{direction}"' in inspect.getsource(kind):
                    said[direction].add(name)
    assert said["up"] == keras2._UP
    assert said["down"] - {"MeanMetricWrapper"} == keras2._DOWN


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (lambda: keras.metrics.AUC(), "up"),
        (lambda: keras.metrics.get("mse"), "down"),
        (lambda: keras.metrics.get("accuracy"), "up"),
        (lambda: keras.metrics.F1Score(), "up"),
        (lambda: keras.metrics.MeanMetricWrapper(keras.metrics.mean_absolute_error), "down"),
        (lambda: keras.metrics.Mean(), None),
        (lambda: keras.metrics.MeanMetricWrapper(lambda y, p: p), None),
    ],
    ids=["class", "name", "short name", "subclass", "wrapped", "a mean", "one's own"],
)
def test_a_metric_says_which_way_it_ranks(metric, direction):
    from ckptkit.keras2 import direction_of

    assert direction_of(metric()) == direction
