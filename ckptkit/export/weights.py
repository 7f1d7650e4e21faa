"""Weights alone, in Keras' ``.weights.h5``, under that ending or the older plain ``weights.h5``.

weights.write(model, "model.weights.h5")
weights.read_into(model, "model.weights.h5")      # all of them or none
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from ckptkit.errors import ArtifactError, CheckpointMismatchError
from ckptkit.export import facts
from ckptkit.export.compiled import optimizer_of
from ckptkit.export.origin import is_another, what_to_set
from ckptkit.export.state import no_weights, weights_of
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
    return sorted(map(_fingerprint, _values_in(path))) == sorted(
        _fingerprint(np.asarray(w.numpy())) for w in weights_of(model)
    )


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
    known = len(weights_of(model))
    there = known if is_old else len(_values_in(path))
    if there > known:  # Keras would pass by what is too much
        raise CheckpointMismatchError(
            f"the weights of {path} do not fit {model.name}: there are {there} of them, and the model has "
            f"{known}.\n{_what_to_do(path)}"
        )
    before = [(variable, tf.identity(variable)) for variable in [*weights_of(model), *no_weights(model)]]
    with tempfile.TemporaryDirectory() as folder:  # Keras goes by the ending
        link = os.path.join(folder, "model.h5" if is_old else f"model{_ENDING}")
        os.symlink(os.path.abspath(path), link)
        try:
            with _left_alone(model):
                model.load_weights(link)
        except Exception as error:  # Keras raises what it comes upon, in the middle of assigning
            for variable, value in before:
                variable.assign(value)
            raise CheckpointMismatchError(
                f"the weights of {path} do not fit {model.name}: {str(error).strip()}\n{_what_to_do(path)}"
            ) from error


def _what_to_do(path: str) -> str:
    versions = (facts.read(path) or {}).get("versions", {})
    version = versions.get("keras", versions.get("tf_keras"))
    if is_another(version):
        return (
            f"They were written by Keras {version}, whose layers may have others. Nothing was changed.\n{what_to_set()}"
        )
    return "Make the model as it was when they were saved. Nothing was changed."


def _values_in(path: str) -> list[np.ndarray[Any, Any]]:
    """Return the values in a file that are no optimizer's and, as Keras 2 has them too, no metric's."""
    found: list[np.ndarray[Any, Any]] = []

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("optimizer/", "metrics/")):
            found.append(item[()])

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def _fingerprint(value: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return (value.shape, value.dtype.itemsize, hashlib.sha256(value.tobytes()).hexdigest())


@contextmanager
def _left_alone(model: keras.Model) -> Iterator[None]:
    """Let optimizer and metrics be: Keras' file has values of them as well, or of Keras 2 it must have."""
    optimizer = optimizer_of(model)
    objects = [optimizer, getattr(optimizer, "inner_optimizer", None), *model.metrics]
    objects = [each for each in objects if each is not None]
    for each in objects:
        object.__setattr__(each, "load_own_variables", lambda store: None)
    try:
        yield
    finally:
        for each in objects:
            object.__delattr__(each, "load_own_variables")
