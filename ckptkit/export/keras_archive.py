"""Keras' own archive: one ``.keras`` file with architecture, weights, compile config and the optimizer's state.

    keras_archive.write(model, "model.keras")
    keras_archive.read("model.keras")

A member of our own, ``ckptkit/state.npz``, holds what Keras leaves out, such as the seeds of Dropout; Keras does not
look at it.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptkit.export.custom_code import explained
from ckptkit.export.state import assign, no_weights, to_arrays
from ckptkit.which_keras import keras

__all__ = ["read", "write"]

_STATE = "ckptkit/state.npz"
_NOT_BUILT = "optimizer_is_not_built"


def write(model: keras.Model, path: str) -> None:
    """Write a model to a new ``.keras`` file."""
    model.save(path)
    content = io.BytesIO()
    state = to_arrays(no_weights(model))
    if model.compiled and model.optimizer is not None and not model.optimizer.built:
        state[_NOT_BUILT] = np.array(True)
    np.savez(content, **state)  # type: ignore[arg-type]  # NumPy before 2.1 takes no allow_pickle
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_STATE, content.getvalue())


def read(
    path: str,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
    inside: str | None = None,
) -> Any:
    """Load a model from a ``.keras`` file.

    Args:
        path: The file.
        custom_objects: The user's own classes and functions by name.
        compile: Whether it is compiled as it was.
        safe_mode: Whether code in it is refused.
        inside: What to call it in errors: the SavedModel that it lies in.

    Raises:
        ArtifactError: It is no such file, or needs what is not here.
    """
    with explained(inside or path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read(_STATE) if _STATE in archive.namelist() else None
        state = {} if content is None else dict(np.load(io.BytesIO(content)))
        with warnings.catch_warnings():
            if state.pop(_NOT_BUILT, False):  # nothing is missing that was there
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(path, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode)
        if content is not None:
            assign(no_weights(model), state, path)
    return model
