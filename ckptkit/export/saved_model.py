"""TensorFlow's SavedModel: a folder that any server loads, for inference.

saved_model.write(model, "export/saved_model")
artifact = tf.saved_model.load("export/saved_model")
artifact.serve(images)
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["write"]


def write(model: keras.Model, path: str) -> None:
    """Write a built model to a new folder, with an endpoint ``serve`` for any batch size.

    Not by ``model.export``, which leaves it to each layer whether it is in training: Keras' augmentation layers then
    are, and the artifact shifts and turns the images that it is to classify (seen on Keras 3.15). Here the model is
    told.

    Raises:
        ValueError: The model was never built.

    Source: https://keras.io/api/models/model_saving_apis/export/
    """
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on a batch, or fit it, before it is exported.")
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), input_signature=[_signature(model)])
    archive.write_out(path, verbose=False)


def _signature(model: keras.Model) -> Any:
    try:
        inputs = model.input  # of a Sequential or functional model
    except AttributeError:
        inputs = None
    if inputs is not None:
        return keras.tree.map_structure(lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype, t.name), inputs)
    config = model.get_build_config()
    shapes = config.get("shapes_dict") or {"inputs": config.get("input_shape")}
    if len(shapes) != 1 or None in shapes.values():
        raise ValueError(f"the inputs of {model.name} cannot be told from its build: it takes {', '.join(shapes)}.")
    return _specs(next(iter(shapes.values())), model.input_dtype)


def _specs(shape: Any, dtype: str) -> Any:
    if isinstance(shape, dict):
        return {name: _specs(part, dtype) for name, part in shape.items()}
    if any(isinstance(part, (list, tuple, dict)) for part in shape):
        return [_specs(part, dtype) for part in shape]
    return tf.TensorSpec((None, *shape[1:]), dtype)
