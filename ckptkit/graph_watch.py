"""Whether the objects below a checkpoint are still those that were collected, asked in microseconds a variable.

    watch = GraphWatch(objects, children_of)    # of everything that was reached
    watch.is_unchanged()                        # False: a layer was added, an optimizer built, a list has grown

Collecting an object graph is the dear part of a save, 0.1 ms a variable, and it comes out the same nearly every time.
What it is made of is cheap to compare: the attributes of Keras objects by identity, lists and dicts in them by their
items, the children that TensorFlow names for everything else, and what a class of the user's computes in its own way.
Nothing that is compared can have gone and left its place in memory to something new, because the watch holds it.

All that takes as long as it does because of what does not matter: numbers, names and functions among the attributes. So
it is asked first whether anything at all was put in another's place, and only if so, whether that matters.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from ckptkit.contents import Contents
from ckptkit.which_keras import (
    CONTAINERS,
    SEED_GENERATORS,
    SLOT_OPTIMIZERS,
    WRAPPERS,
    counts_of,
    keras,
    unwrapped,
    variables_of,
)

__all__ = ["GraphWatch"]

# Whose attributes lead on: to layers and variables, or like a metric to what comes into being at the first step.
_OWNERS = (
    keras.layers.Layer,
    keras.optimizers.Optimizer,
    keras.metrics.Metric,
    keras.losses.Loss,
    *SEED_GENERATORS,
    *SLOT_OPTIMIZERS,
    *CONTAINERS,
)
_VARIABLES = (*WRAPPERS, tf.Variable)
_TRACKABLE = tf.__internal__.tracking.Trackable
# What Keras computes from attributes, and a class of the user's may compute in its own way.
_COMPUTED = ("variables", "metrics_variables", "metrics", "_flatten_layers", "_layers", "_trackable_children")


class GraphWatch:
    """Remembers what an object graph was collected from.

    Args:
        objects: Everything that was reached; variables among them.
        children_of: Returns an object's TensorFlow children by name.
    """

    def __init__(self, objects: Iterable[Any], children_of: Callable[[Any], Mapping[str, Any]]) -> None:
        self._children_of = children_of
        objects = list(objects)
        self._values = [(item, unwrapped(item)) for item in objects if isinstance(item, WRAPPERS)]
        self._tracked: list[tuple[Any, list[str], list[Any]]] = []
        self._owners: list[tuple[Any, list[Any]]] = []
        self._asked: list[tuple[Any, list[str], list[Any]]] = []  # of the tracked, those that tell only when asked
        seen: set[int] = set()
        for item in objects:  # grows: what an attribute leads to has attributes of its own
            if id(item) in seen or isinstance(item, _VARIABLES):
                continue
            seen.add(id(item))
            if isinstance(item, _OWNERS):
                attributes = _attributes(item)
                self._owners.append((item, attributes))
                objects.extend(found for found in attributes if isinstance(found, _OWNERS))
            if not isinstance(item, _OWNERS) or _computes(type(item)):
                self._tracked.append((item, *self._tracked_by(item)))
                if not _is_wrapper(item):
                    self._asked.append(self._tracked[-1])
        self._contents = Contents(self._containers())

    def is_unchanged(self) -> bool:
        """Say whether the same objects would be collected again. When in doubt they are said to have changed."""
        if self._contents.are_same() and all(self._has(*each) for each in self._asked):
            return True
        if not (
            all(unwrapped(item) is inside for item, inside in self._values)
            and all(_same(_attributes(owner), before) for owner, before in self._owners)
            and all(self._has(*each) for each in self._tracked)
        ):
            return False
        self._contents = Contents(self._containers())
        return True

    def _containers(self) -> Iterator[Any]:
        """Yield every container that decides what is collected."""
        yield from (vars(item) for item, _ in self._values)
        for owner, _ in self._owners:
            yield vars(owner)
            for name, value in vars(owner).items():
                if name not in _PASSING:
                    yield from _containers_in(value)
        for item, _, _ in self._tracked:
            yield from _containers_in(item)

    def _has(self, item: Any, names: list[str], before: list[Any]) -> bool:
        now, found = self._tracked_by(item)
        return now == names and _same(found, before)

    def _tracked_by(self, item: Any) -> tuple[list[str], list[Any]]:
        children = self._children_of(item) if isinstance(item, _TRACKABLE) else {}
        found = list(children.values())
        if isinstance(item, _OWNERS):
            found += [*variables_of(item), *counts_of(item)]
        elif hasattr(item, "_create_or_restore_slot_variable"):
            found += _attributes(item)  # slots of optimizers that are not Keras 3's are no children
        return list(children), found


def _same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _attributes(owner: Any) -> list[Any]:
    """Return the names of an object's attributes and, in them, in lists and in dicts, what could be saved."""
    attributes = vars(owner)
    found: list[Any] = []
    for name, value in attributes.items():
        look = _LOOK[type(value)]
        if look is not None and name not in _PASSING:
            found.append(name)
            look(value, found)
    return found


def _take(value: Any, found: list[Any]) -> None:
    found.append(value)


def _take_and_look_into(value: Any, found: list[Any]) -> None:
    found.append(value)
    # TensorFlow's wrappers pretend to be what they wrap, and do not see into Keras' containers in it.
    if isinstance(value, dict):
        _look_into_dict(value, found)
    elif isinstance(value, (list, tuple)):
        _look_into_items(value, found)


def _look_into_items(values: Iterable[Any], found: list[Any]) -> None:
    start, passed = len(found), 0
    for value in values:
        look, before = _LOOK[type(value)], len(found)
        if look is not None:
            look(value, found)
        if len(found) == before:
            passed += 1  # moves the places of those that follow, and only these: a history may grow
        elif passed:
            found[before:before] = [None] * passed
            passed = 0
    if len(found) > start:
        found.append(_END)  # ([a], b) is not (a, [b])


def _look_into_dict(values: Mapping[Any, Any], found: list[Any]) -> None:
    start = len(found)
    for key, value in values.items():
        look = _LOOK[type(value)]
        if look is not None:
            found.append(key)
            before = len(found)
            look(value, found)
            if len(found) == before:
                found.pop()
    if len(found) > start:
        found.append(_END)


def _containers_in(value: Any) -> Iterator[Any]:
    """Yield a value if it is looked into, and what in it is."""
    if _LOOK[type(value)] not in (None, _take) and isinstance(value, (dict, list, tuple)):
        yield value
        if isinstance(value, list) and hasattr(value, "__dict__"):
            yield vars(value)  # TensorFlow's remembers how it was changed
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers_in(item)


def _is_wrapper(item: Any) -> bool:
    """Say whether an object is TensorFlow's wrapper of a list, tuple or dict: it tracks what it contains."""
    return isinstance(item, (dict, list, tuple)) and _is_theirs(type(item))


def _computes(kind: type[Any]) -> bool:
    """Say whether a class of the user's computes in its own way what Keras computes from attributes."""
    return not all(_is_theirs(getattr(kind, name, None)) for name in _COMPUTED)


def _is_theirs(member: Any) -> bool:
    module = getattr(getattr(member, "fget", member), "__module__", None)
    return member is None or str(module).partition(".")[0] in ("keras", "tf_keras", "tensorflow")


class _Looks(dict[type[Any], Any]):
    """How to look at a value, by its type; None for what leads to nothing that could be saved."""

    def __missing__(self, kind: type[Any]) -> Any:
        if issubclass(kind, (*_OWNERS, *_VARIABLES)):
            look: Any = _take
        elif issubclass(kind, _TRACKABLE):
            look = _take_and_look_into
        elif issubclass(kind, dict):
            look = _look_into_dict
        else:
            look = _look_into_items if issubclass(kind, (list, tuple)) else None
        self[kind] = look
        return look


_LOOK = _Looks()
_END = object()
# Losses of the last call; and TensorFlow's list of children, which it has by name as well.
_PASSING = frozenset({"_losses", "_self_unconditional_checkpoint_dependencies", "_inbound_nodes", "_outbound_nodes"})
