"""What Keras 3 keeps in its objects, by the names that :mod:`ckptkit.keras2` has for the same in Keras 2.

Source: keras/src/backend/common/variables.py and keras/src/random/seed_generator.py of Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import tree
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

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

_GLOBAL_SEED = "global_seed_generator"  # seed_generator.GLOBAL_SEED_GENERATOR, which Keras has since 3.13 only
NAME = "keras"
WRAPPERS: tuple[Any, ...] = (keras.Variable,)  # classes of what has a TensorFlow variable inside
SEED_GENERATORS: tuple[Any, ...] = (keras.random.SeedGenerator,)
EPOCHS_OF_FIT = ("epoch_iterator", "_enumerate_iterator")  # a local variable of ``fit``, and a method of it
VALIDATION_OF_FIT = "_eval_epoch_iterator"  # the same for its validation: an attribute of the model
SLOT_OPTIMIZERS: tuple[Any, ...] = ()  # whose slots TensorFlow knows as such, and are no children
CONTAINERS: tuple[Any, ...] = ()  # what a compiled model keeps losses and metrics in, where that is no layer or metric


def is_built(owner: Any) -> bool:
    """Say whether a layer, model or optimizer has made its variables."""
    return bool(owner.built)


def builder_of(owner: Any) -> tuple[Any, str]:
    """Return the object and the name of the method that makes an owner's variables."""
    return owner, "build"


def variables_of(owner: Any) -> Sequence[Any]:
    """Return what Keras counts as the owner's variables, as far as they are made."""
    return getattr(owner, "variables", ())


def unwrapped(variable: Any) -> Any:
    """Return TensorFlow's variable, whatever a Keras variable around it looks like."""
    return variable.value if isinstance(variable, WRAPPERS) else variable


def counts_of(owner: Any) -> Sequence[Any]:
    """Return the variables that count something during an epoch: those of metrics."""
    return getattr(owner, "metrics_variables", ())


def seed_of(generator: Any) -> Any:
    """Return the variable that a layer's random numbers come from, None if there is none."""
    return generator.state


def build_from(model: keras.Model, spec: Any, *, leave_optimizer: bool) -> None:
    """Make what ``fit`` makes in its first step.

    Args:
        model: Compiled.
        spec: Of a batch.
        leave_optimizer: Whether the optimizer is not to be built.
    """
    optimizer = model.optimizer
    if leave_optimizer:
        optimizer.built = True  # for Keras to pass it by
    try:
        model._symbolic_build(data_batch=spec)
    finally:
        if leave_optimizer:
            optimizer.built = False


def asked_metrics(model: keras.Model) -> list[Any]:
    """Return what ``compile`` was given for metrics: names, functions and objects."""
    compiled = getattr(model, "_compile_metrics", None)
    return [] if compiled is None else tree.flatten([compiled._user_metrics, compiled._user_weighted_metrics])


def direction_of(metric: Any) -> str | None:
    """Return ``"up"`` if a metric is better when larger, ``"down"`` if when smaller, None if Keras does not say."""
    return getattr(metric, "_direction", None)


def keeps_its_state(layer: Any) -> bool:
    """Say whether the random numbers that a layer draws come from a state that can be saved."""
    return True


def steps_of(optimizer: Any) -> int:
    """Return how often an optimizer was given gradients, whatever it made of them."""
    return next((int(variable.numpy()) for variable in optimizer.variables if variable.name == "iteration"), 0)


def global_seed() -> Any:
    """Return the state of Keras' own random numbers, None before they are first drawn."""
    generator = global_state.get_global_attribute(_GLOBAL_SEED)
    return None if generator is None else generator.state.numpy()


def set_global_seed(state: Any) -> None:
    """Put back what :func:`global_seed` returned."""
    if state is None:
        global_state.set_global_attribute(_GLOBAL_SEED, None)
    else:  # makes the generator where there is none yet, which draws from Python's
        seed_generator.global_seed_generator().state.assign(state)
