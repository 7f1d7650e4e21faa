"""Inputs to try a model on: from the signature it is given or was built with, at two batch sizes.

    signature = signature_of(model)                   # TensorSpec((None, 28, 28), float32, "images")
    one, three = inputs_like(signature)               # made, always the same
    outputs_of(model, three)                          # {"digits": array of shape (3, 10)}

Source: https://keras.io/api/models/model_saving_apis/export/
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from ckptkit.export.built import called_with
from ckptkit.export.state import no_weights
from ckptkit.replicas import replicas_of
from ckptkit.which_keras import keras, tree

__all__ = ["by_name", "inputs_like", "named", "outputs_of", "signature_of"]

_BATCHES = (1, 3)
_UNTOLD = 32  # for a size that may be any: enough for the convolutions of keras.applications


def signature_of(model: keras.Model, given: Any = None) -> Any:
    """Return what a model takes, as TensorSpecs in the structure of its first argument; batches of any size.

    Args:
        model: Built.
        given: An ``input_signature`` of the user's: TensorSpecs or InputSpecs in that structure, in a list of one if
            Keras' form is meant.

    Raises:
        ValueError: The model was never built, or does not tell what it takes.
    """
    if given is not None:
        is_wrapped = isinstance(given, (list, tuple)) and len(given) == 1
        given = given[0] if is_wrapped else given
        inputs = _inputs_of(model)
        if inputs is not None and len(tree.flatten(inputs)) != len(tree.flatten(given)):
            raise ValueError(
                f"input_signature has {len(tree.flatten(given))} inputs, and {model.name} takes "
                f"{len(tree.flatten(inputs))}."
            )
        return tree.map_structure(_spec, given)
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on a batch, or fit it, before it is saved.")
    inputs = _inputs_of(model)
    if inputs is not None:
        return tree.map_structure(lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype, t.name), inputs)
    specs = called_with(model)
    if specs is not None:
        return specs
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"inputs": config.get("input_shape")}
    if len(shapes) != 1 or None in shapes.values():
        raise ValueError(
            f"the inputs of {model.name} cannot be told from its build: its call takes {', '.join(shapes)}, and a "
            "signature has one argument. Let it take them as one dict or list; or save it as .keras with verify=False."
        )
    return _specs_of(next(iter(shapes.values())), model.dtype_policy.variable_dtype)


def inputs_like(signature: Any) -> list[Any]:
    """Make inputs for a signature, a structure a batch size: numbers in [0, 1), whole numbers 0 and 1, short texts."""
    random = np.random.default_rng(0)
    return [tree.map_structure(functools.partial(_made, batch=batch, random=random), signature) for batch in _BATCHES]


def outputs_of(model: keras.Model, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a model makes of inputs, not in training, by the names of its outputs; the model stays as it was."""
    with _variables_kept(model):
        outputs = named(model, model(tree.map_structure(tf.constant, inputs), training=False))
    return by_name(outputs)


def by_name(outputs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return outputs as arrays by name, those inside of one numbered; of a single one the name is empty."""
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    leaves = {f"{name}{at or ''}": leaf for name, each in outputs.items() for at, leaf in enumerate(tree.flatten(each))}
    return {name: _plain(leaf) for name, leaf in leaves.items()}


def named(model: keras.Model, outputs: Any) -> Any:
    """Give several outputs that come in a list the names that the model has for them."""
    names = getattr(model, "output_names", None)
    if isinstance(outputs, (list, tuple)) and names and len(set(names)) == len(names) == len(outputs):
        return dict(zip(names, outputs))
    return outputs


def _inputs_of(model: keras.Model) -> Any:
    """Return the tensors that a Sequential or functional model was made with, in their structure; None for others."""
    try:
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    except AttributeError:
        return None


def _plain(tensor: Any) -> np.ndarray[Any, Any]:
    value = np.asarray(tensor)
    return value.astype("float32") if value.dtype.kind == "V" else value  # NumPy's files know no bfloat16


def _spec(given: Any) -> tf.TensorSpec:
    shape = getattr(given, "shape", None)
    if shape is None or tf.TensorShape(shape).rank is None:
        raise ValueError(
            f"input_signature must be made of tf.TensorSpec or keras.InputSpec with a shape, got {given!r}."
        )
    return tf.TensorSpec(given.shape, given.dtype or "float32", getattr(given, "name", None))


def _specs_of(shape: Any, dtype: str) -> Any:
    if isinstance(shape, dict):
        return {name: _specs_of(part, dtype) for name, part in shape.items()}
    if any(isinstance(part, (list, tuple, dict)) for part in shape):
        return [_specs_of(part, dtype) for part in shape]
    return tf.TensorSpec((None, *shape[1:]), dtype)


def _made(spec: tf.TensorSpec, *, batch: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    sizes = list(spec.shape)
    shape = [batch if at == 0 and size is None else size or _UNTOLD for at, size in enumerate(sizes)]
    if spec.dtype == tf.string:
        return random.choice(np.array([b"a", b"b"]), shape)
    if spec.dtype == tf.bool or spec.dtype.is_integer:
        return random.integers(0, 2, shape).astype(spec.dtype.as_numpy_dtype)
    return random.random(shape, "float32").astype(spec.dtype.as_numpy_dtype)


@contextmanager
def _variables_kept(model: keras.Model) -> Iterator[None]:
    """Put back what a call changes: the state of a stateful RNN, a layer's counter."""
    changed = [*(each for each in model.non_trainable_variables if hasattr(each, "assign")), *no_weights(model)]
    parts = [part for variable in changed for part in replicas_of(variable).values() or (variable,)]
    kept = [(part, tf.identity(part)) for part in parts]
    try:
        yield
    finally:
        for part, value in kept:
            part.assign(value)
