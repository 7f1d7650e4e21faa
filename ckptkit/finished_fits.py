"""Which call of ``fit`` in a script this is: what tells the second one from the first one started again.

before = count("runs/digits", model)      # 0: the script has begun
note("runs/digits", model, fits=1)        # one has come to its end
count("runs/digits", model)               # 1: the same script goes on with the same model
count("runs/digits", another)             # 0: the model was made anew, as when a notebook's cells are run again
"""

from __future__ import annotations

import os
import weakref

from ckptkit.which_keras import keras

__all__ = ["count", "forget", "note"]

# Calls that have come to their end in this process, and the model they trained, by directory.
_finished: dict[str, tuple[int, weakref.ref[keras.Model]]] = {}


def count(directory: str, model: keras.Model) -> int:
    """Return how many calls of ``fit`` of this model this script has behind it.

    Args:
        directory: Folder of their checkpoints.
        model: Another one than theirs has none behind it.
    """
    fits, trained = _finished.get(os.path.realpath(directory), (0, None))
    return fits if trained is not None and trained() is model else 0


def note(directory: str, model: keras.Model, *, fits: int) -> None:
    """Note that so many calls have come to their end."""
    _finished[os.path.realpath(directory)] = (fits, weakref.ref(model))


def forget() -> None:
    """Forget all of it, as a new process does."""
    _finished.clear()
