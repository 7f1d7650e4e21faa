"""How a run leaves that was told to end: what it has done is saved, waited for, and an exception ends the script.

if watch.request is not None:
    leave(watch, manager, 1200, lambda options: manager.save(1200, False, options, state=state))
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import tensorflow as tf

from ckptkit.errors import CheckpointError
from ckptkit.manager import CheckpointManager
from ckptkit.preemption import Preempted, PreemptionWatch

__all__ = ["leave"]

_log = logging.getLogger("ckptkit")


def leave(
    watch: PreemptionWatch,
    manager: CheckpointManager,
    step: int,
    save: Callable[[tf.train.CheckpointOptions], object] | None = None,
) -> NoReturn:
    """Save a step unless it is saved, wait until it is durable or the time of grace is over, and raise.

    Signals that come meanwhile change nothing; when this is over their handlers are those that were there before.

    Args:
        watch: Was told to end the run.
        manager: Saves.
        step: Steps done.
        save: Saves this step with the options it is called with; None where that cannot be done here.

    Raises:
        Preempted: In any case: also where the save failed, which is logged. What a handler of the script's own has
            raised when the signal came is raised in its place.
    """
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
    preempted = Preempted(watch.code, watch.request.cause, step, newest)
    if watch.raised is not None:
        raise watch.raised from preempted
    raise preempted


def _save_in_time(
    watch: PreemptionWatch,
    manager: CheckpointManager,
    step: int,
    save: Callable[[tf.train.CheckpointOptions], object] | None,
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
