"""Which of a script's calls of ``fit`` a checkpoint was saved in, and whether there is anything left of this one.

fits = fits_of(record, manager.state(record))
place = Place.find(fits, done=1, epochs=20)      # of the second call in this process, which asks for 20 epochs
place.now.epoch, place.now.batch, place.is_over
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckptkit.errors import CheckpointDamagedError, CheckpointMismatchError
from ckptkit.input_position import shared_out_anew
from ckptkit.records import CheckpointRecord
from ckptkit.run_state import FitState, RunState

__all__ = ["STATE", "Place", "fits_of"]

STATE = "run_state"  # under which a checkpoint holds it

_log = logging.getLogger("ckptkit")


@dataclass(frozen=True)
class Place:
    """Where a call of ``fit`` is.

    Attributes:
        fits: The calls before it.
        now: Its own state.
        is_passed: Whether a later call was saved: this one came to its end.
        is_over: Whether nothing is left to train.
    """

    fits: tuple[FitState, ...] = ()
    now: FitState = field(default_factory=FitState)
    is_passed: bool = False
    is_over: bool = False

    @classmethod
    def find(cls, fits: tuple[FitState, ...], *, done: int, epochs: int) -> Place:
        """Take the state of this call from those that were saved, at least one.

        Args:
            fits: What was saved.
            done: Calls that have ended in this process.
            epochs: What this one asks for.
        """
        at, is_passed = fits[min(done, len(fits) - 1)], done < len(fits) - 1
        return cls(fits[:done], at, is_passed, is_passed or at.is_over(epochs))

    def shared_out_anew(self, *, is_new: bool) -> Place:
        """Return the place for another number of workers.

        Args:
            is_new: Whether this worker was none of those that saved: it has drawn no random numbers yet.
        """
        lengths = {"state": (), "per_epoch": None, "counted": None}
        inputs = {name: {**shared_out_anew(place), **lengths} for name, place in self.now.inputs.items()}
        return replace(self, now=replace(self.now, inputs=inputs, random={} if is_new else self.now.random))

    def require_epoch(self, initial_epoch: int, record: CheckpointRecord) -> None:
        """Refuse a call that is to begin behind what was saved.

        Raises:
            CheckpointMismatchError: It is.
        """
        if self.now.model and self.now.epoch < initial_epoch:  # else nobody knows in which epoch it was saved
            raise CheckpointMismatchError(
                f"{record.prefix} was saved in epoch {self.now.epoch}, and fit is to begin with initial_epoch="
                f"{initial_epoch}.\nA run that is resumed goes on where it was: call fit as it was called first, or "
                "choose another directory."
            )

    def why_over(self, record: CheckpointRecord, epochs: int) -> str:
        """Say why there is nothing to train."""
        at = self.now
        if self.is_passed:
            return f"{record.prefix} was saved in a later call of fit of this script."
        place = f"batch {at.batch} of the epoch after {at.epoch}" if at.batch else f"the end of epoch {at.epoch}"
        if at.epoch >= epochs:
            return f"{record.prefix} is at {place}, and {epochs} epochs were asked for."
        return (
            f"{record.prefix} is at {place}, where a callback stopped the training. "
            f"It goes on if more than the {at.asked} epochs of then are asked for."
        )


def fits_of(record: CheckpointRecord, state: Mapping[str, Any]) -> tuple[FitState, ...]:
    """Return the calls of ``fit`` that a checkpoint knows of, at least one.

    Raises:
        CheckpointDamagedError: It holds something else.
    """
    if STATE in state:
        fits = RunState.from_values(state, STATE).fits
        if not fits:
            raise CheckpointDamagedError(f"{record.prefix} holds the state of no fit at all.")
        return fits
    # Written by a plain manager: model and optimizer go on, fit's epochs are not known.
    _log.warning("%s holds no state of a fit; its weights are taken and epochs are counted afresh.", record.prefix)
    return (FitState(),)
