"""Variables of a model by their order, and what Keras' own files leave out of them: the seeds of Dropout and its like.

    no_weights(model)                        # [<Variable seed_generator/seed_generator_state>]
    arrays = to_arrays(no_weights(model))    # {"0": array([12, 34], uint32)}
    assign(no_weights(another), arrays, "model.keras")

A layer that has drawn random numbers draws others when it is loaded from a ``.keras`` or ``.weights.h5`` file of Keras
alone: training that goes on from there takes another course.

Source: seen on Keras 3.15; tests/test_formats.py fails if it is not so any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ckptkit.errors import ArtifactError
from ckptkit.which_keras import WRAPPERS, keras, tree

__all__ = ["assign", "no_weights", "to_arrays"]


def no_weights(model: keras.Model) -> list[keras.Variable]:
    """Return the variables of a model that Keras does not count among its weights, in a fixed order."""
    weights = {id(weight) for weight in model.weights}
    found = [variable for variable in model.variables if id(variable) not in weights]
    for layer in model._flatten_layers():  # a stateful RNN's states are in no list of Keras'
        states = getattr(layer, "states", None)
        found += [state for state in tree.flatten(states) if isinstance(state, WRAPPERS)]
    return found


def to_arrays(variables: Sequence[keras.Variable]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the values by their places; as whole numbers of the same bytes, where files know no such type."""
    values = {str(place): np.asarray(variable) for place, variable in enumerate(variables)}
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
