"""Fewest steps between two saves, counted by a variable, as ``tf.train.CheckpointManager`` has them.

interval = Interval(step_counter, 100, last_step=None)
if not interval.is_too_early():
    ended = interval.save_began()
    ...
    ended(True)

Source: https://www.tensorflow.org/api_docs/python/tf/train/CheckpointManager
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

__all__ = ["Interval"]


class Interval:
    """Say whether a save comes too early.

    Args:
        step_counter: Scalar integer variable with the current step.
        fewest: Fewest steps between two saves; None if any may follow at once, and the counter is not read.
        last_step: Step of the last save, None if there was none.

    Raises:
        ValueError: There is an interval, and nothing to count by.
    """

    def __init__(self, step_counter: tf.Variable | None, fewest: int | None, last_step: int | None) -> None:
        if fewest is not None and step_counter is None:
            raise ValueError("`step_counter` should be passed if `checkpoint_interval` is not None.")
        self.fewest = fewest
        self._step_counter = step_counter
        self._last_step = last_step

    def begin_here(self) -> None:
        """Count from the current step: it was just restored."""
        if self.fewest is not None:
            self._last_step = self._step()

    def is_too_early(self, *, check_interval: bool = True) -> bool:
        """Say whether a save now comes too early; at the very step of the last one it does in any case."""
        if self.fewest is None or self._last_step is None:
            return False
        step = self._step()
        return step == self._last_step or (check_interval and step < self._last_step + self.fewest)

    def save_began(self) -> Callable[[bool], None]:
        """Count from the current step.

        Returns:
            To be called when the save has ended, with False if it failed: a retry at the same step comes at once then.
        """
        if self.fewest is None:
            return lambda is_saved: None
        before, step = self._last_step, self._step()
        self._last_step = step

        def ended(is_saved: bool) -> None:
            if not is_saved and self._last_step == step:
                self._last_step = before

        return ended

    def _step(self) -> int:
        return int(tf.convert_to_tensor(self._step_counter))
