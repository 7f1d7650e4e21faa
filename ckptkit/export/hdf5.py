"""HDF5, one file with architecture, weights, compile config and the optimizer's state.

    hdf5.write(model, "model.h5")
    hdf5.read("model.h5")

The file is Keras' own with one thing put right, which plain Keras benefits from as well: a loss that was given by a
short name is written by its full one, which Keras can read back. What Keras leaves out lies in a group of our own:

    /ckptkit/architecture        JSON, whole: Keras' own there takes the operation Add for the layer of that name
    /ckptkit/compile_config      JSON, whole: steps_per_execution, weighted metrics, custom losses …
    /ckptkit/variables/0 …       what is no weight, such as the seeds of Dropout
    /ckptkit/optimizer/0 …       the optimizer's variables in their order: the very ones in Keras' group, by hard links;
                                 none if it was not built yet

Source: keras/src/legacy/saving of Keras 3.15; tests/test_formats.py fails if it works differently.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from ckptkit.errors import ArtifactError
from ckptkit.export.custom_code import explained
from ckptkit.export.state import assign, no_weights, to_arrays
from ckptkit.which_keras import keras

__all__ = ["has_assets", "is_weights_alone", "read", "refusal", "write"]

_OURS = "ckptkit"
_log = logging.getLogger("ckptkit")


def write(model: keras.Model, path: str) -> None:
    """Write a Sequential or functional model to a new ``.h5`` file.

    Keras' own saver takes the optimizer out of the live model's compile config, after which a ``.keras`` file of it
    loads with another optimizer. It is put back.

    Raises:
        ValueError: The model is of another kind.
    """
    reason = refusal(model)
    if reason is not None:
        raise ValueError(reason)
    said = logging.getLogger("absl")
    level = said.level
    with _compile_config_kept(model):
        try:
            said.setLevel(logging.ERROR)  # Keras advises against the format, by a log of its own
            model.save(path)
        finally:
            said.setLevel(level)
    with h5py.File(path, "r+") as file:
        _use_names_that_keras_reads(file)
        ours = file.create_group(_OURS)
        for name, variables in _variables(model).items():
            group = ours.create_group(name)
            for variable, (place, value) in zip(variables, to_arrays(variables).items()):
                group[place] = _known(file, variable.path, value)
        ours["architecture"] = json.dumps({**json.loads(model.to_json()), "compile_config": None})
        if model.compiled:
            ours["compile_config"] = json.dumps(model.get_compile_config())


def read(
    path: str, *, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, safe_mode: bool = True
) -> Any:
    """Load a model from a ``.h5`` file, of ours, of Keras 3's or of Keras 2's.

    Raises:
        ArtifactError: It is no such file, or needs what is not here.
    """
    try:
        with h5py.File(path) as file:
            is_ours = _OURS in file
    except OSError as error:
        raise ArtifactError(f"{path} is no HDF5 file that can be read: {error}") from error
    with explained(path):
        if not is_ours:
            return _read_foreign(path, custom_objects, compile, safe_mode)
        with keras.saving.custom_object_scope(dict(custom_objects or {})), h5py.File(path) as file:
            ours = file[_OURS]
            model = keras.saving.deserialize_keras_object(json.loads(ours["architecture"][()]), safe_mode=safe_mode)
            with _under_its_ending(path) as link:
                model.load_weights(link)
            if compile and "compile_config" in ours:
                config = json.loads(ours["compile_config"][()])
                model.compile(**keras.saving.deserialize_keras_object(config, safe_mode=safe_mode))
                if model.optimizer is not None:
                    model.optimizer.build(model.trainable_variables)
            for name, variables in _variables(model).items():
                if name == "variables" or (model.compiled and len(ours[name])):
                    assign(variables, ours[name], path)
    return model


def is_weights_alone(path: str) -> bool:
    """Say whether a HDF5 file describes no model.

    Raises:
        ArtifactError: It cannot be read.
    """
    try:
        with h5py.File(path) as file:
            return "model_config" not in file.attrs
    except OSError as error:
        raise ArtifactError(f"{path} is no HDF5 file that can be read: {error}") from error


def refusal(model: keras.Model) -> str | None:
    """Say why a model cannot be written as HDF5, None if it can."""
    scalar = keras.Input((1,))
    functional = type(keras.Model(scalar, keras.layers.Identity()(scalar)))
    if type(model) not in (keras.Sequential, functional):
        return (
            f"HDF5 holds Sequential and functional models; {type(model).__name__} is a subclass with code of its own. "
            'Save it as "keras" or "saved_model"'
        )
    for layer in model._flatten_layers():
        if has_assets(layer):
            return (
                f"HDF5 has no place for what {layer.name} has learnt beside its weights, such as a vocabulary. Give it "
                'that when it is made (vocabulary=…), or save the model as "keras" or "saved_model"'
            )
    return None


def has_assets(layer: keras.Layer) -> bool:
    """Say whether a layer has learnt something beside its weights, such as a vocabulary."""
    if not hasattr(layer, "save_assets"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        return bool(os.listdir(folder))


@contextmanager
def _compile_config_kept(model: keras.Model) -> Iterator[None]:
    config = None if getattr(model, "_compile_config", None) is None else model._compile_config.config
    kept = None if config is None else dict(config)
    try:
        yield
    finally:
        if config is not None:
            config.clear()
            config.update(kept)


def _variables(model: keras.Model) -> dict[str, list[Any]]:
    optimizer = model.optimizer if model.compiled else None
    state = list(optimizer.variables) if optimizer is not None and optimizer.built else []
    return {"variables": no_weights(model), "optimizer": state}


def _known(file: h5py.File, path: str, value: Any) -> Any:
    """Return Keras' own dataset of the same value, which then has two names, or the value."""
    by_keras = file.get(f"optimizer_weights/{path}")
    return by_keras if isinstance(by_keras, h5py.Dataset) and np.array_equal(by_keras[()], value) else value


@contextmanager
def _under_its_ending(path: str) -> Iterator[str]:
    """Give a path to the same file that ends in ``.h5``: Keras goes by the ending."""
    if path.endswith((".h5", ".hdf5")):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "model.h5")
        os.symlink(os.path.abspath(path), link)
        yield link


def _read_foreign(path: str, custom_objects: Mapping[str, Any] | None, compile: bool, safe_mode: bool) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, os.path.join(folder, "model.h5"))
        with h5py.File(copy, "r+") as file:
            _use_names_that_keras_reads(file)
            state = file.pop("optimizer_weights", None)  # Keras makes slots for what lies outside of layers alone
            state = None if state is None else [state[name][()] for name in _names_in(state)]
        model = keras.saving.load_model(copy, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode)
    if compile and state is not None and model.compiled:
        _take_state(model, state, path)
    return model


def _names_in(group: h5py.Group) -> list[str]:
    """Return the names of a group's values in their order; Keras spreads a long list over several attributes."""
    parts = [group.attrs.get("weight_names", ())]
    while (part := group.attrs.get(f"weight_names{len(parts) - 1}")) is not None:
        parts.append(part)
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]


def _take_state(model: keras.Model, state: Sequence[Any], path: str) -> None:
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = model.optimizer.variables
    if [np.shape(value) for value in state] == [tuple(variable.shape) for variable in variables]:
        for variable, value in zip(variables, state):
            variable.assign(value)
        return
    _log.warning(
        "the optimizer of %s starts afresh: the file holds %d values of it, as Keras 2 has them, and %s of Keras %s "
        "takes %d.",
        path,
        len(state),
        type(model.optimizer).__name__,
        keras.__version__,
        len(variables),
    )


def _use_names_that_keras_reads(file: h5py.File) -> None:
    text = file.attrs.get("training_config")
    if text is None:
        return
    config = json.loads(text)
    config["loss"] = _loss_that_keras_reads(config.get("loss"))
    for name in ("metrics", "weighted_metrics"):
        config[name] = _by_name(config.get(name))
    file.attrs["training_config"] = json.dumps(config)


def _loss_that_keras_reads(loss: Any) -> Any:
    """Give names in full, which Keras reads back, and losses of Keras 2 the words that Keras 3 has for them."""
    if isinstance(loss, str):
        return _full_name(loss)
    if isinstance(loss, list):
        return [_loss_that_keras_reads(each) for each in loss]
    if not isinstance(loss, dict):
        return loss
    if "class_name" not in loss:
        return {output: _loss_that_keras_reads(each) for output, each in loss.items()}
    config = loss.get("config")
    if not isinstance(config, dict) or config.get("reduction") != "auto":
        return loss
    kept = {name: value for name, value in config.items() if name != "fn"}
    return {**loss, "config": {**kept, "reduction": "sum_over_batch_size"}}


def _full_name(loss: str) -> str:
    try:
        return str(getattr(keras.losses.get(loss), "__name__", loss))
    except ValueError:  # not Keras' own
        return loss


def _by_name(metrics: Any) -> Any:
    """Replace each wrapped function, as Keras 2 writes a metric that was given by a name, by that name."""
    if isinstance(metrics, list):
        return [_by_name(each) for each in metrics]
    if not isinstance(metrics, dict):
        return metrics
    config = metrics.get("config")
    if (
        metrics.get("class_name") == "MeanMetricWrapper"
        and isinstance(config, dict)
        and isinstance(config.get("fn"), str)
    ):
        return config["name"] if _is_metric(config["name"]) else config["fn"]
    return {name: _by_name(each) if name != "config" else each for name, each in metrics.items()}


def _is_metric(name: str) -> bool:
    try:
        return name in ("accuracy", "acc", "crossentropy", "ce") or keras.metrics.get(name) is not None
    except ValueError:
        return False
