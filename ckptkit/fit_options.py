"""What a user may ask of ``TrainingCheckpoint``, checked before anything is trained.

policy = save_policy(500)            # EverySteps(500)
refuse_rivals(callback, callbacks)   # of the same fit
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from ckptkit.input_position import INPUT_STATES
from ckptkit.policies import EveryEpochs, EverySteps, SavePolicy
from ckptkit.preservation import Best

__all__ = ["refuse_rivals", "save_policy", "validate", "validate_monitor"]


def save_policy(save_freq: str | int | SavePolicy) -> SavePolicy:
    """Return the policy that ``save_freq`` stands for.

    Raises:
        ValueError: It stands for none.
    """
    if isinstance(save_freq, SavePolicy):
        return save_freq
    if save_freq == "epoch":
        return EveryEpochs(1)
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return EverySteps(save_freq)
    raise ValueError(f'save_freq must be "epoch", a number of steps or a policy, got {save_freq!r}.')


def validate_monitor(monitor: Any, mode: Any) -> None:
    """Refuse a ranking of checkpoints that cannot be meant; ``mode`` may be left out where the metric says it.

    Raises:
        ValueError: There is no metric to rank by, or no such way to rank.
    """
    if monitor is not None:
        Best(monitor, "min" if mode is None else mode)
    elif mode is not None:
        raise ValueError(f"mode={mode!r} says how to rank a metric; say which one with monitor=.")


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


def validate(input_state: Any, max_input_state_bytes: Any, callbacks: Any) -> None:
    """Refuse what cannot be meant.

    Raises:
        ValueError: A way to keep the place in the data, or a size, that does not exist.
        TypeError: Something else than callbacks.
    """
    if input_state not in INPUT_STATES:
        raise ValueError(f"input_state must be one of {', '.join(map(repr, INPUT_STATES))}, got {input_state!r}.")
    is_size = isinstance(max_input_state_bytes, int) and not isinstance(max_input_state_bytes, bool)
    if not is_size or max_input_state_bytes < 0:
        raise ValueError(f"max_input_state_bytes must be a whole number of bytes, got {max_input_state_bytes!r}.")
    for callback in callbacks or ():
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(f"callbacks must hold Keras callbacks, got {callback!r}.")
