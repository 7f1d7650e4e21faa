"""What else there may be in a ``fit`` with a ``TrainingCheckpoint``, checked before anything is trained.

refuse_rivals(callback, callbacks)   # of the same fit
validate(callbacks)                  # whose state is to be saved
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptkit.which_keras import keras

__all__ = ["refuse_rivals", "validate"]


def refuse_rivals(ours: Any, callbacks: Iterable[Any]) -> None:
    """Refuse callbacks that do the same work on the same ``fit``, and would undo ours.

    Raises:
        ValueError: There is one.
    """
    for each in callbacks:
        if isinstance(each, type(ours)) and each is not ours:
            raise ValueError(
                f"fit takes one {type(ours).__name__}, got those of {ours.directory!r} and {each.directory!r}.\n"
                "To save at more occasions combine policies, save_freq=EverySteps(500) | EveryEpochs(1); to keep more "
                "of them use monitor= and preservation_policy=."
            )
        if isinstance(each, keras.callbacks.BackupAndRestore):
            raise ValueError(
                f"BackupAndRestore does the work of {type(ours).__name__}, and what it restores would replace what "
                "was resumed here.\nTake it out of callbacks."
            )


def validate(callbacks: Iterable[Any] | None) -> None:
    """Refuse what has no state that could be saved.

    Raises:
        TypeError: Something else than callbacks.
    """
    for callback in callbacks or ():
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(f"callbacks must hold Keras callbacks, got {callback!r}.")
