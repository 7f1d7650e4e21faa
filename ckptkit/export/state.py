"""Variables of a model by their order, and what Keras' own files leave out of them: the seeds of Dropout and its like.

    weights_of(model)                        # [<Variable dense/kernel>, <Variable dense/bias>]
    no_weights(model)                        # [<Variable seed_generator/seed_generator_state>]
    arrays = to_arrays(no_weights(model))    # {"0": array([12, 34], uint32)}
    assign(no_weights(another), arrays, "model.keras")

A layer that has drawn random numbers draws others when it is loaded from a ``.keras`` or ``.weights.h5`` file of Keras
alone: training that goes on from there takes another course.

Keras 2 keeps such a seed in a variable that it counts among none, and that only where a layer always does or where
``tf.keras.backend.experimental.enable_tf_random_generator()`` was called before the layer was made.

Source: seen on Keras 3.15 and tf_keras 2.21; tests/test_formats.py fails if it is not so any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from ckptkit.errors import ArtifactError
from ckptkit.which_keras import IS_LEGACY, SEED_GENERATORS, keras, seed_of, tree

__all__ = [
    "assign",
    "has_seeds_in_variables",
    "name_of",
    "no_weights",
    "seeds_in_variables",
    "to_arrays",
    "weights_of",
]


def weights_of(model: keras.Model) -> list[keras.Variable]:
    """Return the weights of a model; without what Keras 2 puts among them for the vocabulary of a layer."""
    return [weight for weight in model.weights if hasattr(weight, "assign")]


def no_weights(model: keras.Model) -> list[keras.Variable]:
    """Return the variables of a model that Keras does not count among its weights, in a fixed order."""
    weights = {id(weight) for weight in model.weights}
    found = [variable for variable in model.variables if id(variable) not in weights]
    for layer in model._flatten_layers():  # a stateful RNN's states are in no list of Keras'
        states = getattr(layer, "states", None)
        found += [state for state in tree.flatten(states) if hasattr(state, "assign")]
        generator = getattr(layer, "_random_generator", None)
        seed = seed_of(generator) if isinstance(generator, SEED_GENERATORS) else None
        found += [] if seed is None else [seed]
    return found


def has_seeds_in_variables() -> bool:
    """Say whether the seeds of any layer that is made now are in a variable of its own."""
    return not IS_LEGACY or bool(keras.backend.experimental.is_tf_random_generator_enabled())


@contextmanager
def seeds_in_variables(wanted: bool) -> Iterator[None]:
    """Make layers as they were made where a file was written, which Keras 2 does not note of all."""
    if wanted == has_seeds_in_variables():
        yield
        return
    on, off = (getattr(keras.backend.experimental, f"{name}_tf_random_generator") for name in ("enable", "disable"))
    (on if wanted else off)()
    try:
        yield
    finally:
        (off if wanted else on)()


def name_of(variable: Any) -> str:
    """Return the name of a variable, the one in Keras' own files; Keras 3 calls it a path."""
    return str(getattr(variable, "path", variable.name))


def to_arrays(variables: Sequence[keras.Variable]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the values by their places; as whole numbers of the same bytes, where files know no such type."""
    values = {str(place): np.asarray(variable.numpy()) for place, variable in enumerate(variables)}
    return {place: v.view(f"u{v.itemsize}") if v.dtype.kind == "V" else v for place, v in values.items()}


def assign(variables: Sequence[keras.Variable], arrays: Mapping[str, Any], path: str) -> None:
    """Put back what :func:`to_arrays` returned.

    Raises:
        ArtifactError: There are more of them, or fewer.
    """
    if len(arrays) != len(variables):
        raise ArtifactError(
            f"{path} holds {len(arrays)} further values, and the model that it describes takes {len(variables)}."
        )
    for place, variable in enumerate(variables):
        kind = np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype)
        value = arrays[str(place)][()]
        variable.assign(value.view(kind) if kind.kind == "V" else value)
