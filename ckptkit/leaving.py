"""How a run leaves that was told to end: what it has done is saved, waited for, and an exception ends the script.

departure = Departure(PreemptionWatch(["SIGTERM"]))
departure.prepare(manager, 0)                  # with other workers, if there are any: all leave at the same step
if departure.is_told(1200):                    # asked at every step
    departure.heed(1200, lambda options: manager.save(1200, False, options, state=state))
departure.end()
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import tensorflow as tf

from ckptkit.appointment import Appointment
from ckptkit.errors import CheckpointError
from ckptkit.manager import CheckpointManager
from ckptkit.preemption import Preempted, PreemptionWatch

__all__ = ["Departure"]

_log = logging.getLogger("ckptkit")

Save = Callable[[tf.train.CheckpointOptions], object]


class Departure:
    """When a run leaves, and how: at the same step as the workers that it trains together with.

    Args:
        watch: What tells the run to end.
    """

    def __init__(self, watch: PreemptionWatch) -> None:
        self._watch = watch
        self._manager: CheckpointManager | None = None
        self._appointment: Appointment | None = None

    @property
    def is_appointed(self) -> bool:
        """Whether there are other workers, which leave at the same step."""
        return self._appointment is not None

    def prepare(self, manager: CheckpointManager, step: int, *, is_watched: bool) -> None:
        """Get ready to leave.

        Args:
            manager: Saves.
            step: Steps done.
            is_watched: Whether anything tells this run to end.
        """
        self.end()
        self._manager = manager
        session = manager.meet() if is_watched else None
        if session is not None:
            self._appointment = Appointment(session, self._watch)
            self._appointment.passes(step)

    def is_told(self, step: int) -> bool:
        """Say whether the run is to end, here or at a step that is near.

        Args:
            step: Steps done.
        """
        if self._appointment is not None:
            self._appointment.passes(step)
        return self._watch.request is not None

    def heed(self, step: int, save: Save | None = None, *, is_end: bool = False) -> None:
        """Leave if that was asked for and if all workers can, or go on.

        Args:
            step: Steps done.
            save: Saves this step with the options it is called with; None where that cannot be done here.
            is_end: Whether there is no step after this one.

        Raises:
            Preempted: The run leaves.
        """
        if self._watch.request is None:
            return
        if self._appointment is not None and not is_end:
            if not self._appointment.is_due(step):
                return
            save = None if self._appointment.is_broken else save
        self.leave(step, save)

    def leave(self, step: int, save: Save | None = None) -> NoReturn:
        """Save a step unless it is saved, wait until it is durable or the time of grace is over, and raise.

        Signals that come meanwhile change nothing; when this is over their handlers are those that were there before.

        Args:
            step: Steps done.
            save: As in :meth:`heed`.

        Raises:
            Preempted: In any case: also where the save failed, which is logged. What a handler of the script's own has
                raised when the signal came is raised in its place.
        """
        assert self._manager is not None
        try:
            _leave(self._watch, self._manager, step, save)
        finally:
            self.end()

    def end(self) -> None:
        """Tell the other workers that this one has come to its end."""
        if self._appointment is not None:
            self._appointment.end()
            self._appointment = None


def _leave(watch: PreemptionWatch, manager: CheckpointManager, step: int, save: Save | None) -> NoReturn:
    assert watch.request is not None
    try:
        is_done = _save_in_time(watch, manager, step, save)
        newest = manager.latest_checkpoint
        if not is_done:
            manager.let_go(watch.code)
        if is_done and (manager.saved_step or 0) == step:
            _log.warning("%s: leaving at step %d. %s", watch.request.cause, step, _stands(newest))
        else:
            why = f" within {watch.grace_secs:g} s" if watch.secs_left == 0 else ""
            _log.error("%s: leaving at step %d, not saved%s. %s", watch.request.cause, step, why, _stands(newest))
    finally:
        watch.heed()
        manager.end_history("preempted", step=step, cause=watch.request.cause)
    preempted = Preempted(watch.code, watch.request.cause, step, newest)
    if watch.raised is not None:
        raise watch.raised from preempted
    raise preempted


def _save_in_time(
    watch: PreemptionWatch,
    manager: CheckpointManager,
    step: int,
    save: Save | None,
) -> bool:
    """Return whether nothing is left under way."""

    def is_done() -> bool:
        try:
            return manager.wait_until_finished(watch.secs_left)
        except CheckpointError as error:
            _log.error("%s", error)
            return is_done()

    # What is under way first: it may be this step, or fail, and there is no place for three.
    if not is_done():
        return False
    if save is None or manager.saved_step == step or watch.secs_left == 0:
        return True
    try:
        save(tf.train.CheckpointOptions(enable_async=True))  # whatever the manager does: there is a limit to the wait
    except CheckpointError as error:
        _log.error("%s", error)
    except Exception:  # of what the script's own callbacks tell of their state, perhaps
        _log.exception("step %d could not be saved.", step)
    return is_done()


def _stands(newest: str | None) -> str:
    return f"{newest} is the newest complete checkpoint." if newest else "There is no complete checkpoint yet."
