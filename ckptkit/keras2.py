"""What Keras 2 keeps in its objects, by the names that :mod:`ckptkit.keras3` has for the same in Keras 3.

Source: tf_keras/src/backend.py, tf_keras/src/engine and tf_keras/src/optimizers of tf_keras 2.21;
tests/test_keras2.py fails if they work differently.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tensorflow import nest as tree
from tf_keras.src import backend
from tf_keras.src.engine import compile_utils
from tf_keras.src.mixed_precision.autocast_variable import AutoCastVariable

__all__ = [
    "CONTAINERS",
    "EPOCHS_OF_FIT",
    "NAME",
    "SEED_GENERATORS",
    "SLOT_OPTIMIZERS",
    "VALIDATION_OF_FIT",
    "WRAPPERS",
    "asked_metrics",
    "build_from",
    "builder_of",
    "counts_of",
    "direction_of",
    "global_seed",
    "is_built",
    "keeps_its_state",
    "keras",
    "seed_of",
    "set_global_seed",
    "steps_of",
    "tree",
    "unwrapped",
    "variables_of",
]

NAME = "tf_keras"
WRAPPERS: tuple[Any, ...] = (AutoCastVariable,)  # of a layer in mixed precision; all others are TensorFlow's own
SEED_GENERATORS: tuple[Any, ...] = (backend.RandomGenerator,)
EPOCHS_OF_FIT = ("data_handler", "enumerate_epochs")  # a local variable of ``fit``, and a method of it
VALIDATION_OF_FIT = "_eval_data_handler"  # the same for its validation: an attribute of the model
SLOT_OPTIMIZERS: tuple[Any, ...] = (keras.optimizers.legacy.Optimizer,)
CONTAINERS: tuple[Any, ...] = (compile_utils.Container,)

_UP = frozenset(
    {"Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy", "TopKCategoricalAccuracy"}
    | {"SparseTopKCategoricalAccuracy", "AUC", "Precision", "Recall", "FBetaScore", "CosineSimilarity", "R2Score"}
)
_DOWN = frozenset(
    {"MeanSquaredError", "RootMeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "LogCoshError"}
    | {"MeanSquaredLogarithmicError", "BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"}
    | {"Hinge", "SquaredHinge", "CategoricalHinge"}
)


def is_built(owner: Any) -> bool:
    """Say whether a layer, model, metric or optimizer has made its variables."""
    if isinstance(owner, keras.metrics.Metric):
        return bool(owner.variables)
    if isinstance(owner, keras.layers.Layer):
        return bool(owner.built)
    inside = _inside(owner)
    if isinstance(inside, SLOT_OPTIMIZERS):
        return bool(inside.get_slot_names())  # plain SGD has none, and nothing to wait for either
    return bool(getattr(inside, "_built", False))


def builder_of(owner: Any) -> tuple[Any, str]:
    """Return the object and the name of the method that makes an owner's variables."""
    inside = _inside(owner)
    return inside, "_create_all_weights" if isinstance(inside, SLOT_OPTIMIZERS) else "build"


def variables_of(owner: Any) -> Sequence[Any]:
    """Return what Keras counts as the owner's variables, as far as they are made."""
    if isinstance(owner, keras.layers.Layer) and not all(each.built for each in _models_in(owner)):
        return ()  # to ask is an error
    if isinstance(owner, SLOT_OPTIMIZERS):
        return list(owner.variables())
    return getattr(owner, "variables", ())


def unwrapped(variable: Any) -> Any:
    """Return TensorFlow's variable: one of a layer in mixed precision is wrapped, and says what it is cast to."""
    return variable._variable if isinstance(variable, WRAPPERS) else variable


def counts_of(owner: Any) -> Sequence[Any]:
    """Return the variables that count something during an epoch: those of metrics, and a model's steps of this fit."""
    if not isinstance(owner, keras.Model):
        return ()
    return [owner._train_counter, *(variable for metric in owner.metrics for variable in metric.variables)]


def seed_of(generator: Any) -> Any:
    """Return the variable that a layer's random numbers come from, None if an operation keeps them to itself."""
    inside = getattr(generator, "_generator", None)
    return None if inside is None else inside.state


def build_from(model: keras.Model, spec: Any, *, leave_optimizer: bool) -> None:
    """Make what ``fit`` makes in its first step.

    Args:
        model: Compiled.
        spec: Of a batch.
        leave_optimizer: Nothing is built here that the train step does not use.
    """

    def step(data: Any) -> None:
        model.distribute_strategy.run(model.train_step, args=(data,))

    tf.function(step).get_concrete_function(spec)  # traced, not run


def asked_metrics(model: keras.Model) -> list[Any]:
    """Return what ``compile`` was given for metrics: names, functions and objects."""
    compiled = model.compiled_metrics
    return [] if compiled is None else tree.flatten([compiled._user_metrics, compiled._user_weighted_metrics])


def direction_of(metric: Any) -> str | None:
    """Return ``"up"`` if a metric is better when larger, ``"down"`` if when smaller, None if that is not known.

    Keras 2 does not say; what is known is what Keras 3 says.
    """
    function = getattr(metric, "_fn", metric)
    name = "".join(part.title() for part in getattr(function, "__name__", "").split("_"))
    names = {name, *(kind.__name__ for kind in type(metric).__mro__)}
    return "up" if names & _UP else "down" if names & _DOWN else None


def keeps_its_state(layer: Any) -> bool:
    """Say whether the random numbers that a layer draws, if it does, come from a state that can be saved."""
    generator = getattr(layer, "_random_generator", None)
    if generator is None or generator._rng_type != backend.RandomGenerator.RNG_LEGACY_STATEFUL:
        return True
    amounts = [
        getattr(layer, name) for name in ("rate", "dropout", "recurrent_dropout", "stddev") if hasattr(layer, name)
    ]
    return bool(amounts) and not any(amounts)


def steps_of(optimizer: Any) -> int:
    """Return how often an optimizer was given gradients."""
    iterations = _inside(optimizer)._iterations
    return 0 if iterations is None else int(iterations.numpy())


def _models_in(layer: Any) -> list[Any]:
    return [each for each in layer._flatten_layers() if isinstance(each, keras.Model)]


def _inside(owner: Any) -> Any:
    """Return the optimizer that a LossScaleOptimizer wraps, and everything else as it is."""
    return owner.inner_optimizer if isinstance(owner, keras.mixed_precision.LossScaleOptimizer) else owner


def global_seed() -> Any:
    """Return the state of Keras' own random numbers, None if ``keras.utils.set_random_seed`` was not called."""
    generator = getattr(backend._SEED_GENERATOR, "generator", None)
    return None if generator is None else generator.getstate()


def set_global_seed(state: Any) -> None:
    """Put back what :func:`global_seed` returned."""
    if state is None:
        backend._SEED_GENERATOR.generator = None
        return
    if global_seed() is None:
        backend._SEED_GENERATOR.generator = random.Random()
    backend._SEED_GENERATOR.generator.setstate(state)
