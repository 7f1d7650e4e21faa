"""TensorFlow's SavedModel: a folder that any server loads, with the whole Keras model as an extra asset.

saved_model.write(model, "export/digits")
tf.saved_model.load("export/digits").serve(images)     # any process, without Keras
saved_model.read("export/digits")                      # the compiled model with its optimizer

export/digits/
  saved_model.pb  variables/  assets/  fingerprint.pb
  assets.extra/model.keras                             # servers ignore this folder
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from ckptkit.errors import ArtifactError
from ckptkit.export import keras_2_saved_model, keras_archive
from ckptkit.export.custom_code import why_not_revived
from ckptkit.export.example import named, signature_of
from ckptkit.which_keras import IS_LEGACY, keras

__all__ = ["EXTRA", "is_whole", "read", "write"]

EXTRA = "assets.extra"
_ARCHIVE = "model.keras"
_FOR_INFERENCE = "%s is for inference alone: %s. A model cannot be loaded from it."
_WITHOUT_CLASS = "%s comes back without its class: %s. Its graph is there, and can be trained on."
_log = logging.getLogger("ckptkit")


def write(model: keras.Model, path: str, input_signature: Any = None) -> None:
    """Write a built model to a new folder, with an endpoint ``serve``, which is the signature ``serving_default``, too.

    Keras 2 writes it by ``model.save``. For Keras 3 it is not ``model.export`` that does, which leaves it to each layer
    whether it is in training: Keras' augmentation layers then are, and the artifact shifts and turns the images that it
    is to classify (seen on Keras 3.15). Here the model is told. Inputs and several outputs have the names of the
    model's; a single output is ``output_0``, as Keras has it.

    A model of a class that Keras cannot make again is written for inference alone, by Keras 2 without its class, and
    that is logged.

    Args:
        model: Built.
        path: A folder that is not there yet.
        input_signature: TensorSpecs of the inputs; None for those that the model was built with, and any batch size.

    Raises:
        ValueError: The model was never built, or does not tell what it takes.

    Source: https://keras.io/api/models/model_saving_apis/export/
    """
    signature = signature_of(model, input_signature)

    def serve(inputs: Any) -> Any:
        return named(model, model(inputs, training=False))

    (keras_2_saved_model.write if IS_LEGACY else _export)(model, path, serve, signature)
    os.makedirs(os.path.join(path, EXTRA))
    reason = why_not_revived(model)
    if reason is not None:
        _log.warning(_WITHOUT_CLASS if IS_LEGACY else _FOR_INFERENCE, model.name, reason)
        return
    keras_archive.write(model, os.path.join(path, EXTRA, _ARCHIVE))


def is_whole(path: str) -> bool:
    """Say whether a SavedModel holds the whole Keras model as well."""
    return os.path.exists(os.path.join(path, EXTRA, _ARCHIVE))


def read(
    path: str, *, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, safe_mode: bool = True
) -> Any:
    """Load the whole model that lies in a SavedModel of ours; of another's, a layer that answers as its server would.

    Raises:
        ArtifactError: It is no SavedModel, or needs what is not here.
    """
    whole = os.path.join(path, EXTRA, _ARCHIVE)
    if is_whole(path):
        options: dict[str, Any] = {"custom_objects": custom_objects, "compile": compile, "safe_mode": safe_mode}
        return keras_archive.read(whole, **options, inside=path)
    if IS_LEGACY and keras_2_saved_model.is_whole(path):
        return keras_2_saved_model.read(path, custom_objects, compile, safe_mode)
    try:
        signatures = sorted(tf.saved_model.load(path).signatures)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(f"{path} is no SavedModel that can be read: {error}") from error
    if not signatures:
        raise ArtifactError(f"{path} has no signature to call, and no {EXTRA}/{_ARCHIVE} to make a model of.")
    endpoint = "serving_default" if "serving_default" in signatures else signatures[0]
    layer = keras_2_saved_model.ServedLayer if IS_LEGACY else keras.layers.TFSMLayer
    _log.warning(
        "%s was written without %s/%s: it is loaded as a %s that answers as the signature %r does. There is no "
        "architecture to look at, nothing to train, no optimizer and no compile config.",
        path,
        EXTRA,
        _ARCHIVE,
        layer.__name__,
        endpoint,
    )
    return layer(path, call_endpoint=endpoint)


def _export(model: keras.Model, path: str, serve: Callable[[Any], Any], signature: Any) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[signature])
    archive.write_out(path, verbose=False)
