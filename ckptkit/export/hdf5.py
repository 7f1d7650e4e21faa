"""HDF5, one file with architecture, weights and the optimizer's state.

hdf5.write(model, "export/model.h5")
keras.models.load_model("export/model.h5")
"""

from __future__ import annotations

import warnings

import keras

__all__ = ["refusal", "write"]


def write(model: keras.Model, path: str) -> None:
    """Write a Sequential or functional model to a new ``.h5`` file.

    Keras' own saver takes the optimizer out of the live model's compile config, after which a ``.keras`` file of it
    loads with another optimizer. It is put back.

    Source: keras/src/legacy/saving/saving_utils.py, ``model_metadata`` of Keras 3.15.
    """
    config = None if model._compile_config is None else model._compile_config.config
    kept = None if config is None else dict(config)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*HDF5 file.*")
            model.save(path)
    finally:
        if config is not None:
            config.clear()
            config.update(kept)


def refusal(model: keras.Model) -> str | None:
    """Say why a model cannot be written as HDF5, None if it can."""
    scalar = keras.Input((1,))
    functional = type(keras.Model(scalar, scalar))
    if isinstance(model, (keras.Sequential, functional)):
        return None
    return f"HDF5 holds Sequential and functional models; {type(model).__name__} is a subclass with code of its own"
