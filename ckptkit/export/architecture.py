"""A model's architecture as text, without weights and without what it was compiled with: JSON, or the same as YAML.

text = model_to_yaml(model)
model_from_yaml(text)                          # built, with fresh weights, not compiled
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ckptkit.errors import ArtifactError
from ckptkit.export.built import shape_told
from ckptkit.export.custom_code import explained, require_layers
from ckptkit.export.origin import refuse_another
from ckptkit.which_keras import keras

__all__ = ["KINDS", "model_from_json", "model_from_yaml", "model_to_json", "model_to_yaml", "read", "write"]


def model_to_json(model: keras.Model, *, indent: int | None = None) -> str:
    """Return a model's architecture as JSON.

    Args:
        model: A model.
        indent: Blanks by which each level is moved in; None for a single line.

    Example:
        >>> text = ckptkit.model_to_json(model)
        >>> ckptkit.model_from_json(text).count_params() == model.count_params()
        True
    """
    return json.dumps(_config(model), indent=indent)


def model_to_yaml(model: keras.Model) -> str:
    """Return a model's architecture as YAML that any reader takes.

    These are plain values, in the order of the JSON.

    Args:
        model: A model.

    Example:
        >>> text = ckptkit.model_to_yaml(model)
        >>> text.splitlines()[1]
        'class_name: Sequential'
    """
    return yaml.safe_dump(_config(model), sort_keys=False, allow_unicode=True)


def model_from_json(
    text: str,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Make a new model of JSON, by ``model_to_json`` or by Keras' ``model.to_json()``.

    Args:
        text: The JSON.
        custom_objects: Your own classes and functions by name, if they are not registered.
        safe_mode: Whether code in the text, such as a Lambda layer's, is refused.

    Returns:
        The model, built if it was, with fresh weights, not compiled.

    Raises:
        ArtifactError: It is no architecture, or needs what is not here.

    Example:
        >>> again = ckptkit.model_from_json(model.to_json())
        >>> again.compile("adam", "mse")
    """
    return _model(_parsed("json", text, "the text"), custom_objects, safe_mode, "text", "model_from_json")


def model_from_yaml(
    text: str,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Make a new model of YAML, by ``model_to_yaml`` or by Keras 2's ``model.to_yaml()``.

    Args:
        text: The YAML; tags that would make Python objects are refused.
        custom_objects: Your own classes and functions by name, if they are not registered.
        safe_mode: Whether code in the text, such as a Lambda layer's, is refused.

    Returns:
        The model, built if it was, with fresh weights, not compiled.

    Raises:
        ArtifactError: It is no architecture, or needs what is not here.

    Example:
        >>> again = ckptkit.model_from_yaml(ckptkit.model_to_yaml(model))
        >>> again.count_params() == model.count_params()
        True
    """
    return _model(_parsed("yaml", text, "the text"), custom_objects, safe_mode, "text", "model_from_yaml")


_WRITERS: dict[str, Callable[[keras.Model], str]] = {
    "json": lambda model: model_to_json(model, indent=2) + "\n",
    "yaml": model_to_yaml,
}
_PARSERS: dict[str, Callable[[str], Any]] = {"json": json.loads, "yaml": yaml.safe_load}
KINDS = frozenset(_WRITERS)
_MODULES_OF_KERAS_2 = {"Sequential": "keras", "Functional": "keras.src.engine.functional", "Model": "keras"}


def write(model: keras.Model, path: str, kind: str) -> None:
    """Write a model's architecture to a new file of a kind, ``json`` or ``yaml``."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(_WRITERS[kind](model))


def read(path: str, kind: str, *, custom_objects: Mapping[str, Any] | None = None, safe_mode: bool = True) -> Any:
    """Make a new model of such a file.

    Raises:
        ArtifactError: It is no architecture, or needs what is not here.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return _model(_parsed(kind, text, path), custom_objects, safe_mode, path, "load_architecture")


def _config(model: keras.Model) -> dict[str, Any]:
    with shape_told(model):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    config.pop("compile_config", None)
    return {**config, "keras_version": keras.__version__}


def _parsed(kind: str, text: str, source: str) -> Any:
    try:
        return _PARSERS[kind](text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # Among them the safe loader's, of tags that would make Python objects.
        raise ArtifactError(f"{source} is not plain {kind.upper()}: {error}") from error


def _model(config: Any, custom_objects: Mapping[str, Any] | None, safe_mode: bool, source: str, call: str) -> Any:
    if not isinstance(config, dict) or "class_name" not in config:
        raise ArtifactError(f"{source} describes no Keras model: there is no class_name at its top.")
    refuse_another(source, config.get("keras_version"))
    config = {key: value for key, value in config.items() if key != "compile_config"}
    if "module" not in config:  # by Keras 2's own to_json
        name = config["class_name"]
        config |= {"module": _MODULES_OF_KERAS_2.get(name), "registered_name": name}
    with explained(source, call):
        require_layers(config, custom_objects)
        return keras.saving.deserialize_keras_object(config, dict(custom_objects or {}), safe_mode=safe_mode)
