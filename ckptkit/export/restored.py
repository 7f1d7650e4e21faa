"""A model with the values of a checkpoint, all of them, to be exported; what else was saved with it stays there.

    restore_into(model, record, "model")

A checkpoint holds objects under names, ``tf.train.Checkpoint(model=model, optimizer=optimizer)``. A model that is not
compiled takes its variables alone; one that is takes the optimizer's as well.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ckptkit import restoring
from ckptkit.errors import CheckpointMismatchError
from ckptkit.listing import DirectoryReader
from ckptkit.reading import CheckpointFile
from ckptkit.records import CheckpointRecord
from ckptkit.snapshot import CheckpointGraph, read_graph
from ckptkit.spelling import near
from ckptkit.which_keras import builder_of, is_built, keras

__all__ = ["restore_into"]

_OPTIMIZER = "optimizer"
_OWN = ("save_counter", "_ckptkit")


def restore_into(model: keras.Model, record: CheckpointRecord, name: str) -> None:
    """Restore a model from a checkpoint, or nothing of it.

    Args:
        model: Built as it was saved, compiled or not.
        record: The checkpoint.
        name: What the model is called in the checkpoint.

    Raises:
        CheckpointDamagedError: The checkpoint is not what was written.
        CheckpointMismatchError: It has no such object, or the model does not fit.
    """
    DirectoryReader(os.path.dirname(record.prefix)).verify(record)
    with CheckpointFile(record.prefix) as file:
        saved = read_graph(file)
        there = [] if saved is None else [child.local_name for child in saved.nodes[0].children]
        if name not in there:
            names = [child for child in there if child not in _OWN]
            hint = near(name, names)
            raise CheckpointMismatchError(
                f"{record.prefix} holds no object called {name!r} (have: {', '.join(names) or 'none'}).{hint}"
            )
        objects = {name: model}
        optimizer = getattr(model, "optimizer", None)  # Keras 3 has none before compile()
        if optimizer is not None:
            _build(optimizer, model.trainable_variables)
            if _OPTIMIZER in there:
                objects[_OPTIMIZER] = optimizer
        graph = CheckpointGraph(tf.train.Checkpoint(**objects))
        unwanted = [_OPTIMIZER] if optimizer is None else []
        pending = restoring.restore(graph, file, foreign=record.foreign, only=objects, but=unwanted)
    left = pending.leftovers()
    if left:
        raise CheckpointMismatchError(
            f"{len(left)} values of {record.prefix} found no variable, {left[0]} among them: the model is not built.\n"
            "Call it on a batch before it is returned."
        )


def _build(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    if not is_built(optimizer):
        owner, method = builder_of(optimizer)
        getattr(owner, method)(variables)
