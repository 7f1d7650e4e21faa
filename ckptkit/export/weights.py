"""Weights alone, in Keras' ``.weights.h5``, under that ending or the older plain ``weights.h5``.

weights.write(model, "model.weights.h5")
weights.read_into(model, "model.weights.h5")      # all of them or none
"""

from __future__ import annotations

import os
import tempfile

import h5py
import keras
import tensorflow as tf

from ckptkit.errors import ArtifactError, CheckpointMismatchError

__all__ = ["read_into", "write"]

_ENDING = ".weights.h5"


def write(model: keras.Model, path: str) -> None:
    """Write the weights of a built model to a new file.

    Raises:
        ValueError: The model was never built.
    """
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on a batch, or fit it, before its weights are saved.")
    if path.endswith(_ENDING):
        model.save_weights(path)
        return
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path) or ".") as folder:  # Keras insists on its ending
        whole = os.path.join(folder, f"model{_ENDING}")
        model.save_weights(whole)
        os.rename(whole, path)


def read_into(model: keras.Model, path: str) -> None:
    """Load the weights of a file into a built model, all of them or none; of Keras 2's files as well.

    Raises:
        ArtifactError: It is no file of weights.
        CheckpointMismatchError: They do not fit the model; nothing was assigned.
        ValueError: The model was never built.
    """
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on a batch before weights are loaded into it.")
    try:
        with h5py.File(path) as file:
            is_old = "layer_names" in file.attrs or "model_weights" in file
    except OSError as error:
        raise ArtifactError(f"{path} is no file of weights that can be read: {error}") from error
    before = [(variable, tf.identity(variable.value)) for variable in _variables(model)]
    with tempfile.TemporaryDirectory() as folder:  # Keras goes by the ending
        link = os.path.join(folder, "model.h5" if is_old else f"model{_ENDING}")
        os.symlink(os.path.abspath(path), link)
        try:
            model.load_weights(link)
        except Exception as error:  # Keras raises what it comes upon, in the middle of assigning
            for variable, value in before:
                variable.assign(value)
            raise CheckpointMismatchError(
                f"the weights of {path} do not fit {model.name}: {str(error).strip()}\n"
                "Make the model as it was when they were saved. Nothing was changed."
            ) from error


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *(model.optimizer.variables if model.compiled and model.optimizer else ())]
