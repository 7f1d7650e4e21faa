"""The SavedModel of Keras 2, which is the whole model: written with an endpoint, and read back with its optimizer.

    write(model, "export/digits", serve, signature)
    read("export/digits")                      # also a model whose class is not here any more

export/digits/
  saved_model.pb  variables/  assets/  fingerprint.pb
  keras_metadata.pb                            # what makes it Keras'

Keras 2 itself reads it back with an optimizer that has done no step and has no slots. They are in its variables.

Source: tf_keras/src/saving/legacy/saved_model of tf_keras 2.21; tests/test_keras_2_saved_model.py fails if it changes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from ckptkit.export.compiled import build, optimizer_of
from ckptkit.export.custom_code import explained, refuse_code
from ckptkit.export.silence import without
from ckptkit.which_keras import keras

__all__ = ["ServedLayer", "is_whole", "read", "write"]

_METADATA = "keras_metadata.pb"
_LAMBDAS = (b'"function_type": "lambda"', b'"__lambda__"')  # in its JSON
_GIVEN = {"serve", "call"}
_log = logging.getLogger("ckptkit")


def write(model: keras.Model, path: str, serve: Callable[[Any], Any], signature: Any) -> None:
    """Write a built model to a new folder, with ``serve`` as an endpoint of that name and as ``serving_default``."""
    endpoint = tf.function(serve, input_signature=[signature])
    endpoint.get_concrete_function()  # Keras writes no subclass that was never called
    with _attributes_kept(model), without("Found untraced functions such as"):
        vars(model)["serve"] = endpoint  # as plain as that: what Keras is told of it never forgets
        model.save(path, save_format="tf", signatures={"serving_default": endpoint})


def is_whole(path: str) -> bool:
    """Say whether a SavedModel is of Keras 2."""
    return os.path.exists(os.path.join(path, _METADATA))


def read(path: str, custom_objects: Mapping[str, Any] | None, compile: bool, safe_mode: bool) -> Any:
    """Load the model of such a SavedModel, with what its optimizer had.

    Raises:
        ArtifactError: It needs what is not here, or holds code beside its graph.
    """
    with explained(path):
        with open(os.path.join(path, _METADATA), "rb") as file:
            described = file.read()
        refuse_code([{"class_name": "__lambda__"}] if any(word in described for word in _LAMBDAS) else [], safe_mode)
        model = keras.models.load_model(path, custom_objects=custom_objects, compile=compile)
    optimizer = optimizer_of(model)
    if optimizer is not None:
        _take_state(model, optimizer, os.path.join(path, "variables", "variables"), path)
    return model


def _take_state(model: keras.Model, optimizer: Any, variables: str, path: str) -> None:
    build(optimizer, model.trainable_variables)
    slots = [each.name.removesuffix(":0") for each in optimizer.variables()]
    known = _names_of_slots(variables)
    # Slots are known by their numbers alone: they are taken only if those of the model are of the same variables.
    if len(known) > 1 and not (len(slots) == len(known) and all(map(str.endswith, known, slots))):
        _log.warning("the optimizer of %s starts afresh: its slots are not of the variables that the model has.", path)
        return
    tf.train.Checkpoint(root=model, optimizer=optimizer).restore(variables).expect_partial()


def _names_of_slots(variables: str) -> list[str]:
    """Return the names of an optimizer's variables by their numbers: one if it has no slots, none if they have none."""
    graph = TrackableObjectGraph()
    graph.ParseFromString(tf.train.load_checkpoint(variables).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))

    def child_of(node: Any, name: str) -> Any:
        found = [graph.nodes[each.node_id] for each in node.children if each.local_name == name]
        return found[0] if found else node.__class__()

    slots = child_of(child_of(graph.nodes[0], "optimizer"), "_variables").children
    ordered = sorted(slots, key=lambda slot: int(slot.local_name))
    return [graph.nodes[slot.node_id].attributes[0].full_name for slot in ordered]


@contextmanager
def _attributes_kept(model: keras.Model) -> Iterator[None]:
    """Take from a model and its layers what was given to them meanwhile: Keras leaves each its own ``call``."""
    kept = [
        (vars(layer), {name: vars(layer)[name] for name in _GIVEN & vars(layer).keys()})
        for layer in model._flatten_layers()
    ]
    try:
        yield
    finally:
        for attributes, known in kept:
            for name in _GIVEN & attributes.keys():
                del attributes[name]
            attributes.update(known)


class ServedLayer(keras.layers.Layer):
    """Answer as a signature of a SavedModel does, as the TFSMLayer of Keras 3.

    Args:
        path: The folder.
        call_endpoint: Name of the signature.
    """

    def __init__(self, path: str, call_endpoint: str) -> None:
        super().__init__()
        self._served = tf.saved_model.load(path)
        self._endpoint = self._served.signatures[call_endpoint]

    def call(self, inputs: Any) -> Any:
        """Return the outputs of the signature by name; several inputs come by name as well."""
        return self._endpoint(**inputs) if isinstance(inputs, dict) else self._endpoint(inputs)
