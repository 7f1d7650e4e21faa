"""What each replica of a distributed variable holds: TensorFlow's checkpoints keep one value for all of them.

    for number, replica in replicas_of(variable).items():
        name_of(key, number, 2)                 # "_CKPTKIT_REPLICA/1-of-2/model/…": where its own value goes
    names_in(keys)["model/…"]                   # (2, {1: "_CKPTKIT_REPLICA/1-of-2/model/…"}): those that were stored

A replica's own value is stored only where its bytes differ from the common one.

Under ``tf.distribute.MirroredStrategy`` and ``MultiWorkerMirroredStrategy`` a metric is counted by each replica for
itself and summed up when it is read, and BatchNorm's moving statistics are each replica's own as well, although they
are called mirrored. So a run that is to go on with the same bits needs all of them.

Source: seen on Keras 3.15 and TensorFlow 2.21; tests/test_replicas.py fails if it is not so any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from ckptkit.cluster import cluster_of
from ckptkit.which_keras import unwrapped

__all__ = [
    "common_key",
    "is_distributed",
    "name_of",
    "names_in",
    "reduced",
    "reduction_of",
    "replica_count",
    "replicas_of",
]

_PREFIX = "_CKPTKIT_REPLICA/"
_NAME = re.compile(rf"{_PREFIX}([0-9]{{1,9}})-of-([0-9]{{1,9}})/(.*)", re.DOTALL)


def is_distributed(value: Any) -> bool:
    """Say whether a value is one a replica, whatever a Keras variable around it looks like."""
    return isinstance(unwrapped(value), tf.distribute.DistributedValues)


def replica_count(variable: Any) -> int:
    """Return how many replicas a variable has, those in other processes included; 1 where there is only one."""
    inside = unwrapped(variable)
    if not is_distributed(inside):
        return 1
    cluster = cluster_of([inside])
    return len(inside.values) if cluster is None else cluster.replicas


def replicas_of(variable: Any) -> dict[int, tf.Variable]:
    """Return the variables of the replicas in this process, by their number; none where there is only one in all."""
    if replica_count(variable) == 1:
        return {}
    inside = unwrapped(variable)
    cluster = cluster_of([inside])
    return dict(enumerate(inside.values, 0 if cluster is None else cluster.first_replica))


def reduction_of(variable: Any) -> str:
    """Return how to make the common value of what all replicas hold: ``sum``, ``mean``, or "" if the first has it."""
    inside = unwrapped(variable)
    if replica_count(inside) == 1:
        return ""
    if getattr(inside, "synchronization", None) != tf.VariableSynchronization.ON_READ:
        return ""
    by_aggregation = {tf.VariableAggregation.SUM: "sum", tf.VariableAggregation.MEAN: "mean"}
    return by_aggregation.get(inside.aggregation, "")


def reduced(values: Iterable[np.ndarray[Any, Any]], reduction: str) -> np.ndarray[Any, Any]:
    """Return the common value, of the same dtype."""
    rows = np.stack(list(values))
    total = rows.sum(axis=0, dtype=rows.dtype)
    return np.asarray(total if reduction == "sum" else total / len(rows), rows.dtype)


def name_of(key: str, number: int, count: int) -> str:
    """Return where in a checkpoint the value of one of ``count`` replicas goes, beside the common one under ``key``."""
    return f"{_PREFIX}{number}-of-{count}/{key}"


def common_key(name: str) -> str | None:
    """Return the key of the common value beside which a value is stored, None if it is no replica's."""
    match = _NAME.fullmatch(name)
    return match[3] if match else None


def names_in(keys: Iterable[str]) -> dict[str, tuple[int, dict[int, str]]]:
    """Return, by the key of the common value, how many replicas saved it and the names of those with their own."""
    found: dict[str, tuple[int, dict[int, str]]] = {}
    for name in keys:
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(match[3], (int(match[2]), {}))[1][int(match[1])] = name
    return found
