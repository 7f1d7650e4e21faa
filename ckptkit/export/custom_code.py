"""A user's own layers, losses, metrics and functions: which ones a model has, and what to say when one is missing.

found = custom_objects_of(model)          # {"Scale": <class Scale>, "my_loss": <function my_loss>}
homes = homes_of(found)                   # {"Scale": ["mylayers", "Scale", "/src"]}, None if one is not importable
why_not_revived(model)                    # None, or which class cannot be made again from its config
with explained("model.keras"):
    keras.models.load_model("model.keras")

Source: keras/src/saving/serialization_lib.py of Keras 3.15 and tf_keras 2.21; tests/test_custom_code.py and
tests/test_artifacts.py fail if their words change.
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
from ckptkit.which_keras import IS_LEGACY, keras

__all__ = ["custom_objects_of", "explained", "homes_of", "refuse_code", "require_layers", "why_not_revived"]

_MISSING = re.compile(
    r"Could not locate (?:class|function) '([\w.>]+)'|Unknown [\w ]+: '?\"?([\w.>]+)|"
    r"Could not deserialize (?:class|function) '([\w.>]+)'|"
    r"identifier: {[^{}]*'class_name': '([\w.>]+)'|"
    # Keras 2 on layers, what layers are made with, and functions.
    r"layer=([\w.>]+) of type <class 'str'>|Cannot deserialize object of type `([\w.>]+)`|"
    r"'config': '([\w.>]+)', 'registered_name': 'function'}' cannot be deserialized"
)
_KINDS = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
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
        is_own = kind.from_config.__func__ not in (
            keras.layers.Layer.from_config.__func__,
            keras.Model.from_config.__func__,
        )
        if is_own:
            continue
        needed = [each.name for each in takes if each.kind in _NAMED and each.default is inspect.Parameter.empty]
        lacking = [name for name in needed[1:] if name not in config]
        if lacking:
            return (
                f"{kind.__name__} cannot be made again from its config, which lacks {', '.join(lacking)}: return "
                "what its __init__ needs from get_config()"
            )
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes):
            continue
        unknown = sorted(config.keys() - {each.name for each in takes} - {"name"})
        if unknown:
            return (
                f"{kind.__name__} cannot be made again from its config, because its __init__ does not take "
                f"{', '.join(unknown)}: let it take **kwargs and pass them to super().__init__(**kwargs)"
            )
    return None


def refuse_code(config: Any, safe_mode: bool) -> None:
    """Refuse a description that holds code, in the words of Keras; Keras 2 does not look at those of its older files.

    Raises:
        ValueError: It does, and ``safe_mode`` is on.
    """
    if safe_mode and _holds_code(config):
        raise ValueError("It holds a lambda; pass safe_mode=False to load it.")


def require_layers(config: Any, custom_objects: Mapping[str, Any] | None) -> None:
    """Refuse a description with a layer that is not here, which Keras 2 makes its own name of and then calls.

    Raises:
        TypeError: There is one, in the words of Keras.
    """
    known = {**keras.saving.get_custom_objects(), **(custom_objects or {})}
    for layer in _layers_in(config) if IS_LEGACY else ():
        names = {layer.get("class_name"), layer.get("registered_name")}
        if str(layer.get("module", "keras")).split(".")[0] not in ("keras", "tf_keras") and not names & known.keys():
            raise TypeError(f"Could not locate class '{layer.get('class_name')}'")


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


def _holds_code(config: Any) -> bool:
    if isinstance(config, dict):
        is_code = config.get("function_type") == "lambda" or config.get("class_name") == "__lambda__"
        return is_code or any(map(_holds_code, config.values()))
    return isinstance(config, list) and any(map(_holds_code, config))


def _layers_in(config: Any) -> Iterator[Mapping[str, Any]]:
    inside = config.get("config") if isinstance(config, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict):
            yield layer
            yield from _layers_in(layer)


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
    return isinstance(value, _KINDS)


def _is_known(kind: Any) -> bool:
    home, name = str(getattr(kind, "__module__", "") or ""), getattr(kind, "__name__", "")
    if home == "builtins":  # also what exec() makes
        return getattr(builtins, name, None) is kind
    return home.split(".")[0] in ("keras", "tf_keras", "numpy", "tensorflow") or name == "<lambda>"
