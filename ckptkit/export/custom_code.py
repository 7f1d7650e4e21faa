"""A user's own layers, losses, metrics and functions: which ones a model has, and what to say when one is missing.

found = custom_objects_of(model)          # {"Scale": <class Scale>, "my_loss": <function my_loss>}
homes = homes_of(found)                   # {"Scale": ["mylayers", "Scale", "/src"]}, None if one is not importable
why_not_revived(model)                    # None, or which class cannot be made again from its config
with explained("model.keras"):
    keras.models.load_model("model.keras")

Source: keras/src/saving/serialization_lib.py of Keras 3.15; tests/test_custom_code.py fails if its words change.
"""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ckptkit.errors import ArtifactError
from ckptkit.which_keras import keras

__all__ = ["custom_objects_of", "explained", "homes_of", "why_not_revived"]

_MISSING = re.compile(
    r"Could not locate (?:class|function) '([\w.>]+)'|Unknown [\w ]+: '?\"?([\w.>]+)|"
    r"Could not deserialize (?:class|function) '([\w.>]+)'"
)
_UNSAFE = re.compile(r"safe_mode=False|unsafe_deserialization")


def custom_objects_of(model: keras.Model) -> dict[str, Any]:
    """Return the classes and functions of a model that are not Keras' own, by the name they are stored under."""
    found: dict[str, Any] = {}
    for each in _parts(model):
        kind = each if _is_code(each) else type(each)
        if not _is_known(kind):
            found[keras.saving.get_registered_name(kind).split(">")[-1]] = kind
    return found


def homes_of(objects: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Return module, name and folder that another process gets each object from; None if one has no such place.

    A module that is being imported right now has none either: importing it would run again what is running.
    """
    homes = {}
    for name, each in objects.items():
        home = str(getattr(each, "__module__", None))
        module = sys.modules.get(home)
        called = each.__qualname__
        under_way = getattr(getattr(module, "__spec__", None), "_initializing", False)
        if module is None or home == "__main__" or under_way or getattr(module, called, None) is not each:
            return None
        try:
            spec = importlib.util.find_spec(home)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            return None
        above = home.count(".") + (2 if os.path.basename(spec.origin) == "__init__.py" else 1)
        folder = os.path.abspath(spec.origin)
        for _ in range(above):
            folder = os.path.dirname(folder)
        homes[name] = [home, called, folder]
    return homes


def why_not_revived(model: keras.Model) -> str | None:
    """Say which class of a model Keras cannot make again from its config, and what to do; None if there is none."""
    for layer in model._flatten_layers():
        kind = type(layer)
        if _is_known(kind):
            continue
        try:
            config = layer.get_config()
        except NotImplementedError as error:
            return " ".join(str(error).split()).split(" Please implement")[0] or f"{kind.__name__} has no get_config()"
        takes = inspect.signature(kind.__init__).parameters.values()
        is_own = kind.from_config.__func__ not in (keras.Layer.from_config.__func__, keras.Model.from_config.__func__)
        if is_own or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes):
            continue
        unknown = sorted(config.keys() - {each.name for each in takes} - {"name"})
        if unknown:
            return (
                f"{kind.__name__} cannot be made again from its config, because its __init__ does not take "
                f"{', '.join(unknown)}: let it take **kwargs and pass them to super().__init__(**kwargs)"
            )
    return None


@contextmanager
def explained(path: str, call: str = "load_model") -> Iterator[None]:
    """Say in an error of Keras' which class or function is missing, and the line to add; or that code was refused.

    Raises:
        ArtifactError: In the place of Keras' errors.
    """
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        text = "\n".join(str(each) for each in _chain(error))
        missing = [name.split(">")[-1] for names in _MISSING.findall(text) for name in names if name]
        if _UNSAFE.search(text):
            raise ArtifactError(
                f"{path} holds code, such as a Lambda layer's, and loading it would run it: refused.\n"
                f"If you trust whoever made the file: ckptkit.{call}({path!r}, safe_mode=False)."
            ) from error
        if missing:
            name = missing[0]
            raise ArtifactError(
                f"{path} needs {name!r}, which is not Keras' own and not registered here. Add it:\n"
                f"  ckptkit.{call}({path!r}, custom_objects={{{name!r}: {name}}})\n"
                "or put @keras.saving.register_keras_serializable() before its definition, and import that first."
            ) from error
        said = str(list(_chain(error))[-1]).strip().split("\n")[0] or type(error).__name__
        raise ArtifactError(f"{path} cannot be loaded: {said}") from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        yield each
        each = each.__cause__ or each.__context__


def _parts(model: keras.Model) -> Iterator[Any]:
    """Everything that a model's description names: layers and what they are made with, losses, metrics, optimizer."""
    config = getattr(model, "_compile_config", None)
    compiled = [] if config is None else [model.optimizer, *_leaves(dict(config.config))]
    for each in [*model._flatten_layers(), *compiled]:
        yield each
        for inside in _leaves(getattr(each, "__dict__", {})):
            yield inside
            yield from _leaves(getattr(inside, "__dict__", {}) if _is_keras(inside) else {})


def _leaves(value: Any) -> Iterator[Any]:
    """Classes, functions and objects of Keras' kinds in a value and in its lists and dicts."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif _is_code(value) or _is_keras(value):
        yield value


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__"))


def _is_keras(value: Any) -> bool:
    kinds = (keras.Layer, keras.Loss, keras.Metric, keras.Optimizer, keras.Initializer, keras.Regularizer)
    schedules = keras.optimizers.schedules.LearningRateSchedule
    return isinstance(value, (*kinds, schedules, keras.constraints.Constraint))


def _is_known(kind: Any) -> bool:
    home, name = str(getattr(kind, "__module__", "") or ""), getattr(kind, "__name__", "")
    if home == "builtins":  # also what exec() makes
        return getattr(builtins, name, None) is kind
    return home.split(".")[0] in ("keras", "numpy", "tensorflow") or name == "<lambda>"
