"""What Keras keeps and TensorFlow's checkpoints do not see: layers in lists, seeds, metrics.

    found = untracked(children_of, root)     # {"model:blocks:0": <Block>, "model:drop:seed_generator": <Variable>}

``tf.train.Checkpoint`` follows the attributes that TensorFlow tracks. Keras 3 wraps lists and dicts in containers of
its own, which TensorFlow does not follow, and keeps seeds and metrics in objects that TensorFlow does not know. Names
are built from attributes and positions, not from Keras' variable paths: those count up (``dense_3``) and differ when
the same model is built twice in one process.

Source: seen on Keras 3.15 and TensorFlow 2.21; tests/test_untracked.py fails if it is not so any more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from ckptkit.which_keras import (
    SEED_GENERATORS,
    SLOT_OPTIMIZERS,
    WRAPPERS,
    builder_of,
    counts_of,
    is_built,
    keras,
    seed_of,
    unwrapped,
    variables_of,
)

__all__ = ["METRICS", "is_lazy", "is_unbuilt", "untracked", "when_built"]

METRICS = ":#metrics:"  # in the name of a metric's variable: these come and go with compile(), and may be missing
_OWNERS = (keras.layers.Layer, keras.optimizers.Optimizer)
_ITEMS = (*_OWNERS, *WRAPPERS, tf.Variable)
_BOOKKEEPING = frozenset(
    {"_tracker", "_inbound_nodes", "_outbound_nodes", "_metrics", "_losses", "_compile_metrics", "_loss_tracker"}
    # Of Keras 2: what compile() was told, and counters of fit and evaluate.
    | {"_steps_per_execution", "_train_counter", "_test_counter", "_predict_counter"}
)


def untracked(children_of: Callable[[Any], Mapping[str, Any]], root: Any) -> dict[str, Any]:
    """Find what is reachable through Keras from ``root``, and not through TensorFlow.

    Args:
        children_of: Returns an object's TensorFlow children by name.
        root: Where TensorFlow starts.

    Returns:
        A name for each layer or variable that has to be added so that everything is reached, in a fixed order.
    """
    walk = _Walk(children_of)
    walk.follow(root, "")
    found: dict[str, Any] = {}
    paths: dict[int, str] = {}
    for start, path_of_start in walk.owners:  # grows: what is found may own more that is not tracked
        # Named by the way through Keras' attributes, which is the same before and after the build; TensorFlow's is not.
        queue = [(start, path_of_start)] if id(start) not in paths else []
        for owner, path in queue:
            if id(owner) in paths:
                continue
            paths[id(owner)] = path
            for name, item in _members(owner):
                if id(item) not in walk.seen:
                    found[f"{path}:{name}"] = item
                    walk.follow(item, f"{path}:{name}")
                if isinstance(item, _OWNERS):
                    queue.append((item, f"{path}:{name}"))
    for owner, _ in walk.owners:
        for name, variable in _leftovers(owner):
            if not walk.has(variable):
                found[f"{paths[id(owner)]}:{name}"] = variable
                walk.follow(variable, "")
    return found


def is_unbuilt(owner: Any) -> bool:
    """Say whether an object is a Keras layer, model or optimizer that will make its variables when it is built."""
    return isinstance(owner, (*_OWNERS, *SLOT_OPTIMIZERS)) and not is_built(owner)


def is_lazy(owner: Any) -> bool:
    """Say whether an object is a module or TF 1 optimizer without variables, which it may make when it is called."""
    if isinstance(owner, tf.compat.v1.train.Optimizer):
        return not owner.variables()
    return isinstance(owner, tf.Module) and not isinstance(owner, (tf.Variable, *_OWNERS)) and not owner.variables


def when_built(owner: Any, then: Callable[[], None]) -> Callable[[], None]:
    """Call ``then`` once, outside of any graph, as soon as an unbuilt Keras object is built.

    Returns:
        Takes that back: Keras 2 builds a Sequential model without a call of its ``build()``.
    """
    owner, name = builder_of(owner)
    build = getattr(owner, name)

    @functools.wraps(build)  # Keras looks at the function's attributes to see whether it is a default build()
    def build_and_tell(*args: Any, **kwargs: Any) -> Any:
        result = build(*args, **kwargs)
        take_back()
        with tf.init_scope():
            then()
        return result

    def take_back() -> None:
        if getattr(owner, name) is build_and_tell:
            setattr(owner, name, build)

    setattr(owner, name, build_and_tell)
    return take_back


class _Walk:
    """A breadth-first walk over TensorFlow's children that remembers what it saw and the Keras objects on the way."""

    def __init__(self, children_of: Callable[[Any], Mapping[str, Any]]) -> None:
        self._children_of = children_of
        self.seen: dict[int, Any] = {}  # by identity; the values keep the objects, and so the identities, alive
        self.owners: list[tuple[Any, str]] = []

    def follow(self, start: Any, path: str) -> None:
        queue = [(start, path)]
        for item, at in queue:
            if id(item) in self.seen:
                continue
            self.seen[id(item)] = item
            if isinstance(item, WRAPPERS):
                self.seen[id(unwrapped(item))] = unwrapped(item)
            if isinstance(item, _OWNERS):
                self.owners.append((item, at))
            queue.extend((child, _join(at, name)) for name, child in self._children_of(item).items())

    def has(self, variable: Any) -> bool:
        return id(variable) in self.seen or id(unwrapped(variable)) in self.seen


def _members(owner: Any) -> Iterator[tuple[str, Any]]:
    # Public attributes first: "blocks:0" says more than "_layers:0", and both are the same layer.
    for attribute in sorted(vars(owner), key=lambda name: name.startswith("_")):
        if attribute not in _BOOKKEEPING and not attribute.startswith("_self_"):
            yield from _items(attribute, vars(owner)[attribute])


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, SEED_GENERATORS):
        seed = seed_of(value)
        if seed is not None:
            yield name, seed
    elif isinstance(value, _ITEMS):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _items(f"{name}:{_plain(key)}", item)
    elif isinstance(value, (list, tuple)):
        # Building a Sequential puts an InputLayer in front, which must not move the others' places.
        counted = [item for item in value if not isinstance(item, keras.layers.InputLayer)]
        for position, item in enumerate(counted):
            yield from _items(f"{name}:{position}", item)


def _leftovers(owner: Any) -> Iterator[tuple[str, Any]]:
    """Variables that Keras counts as the owner's and that no attribute led to, and its metrics' last."""
    for position, variable in enumerate(variables_of(owner)):
        yield f"#variables:{position}", variable
    for position, variable in enumerate(counts_of(owner)):
        yield f"{METRICS.strip(':')}:{position}", variable


def _plain(key: Any) -> str:
    """Return a dict's key as a part of a name: no two keys alike, and none that looks like a part of our own."""
    text = key if isinstance(key, str) else f"={key!r}"
    for special, plain in (("~", "~0"), (":", "~1"), ("#", "~2")):
        text = text.replace(special, plain)
    return text.replace("=", "~3") if isinstance(key, str) else text


def _join(path: str, name: str) -> str:
    return f"{path}:{name}" if path else name
