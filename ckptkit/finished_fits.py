"""Which call of ``fit`` in a script this is: what tells the second one from the first one started again.

before = count("runs/digits", steps=0)      # 0: the script has begun
note("runs/digits", fits=1, steps=440)      # one has come to its end
count("runs/digits", steps=440)             # 1: the same script goes on
count("runs/digits", steps=0)               # 0: the model was made anew, so the script has begun again
"""

from __future__ import annotations

import os

__all__ = ["count", "forget", "note"]

# Calls that have come to their end in this process, and the optimizer's steps then, by directory.
_finished: dict[str, tuple[int, int]] = {}


def count(directory: str, *, steps: int) -> int:
    """Return how many calls of ``fit`` this script has behind it.

    Args:
        directory: Folder of their checkpoints.
        steps: Steps of the optimizer so far; fewer than at the end of the last call mean that the model was made anew,
            as when a notebook's cells are run again.
    """
    fits, steps_then = _finished.get(os.path.realpath(directory), (0, 0))
    return fits if steps >= steps_then else 0


def note(directory: str, *, fits: int, steps: int) -> None:
    """Note that so many calls have come to their end."""
    _finished[os.path.realpath(directory)] = (fits, steps)


def forget() -> None:
    """Forget all of it, as a new process does."""
    _finished.clear()
