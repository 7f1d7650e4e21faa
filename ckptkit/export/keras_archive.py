"""Keras' own archive: one ``.keras`` file with architecture, weights, compile config and the optimizer's state.

    keras_archive.write(model, "model.keras")
    keras_archive.read("model.keras")

A member of our own, ``ckptkit/state.npz``, holds what Keras leaves out: the seeds of Dropout and its like, and of Keras
2 the learning rate and some more. Keras does not look at it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from ckptkit.export.built import shape_told
from ckptkit.export.compiled import build, is_built, left_out_of, optimizer_of, without_slots
from ckptkit.export.custom_code import explained, require_layers
from ckptkit.export.origin import refuse_another
from ckptkit.export.state import assign, has_seeds_in_variables, no_weights, seeds_in_variables, to_arrays
from ckptkit.which_keras import keras

__all__ = ["read", "write"]

_STATE = "ckptkit/state.npz"
_METADATA, _CONFIG = "metadata.json", "config.json"  # Keras' own
_OPTIMIZER = "optimizer/"
_NOT_BUILT = "optimizer_is_not_built"
_SEEDS_ELSEWHERE = "seeds_are_not_in_variables"  # of Keras 2


def write(model: keras.Model, path: str) -> None:
    """Write a model to a new ``.keras`` file."""
    with shape_told(model):
        model.save(path)
    content = io.BytesIO()
    state = to_arrays(no_weights(model))
    optimizer = optimizer_of(model)
    if optimizer is not None and is_built(optimizer):
        state |= {f"{_OPTIMIZER}{place}": value for place, value in to_arrays(left_out_of(optimizer)).items()}
    elif optimizer is not None:
        state[_NOT_BUILT] = np.array(True)
    if not has_seeds_in_variables():
        state[_SEEDS_ELSEWHERE] = np.array(True)
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
            refuse_another(inside or path, json.loads(archive.read(_METADATA)).get("keras_version"))
            require_layers(json.loads(archive.read(_CONFIG)), custom_objects)
            content = archive.read(_STATE) if _STATE in archive.namelist() else None
        state = {} if content is None else dict(np.load(io.BytesIO(content)))
        ours = content is not None
        seeds = seeds_in_variables(not state.pop(_SEEDS_ELSEWHERE, False)) if ours else nullcontext()
        with seeds, without_slots() if state.pop(_NOT_BUILT, False) else nullcontext():
            model = keras.saving.load_model(path, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode)
        of_optimizer = {name[len(_OPTIMIZER) :]: state.pop(name) for name in [*state] if name.startswith(_OPTIMIZER)}
        if ours:
            assign(no_weights(model), state, path)
        optimizer = optimizer_of(model)
        if optimizer is not None and of_optimizer:
            build(optimizer, model.trainable_variables)
            assign(left_out_of(optimizer), of_optimizer, path)
    return model
