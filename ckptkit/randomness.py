"""The random numbers outside of any model: Python's, NumPy's, Keras' and TensorFlow's, as they are now and put back.

    state = capture()
    ...
    reinstate(state)
    changed_since(state)                 # {"numpy"}: what has been drawn from

Operations of TensorFlow inside a graph keep a state that nobody can read; Keras' own draw from seeds in variables.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptkit.snapshot import eager_random_state, set_eager_random_state
from ckptkit.which_keras import global_seed, set_global_seed

__all__ = ["capture", "changed_since", "reinstate"]


def capture() -> dict[str, Any]:
    """Return the state of every global random number generator, for :mod:`ckptkit.run_state` to store."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "tensorflow": eager_random_state(),
        "keras": global_seed(),
    }


def reinstate(state: Mapping[str, Any]) -> None:
    """Put back what :func:`capture` returned, or a part of it."""
    if "keras" in state:  # first, for it may draw from Python's
        set_global_seed(state["keras"])
    if "python" in state:
        random.setstate(state["python"])
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    set_eager_random_state(state.get("tensorflow", {}))


def changed_since(state: Mapping[str, Any]) -> set[str]:
    """Return the names of the generators that are not as they were when ``state`` was captured."""
    return {name for name, value in capture().items() if not _is_equal(value, state.get(name))}


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_equal(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_is_equal(a, b) for a, b in zip(one, other))
    return bool(np.array_equal(one, other))
