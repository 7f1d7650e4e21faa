"""What a model is compiled with, under either Keras: whether it is, and all variables of its optimizer.

    optimizer = optimizer_of(model)             # None if there is none
    build(optimizer, model.trainable_variables)
    variables_of(optimizer)                     # in a fixed order, first those that Keras' own files hold
    left_out_of(optimizer)                      # the others

Keras 2's files leave out the learning rate, if the optimizer was given by its name, the state of a loss scale, and
whatever an optimizer of ``optimizers.legacy`` has. Keras 3's leave out nothing.

Source: tf_keras/src/optimizers and mixed_precision of tf_keras 2.21; tests/test_compiled.py fails if they change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from ckptkit.export.silence import without
from ckptkit.which_keras import IS_LEGACY, keras

__all__ = [
    "build",
    "in_hdf5_of",
    "is_built",
    "is_compiled",
    "left_out_of",
    "optimizer_of",
    "variables_of",
    "without_slots",
]


def is_compiled(model: keras.Model) -> bool:
    """Say whether a model is compiled."""
    return bool(model._is_compiled if IS_LEGACY else model.compiled)


def optimizer_of(model: keras.Model) -> Any:
    """Return the optimizer that a model is compiled with, None if there is none."""
    return (model.optimizer or None) if is_compiled(model) else None


def is_built(optimizer: Any) -> bool:
    """Say whether an optimizer has its slots."""
    if not IS_LEGACY:
        return bool(optimizer.built)
    inner = _inner(optimizer)
    if _is_of_the_old_kind(inner):  # it builds itself at its first step, and some have no slots
        return inner._hypers_created and (len(inner.weights) > 1 or int(inner.iterations) > 0)
    return bool(getattr(inner, "_built", False))


def build(optimizer: Any, variables: Sequence[Any]) -> None:
    """Give an optimizer its slots, if it has none yet."""
    if not is_built(optimizer):
        inner = _inner(optimizer)
        (inner._create_all_weights if _is_of_the_old_kind(inner) else inner.build)(variables)


def variables_of(optimizer: Any) -> list[Any]:
    """Return all variables of an optimizer, first those that Keras' own files hold."""
    by_keras = [] if _is_of_the_old_kind(_inner(optimizer)) else optimizer.variables
    return [*by_keras, *left_out_of(optimizer)]


def in_hdf5_of(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer that Keras' own HDF5 holds."""
    inner = _inner(optimizer)
    return list(inner.weights if _is_of_the_old_kind(inner) else optimizer.variables)


def left_out_of(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer that Keras' own files leave out."""
    if not IS_LEGACY:
        return []
    inner = _inner(optimizer)
    if _is_of_the_old_kind(inner):
        own = [*inner.weights, *(each for _, each in sorted(inner._hyper.items()))]
    else:
        own = [inner._learning_rate]
    scale = getattr(getattr(optimizer, "_loss_scale", None), "_weights", {})
    return [each for each in (*own, *scale.values()) if isinstance(each, tf.Variable)]


@contextmanager
def without_slots() -> Iterator[None]:
    """Load an optimizer that had no slots when it was saved: Keras passes it by, and warns of what there never was."""
    if IS_LEGACY:  # a loss scale has no name to warn by
        keras.optimizers.Optimizer.name = "optimizer"
    try:
        with without("Skipping variable loading for optimizer"):
            yield
    finally:
        if IS_LEGACY:
            del keras.optimizers.Optimizer.name


def _inner(optimizer: Any) -> Any:
    """Return what a loss scale of Keras 2 is wrapped around."""
    return getattr(optimizer, "inner_optimizer", optimizer) if IS_LEGACY else optimizer


def _is_of_the_old_kind(inner: Any) -> bool:
    return IS_LEGACY and isinstance(inner, keras.optimizers.legacy.Optimizer)
