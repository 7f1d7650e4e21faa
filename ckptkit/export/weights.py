"""Weights alone, in Keras' ``.weights.h5``, under that ending or the older plain ``weights.h5``.

weights.write(model, "model.weights.h5")
weights.read_into(model, "model.weights.h5")      # all of them or none
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
import zipfile
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from ckptkit.errors import ArtifactError, CheckpointMismatchError
from ckptkit.which_keras import keras

__all__ = ["holds", "read_into", "write"]

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


def holds(path: str, model: keras.Model) -> bool:
    """Say whether a file that was written holds the weights of a model, bit by bit, and no others."""
    return sorted(map(_fingerprint, _values_in(path))) == sorted(_fingerprint(np.asarray(w)) for w in model.weights)


def read_into(model: keras.Model, path: str) -> None:
    """Load the weights of a file into a built model, all of them or none; of Keras 2's files as well.

    Raises:
        ArtifactError: It is no file of weights.
        CheckpointMismatchError: They do not fit the model; nothing was assigned.
        ValueError: The model was never built.
    """
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on a batch before weights are loaded into it.")
    if zipfile.is_zipfile(path):
        raise ArtifactError(f"{path} is a whole model: call ckptkit.load_model.")
    try:
        with h5py.File(path) as file:
            is_old = "layer_names" in file.attrs or "model_weights" in file
    except OSError as error:
        raise ArtifactError(f"{path} is no file of weights that can be read: {error}") from error
    there = len(model.weights) if is_old else len(_values_in(path))
    if there > len(model.weights):  # Keras would pass by what is too much
        raise CheckpointMismatchError(
            f"the weights of {path} do not fit {model.name}: there are {there} of them, and the model has "
            f"{len(model.weights)}.\nMake the model as it was when they were saved. Nothing was changed."
        )
    before = [(variable, tf.identity(variable.value)) for variable in _variables(model)]
    with tempfile.TemporaryDirectory() as folder:  # Keras goes by the ending
        link = os.path.join(folder, "model.h5" if is_old else f"model{_ENDING}")
        os.symlink(os.path.abspath(path), link)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
                model.load_weights(link)
            for variable, value in before[len(model.variables) :]:
                variable.assign(value)  # Keras' file has the optimizer's as well, which stay as they are
        except Exception as error:  # Keras raises what it comes upon, in the middle of assigning
            for variable, value in before:
                variable.assign(value)
            raise CheckpointMismatchError(
                f"the weights of {path} do not fit {model.name}: {str(error).strip()}\n"
                "Make the model as it was when they were saved. Nothing was changed."
            ) from error


def _values_in(path: str) -> list[np.ndarray[Any, Any]]:
    """Return the values in a file of Keras 3 that are no optimizer's."""
    found: list[np.ndarray[Any, Any]] = []

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
            found.append(item[()])

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def _fingerprint(value: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return (value.shape, value.dtype.itemsize, hashlib.sha256(value.tobytes()).hexdigest())


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *(model.optimizer.variables if model.compiled and model.optimizer else ())]
