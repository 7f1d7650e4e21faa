"""Keras 2's HDF5 with a name for each value: by itself it cannot write two weights of one name in a layer.

    with names_told_apart():
        model.save("model.h5")

An own layer that builds its sub-layers itself has such weights. Keras reads by order and not by name, so that the file
is one for plain Keras as well.

Source: tf_keras/src/saving/legacy/hdf5_format.py of tf_keras 2.21; tests/test_keras_2_hdf5.py fails if it changes.
"""

from __future__ import annotations

import collections
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ckptkit.export.compiled import in_hdf5_of

__all__ = ["names_told_apart"]


class _Named:
    """A variable under another name, as far as the saver looks at it."""

    def __init__(self, variable: Any, name: str) -> None:
        self.name = name
        self.numpy = variable.numpy


@contextmanager
def names_told_apart() -> Iterator[None]:
    """Let Keras 2 write weights, and variables of an optimizer, that have one name."""
    saver: Any = importlib.import_module("tf_keras.src.saving.legacy.hdf5_format")
    of_weights, of_optimizer = saver.save_subset_weights_to_hdf5_group, saver.save_optimizer_weights_to_hdf5_group

    def save_weights(group: Any, variables: Sequence[Any]) -> None:
        of_weights(group, _told_apart(variables))

    def save_optimizer(file: Any, optimizer: Any) -> None:
        of_weights(file.create_group("optimizer_weights"), _told_apart(in_hdf5_of(optimizer)))

    saver.save_subset_weights_to_hdf5_group, saver.save_optimizer_weights_to_hdf5_group = save_weights, save_optimizer
    try:
        yield
    finally:
        saver.save_subset_weights_to_hdf5_group, saver.save_optimizer_weights_to_hdf5_group = of_weights, of_optimizer


def _told_apart(variables: Sequence[Any]) -> list[Any]:
    seen: collections.Counter[str] = collections.Counter()
    told = []
    for variable in variables:
        seen[variable.name] += 1
        again = seen[variable.name] > 1
        told.append(_Named(variable, f"{variable.name}_{seen[variable.name]}") if again else variable)
    return told
