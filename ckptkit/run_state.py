"""Where a run of ``model.fit`` stands, beside the values of its variables.

    state = RunState((FitState(epoch=3, batch=120, history={"loss": [0.9, 0.5, 0.4]}, epochs=(0, 1, 2)),))
    RunState.from_values(state.to_values()) == state

A script may call ``fit`` several times on one model; each call has a state, and the last one is under way or over.
What is stored is one JSON text and the arrays that it refers to. Floats pass through unchanged: JSON holds the shortest
decimal that reads back as the same double. Nothing is pickled.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import Any

import numpy as np

from ckptkit.errors import CheckpointDamagedError

__all__ = ["FitState", "RunState", "pack", "unpack"]

_PLAIN = frozenset({int, float, bool, type(None)})
_MARK = "__ckptkit__"  # in place of a value that JSON does not know
_DTYPES = frozenset(  # of arrays that TensorFlow can store
    [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + ["bool", "string", "variant", "bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
    + ["complex64", "complex128"]
)
_SCALARS = "?bBhHiIlLqQefd"  # NumPy's numbers that a Python number holds exactly


@dataclass(frozen=True)
class FitState:
    """One call of ``fit``.

    Attributes:
        epoch: Epochs done.
        batch: Batches done in the epoch that follows.
        history: ``History.history``, a list a metric.
        epochs: ``History.epoch``, the numbers of the epochs in it.
        stopped: Whether a callback had set ``model.stop_training``.
        validating: Whether these batches are all of the epoch, and its validation has begun; the places in the data
            are those of the next epoch.
        logs: What the last train step returned, or the epoch before its validation, by name; empty at an epoch's end.
        random: State of the global random number generators.
        callbacks: State of the other callbacks, by name.
        inputs: Places in the training and validation data, by ``train`` and ``validation``.
        asked: Epochs that ``fit`` was asked for.
        model: What the model was compiled with, see :mod:`ckptkit.fit_model`.
    """

    epoch: int = 0
    batch: int = 0
    history: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    epochs: Sequence[int] = ()
    stopped: bool = False
    validating: bool = False
    logs: Mapping[str, Any] = field(default_factory=dict)
    random: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    asked: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)

    def is_over(self, epochs: int) -> bool:
        """Say whether a call that asks for so many epochs has nothing left to do."""
        return self.epoch >= epochs or (self.stops(epochs) and not self.validating)

    def stops(self, epochs: int) -> bool:
        """Say whether a callback's stop counts: it does as long as no more epochs are asked for than then."""
        return self.stopped and epochs <= self.asked

    def when_over(self) -> FitState:
        """Return what is still wanted of this fit when it is over: no logs of a step, and no iterators' states.

        But where batches do not tell how far the shuffles came, a state is what another fit of the same data needs.
        """
        inputs = {
            name: {**place, "state": () if place.get("is_counted", True) else place["state"]}
            for name, place in self.inputs.items()
        }
        return replace(self, inputs=inputs, logs={})


@dataclass(frozen=True)
class RunState:
    """All calls of ``fit`` so far, in order."""

    fits: tuple[FitState, ...] = ()

    def to_values(self, name: str = "run_state") -> dict[str, Any]:
        """Return the state as a JSON text under ``name`` and arrays under ``name/0``, ``name/1`` and so on."""
        return pack({"fits": [vars(fit) for fit in self.fits]}, name)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], name: str = "run_state") -> RunState:
        """Read what :meth:`to_values` returned; values may be bytes, arrays or tensors.

        Raises:
            CheckpointDamagedError: It is something else.
        """
        known = {each.name for each in fields(FitState)}  # a newer version may have more, of kinds we do not know
        load = _loader(values, name)
        with _readable(name):
            fits = json.loads(_plain(values[name]))["fits"]
            read = [FitState(**{key: _unpacked(fit[key], load) for key in fit if key in known}) for fit in fits]
            for fit in read:
                _require_kinds(fit)
        return cls(tuple(read))


def pack(value: Any, name: str) -> dict[str, Any]:
    """Turn a tree of plain values and arrays into a JSON text and arrays.

    Args:
        value: None, bool, int, float, str, bytes, NumPy and TensorFlow values, and lists, tuples and dicts of them.
        name: Key of the text; arrays go under ``name/0``, ``name/1`` …

    Raises:
        TypeError: There is something else in it; the message says where.
    """
    values: dict[str, Any] = {}

    def store(array: Any) -> int:
        values[f"{name}/{len(values)}"] = array
        return len(values) - 1

    text = json.dumps(_packed(value, "", store))
    return {name: text, **values}


def unpack(values: Mapping[str, Any], name: str) -> Any:
    """Turn what :func:`pack` returned back into the tree.

    Raises:
        CheckpointDamagedError: It is something else.
    """
    with _readable(name):
        return _unpacked(json.loads(_plain(values[name])), _loader(values, name))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        said = f"{type(error).__name__} {error}"
        raise CheckpointDamagedError(f"what was saved as {name!r} cannot be read: {said}.") from error


def _require_kinds(fit: FitState) -> None:
    kinds: dict[str, Any] = {"epoch": Integral, "batch": Integral, "asked": Integral, "epochs": Sequence}
    kinds |= dict.fromkeys(["history", "logs", "random", "callbacks", "inputs", "model"], Mapping)
    for name, kind in kinds.items():
        if not isinstance(getattr(fit, name), kind):
            raise TypeError(f"{name} is a {type(getattr(fit, name)).__name__}")


def _packed(value: Any, path: str, store: Callable[[Any], int]) -> Any:
    if isinstance(value, str):  # np.str_ and members of an enum are strings as well
        text = str.__str__(value)
        return text if text.isascii() else _with_surrogates(text)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, bytes):
        return {_MARK: "bytes", "value": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {_MARK: "tuple", "value": _packed_items(value, path, store)}
    if isinstance(value, list):
        return _packed_items(value, path, store)
    if isinstance(value, Mapping):
        where = f"a key of {path or 'the value'}"
        items = [[_packed(key, where, store), _packed(value[key], f"{path}[{key!r}]", store)] for key in value]
        if all(isinstance(key, str) and key != _MARK for key, _ in items):
            return dict(items)
        return {_MARK: "dict", "value": items}
    if isinstance(value, np.generic) and value.dtype.char in _SCALARS:
        return {_MARK: "scalar", "dtype": value.dtype.name, "value": value.item()}
    if _is_array(value):
        return {_MARK: "number" if isinstance(value, np.generic) else "array", "value": store(value)}
    for kind in (bool, int, float):
        if isinstance(value, kind) and not isinstance(value, np.generic):  # of a subclass, such as an enum's member
            return kind(value)
    raise TypeError(
        f"cannot store {path or 'the value'}: {type(value).__name__} is not a number, text, bytes, array, "
        "or a list, tuple or dict of these."
    )


def _packed_items(items: Sequence[Any], path: str, store: Callable[[Any], int]) -> list[Any]:
    if _PLAIN.issuperset(map(type, items)):  # the state of a random generator has hundreds, at every save
        return list(items)
    return [_packed(item, f"{path}[{at}]", store) for at, item in enumerate(items)]


def _unpacked(value: Any, load: Callable[[int], Any]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, load) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {key: _unpacked(item, load) for key, item in value.items()}
    inner = value["value"]
    if kind == "bytes":
        return base64.b64decode(inner)
    if kind == "text":
        return base64.b64decode(inner).decode("utf-8", "surrogatepass")
    if kind == "tuple":
        return tuple(_unpacked(item, load) for item in inner)
    if kind == "dict":
        return {_unpacked(key, load): _unpacked(item, load) for key, item in inner}
    if kind == "scalar":
        dtype = np.dtype(value["dtype"])
        if dtype.char not in _SCALARS:  # one of raw bytes would be as large as the number says
            raise ValueError(f"a number of dtype {dtype}")
        return dtype.type(inner)
    return load(inner)[()] if kind == "number" else load(inner)


def _with_surrogates(text: str) -> Any:
    # JSON would make one character of two surrogates that stand side by side.
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return {_MARK: "text", "value": base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()}


def _is_array(value: Any) -> bool:
    if isinstance(value, (type, np.ma.MaskedArray)) or not hasattr(value, "__array__"):
        return False
    return getattr(getattr(value, "dtype", None), "name", None) in _DTYPES


def _loader(values: Mapping[str, Any], name: str) -> Callable[[int], Any]:
    def load(number: int) -> Any:
        value = values[f"{name}/{number}"]
        if getattr(value.dtype, "name", None) in ("string", "variant"):
            return value  # a tensor of TensorFlow's; NumPy has no such types
        return np.array(value.numpy() if hasattr(value, "numpy") else value)  # a copy, which may be written to

    return load


def _plain(text: Any) -> str | bytes:
    return text if isinstance(text, (str, bytes)) else bytes(np.asarray(text)[()])
