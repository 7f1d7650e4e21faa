"""What the variables of a checkpoint are called where they were made: ``sequential/dense/kernel``.

with Bundle("run/ckpt-1") as bundle:
    variable_names(bundle)["optimizer/_trainable_variables/0/.ATTRIBUTES/VARIABLE_VALUE"]  # "sequential/dense/kernel"

short_key("model/kernel/.ATTRIBUTES/VARIABLE_VALUE")  # "model/kernel"

Keys are ways through objects, and TensorFlow takes the shortest: Keras' weights lie under their optimizer. The graph of
objects that is stored with them says what each is called.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from collections import Counter

from google.protobuf.message import DecodeError

from ckptkit.bundle import Bundle
from ckptkit.bundle_protos import ObjectGraph
from ckptkit.errors import CheckpointError

__all__ = ["display_names", "short_key", "variable_names"]

_GRAPHS = ("_CKPTKIT_OBJECT_GRAPH", "_CHECKPOINTABLE_OBJECT_GRAPH")  # the one with what TensorFlow misses first


def variable_names(bundle: Bundle) -> dict[str, str]:
    """Return the names of variables by their keys; nothing for those, or for checkpoints, that do not say it."""
    key = next((key for key in _GRAPHS if key in bundle.entries), None)
    if key is None:
        return {}
    try:
        graph = ObjectGraph.FromString(bytes(bundle.read(key).item()))
    except (CheckpointError, DecodeError, TypeError, ValueError):  # the values may be whole all the same
        return {}
    return {
        value.checkpoint_key.decode("utf-8", "surrogateescape"): value.full_name.decode("utf-8", "surrogateescape")
        for node in graph.nodes
        for value in node.attributes
        if value.full_name
    }


def display_names(bundle: Bundle) -> dict[str, str]:
    """Return what to call each tensor: the variable's name if it has one of its own, else its key without the end."""
    names, keys = variable_names(bundle), {key: short_key(key) for key in bundle.entries}
    often = Counter([*names.values(), *keys.values()])
    return {key: names[key] if often[names.get(key, "")] == 1 else short for key, short in keys.items()}


def short_key(key: str) -> str:
    """Return a key without what TensorFlow adds to it."""
    return key.partition("/.ATTRIBUTES/")[0]
