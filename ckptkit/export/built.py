"""What a model was built for, where Keras 2 forgets it: its class has a ``build`` that does not call its parent's.

    with shape_told(model):
        model.save("model.keras")          # cannot be loaded back without

Keras 3 notes it whoever builds the model.

Source: Layer.get_build_config of tf_keras 2.21; tests/test_built.py fails if it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from ckptkit.which_keras import keras, tree

__all__ = ["called_with", "shape_told"]


def called_with(model: keras.Model) -> Any:
    """Return what a model of Keras 2 was called with, as TensorSpecs; None if it was not, or with several arguments."""
    told = model.save_spec() if hasattr(model, "save_spec") else None
    if told is None or len(told[0]) != 1 or told[1]:
        return None
    (argument,) = told[0]
    policy = model.dtype_policy
    whole = {policy.compute_dtype: policy.variable_dtype}  # it was cast before it came to be told
    return tree.map_structure(lambda s: tf.TensorSpec(s.shape, whole.get(s.dtype.name, s.dtype)), argument)


@contextmanager
def shape_told(model: keras.Model) -> Iterator[None]:
    """Let a model tell the shape that it was called with, if it tells none."""
    specs = called_with(model)
    if specs is None or model.get_build_config() is not None:
        yield
        return
    model._build_input_shape = tree.map_structure(lambda spec: spec.shape, specs)
    try:
        yield
    finally:
        model._build_input_shape = None
