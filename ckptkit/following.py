"""A save as all workers but the chief see it: they hand in what they have for themselves, and wait for the commit.

writer.submit(FollowJob(held, round, cluster, "ckpt-1200 to runs/digits", committed))
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ckptkit.coordination import SaveRound
from ckptkit.errors import CheckpointSaveError
from ckptkit.failures import cause_of
from ckptkit.held import Held
from ckptkit.stats import Took

__all__ = ["FollowJob"]

_log = logging.getLogger("ckptkit")


class FollowJob:
    """Hand in held tensors that the chief has not, and wait for its commit.

    Args:
        what: The checkpoint and its directory, as a message has it.
        held: This worker's values.
        worker: The number of this worker, and how many there are.
        joined: The save, as the workers tell each other of it.
        committed: Called when it is committed.
        ended: Called once, when it is committed with what it took, or with None if it was not.
    """

    def __init__(
        self,
        what: str,
        held: Held,
        worker: tuple[int, int],
        joined: SaveRound,
        committed: Callable[[], None],
        ended: Callable[[Took | None], None],
    ) -> None:
        self._what = what
        self._held = held
        self._worker = worker
        self._round = joined
        self._committed = committed
        self._ended = ended
        self._has_ended = False

    def __call__(self) -> None:
        """Do it.

        Raises:
            CheckpointSaveError: The chief could not commit it, or not in time, or this worker could not do its part.
        """
        try:
            self._follow()
        except Exception as error:
            raise CheckpointSaveError(
                f"save of {self._what} failed in worker {self._worker[0]}: {cause_of(error)}\n"
                "Checkpoints that were committed before stand. Start all workers again: they go on from the newest one."
            ) from error
        finally:
            self.give_up()
            self._held.release()

    def give_up(self) -> None:
        """Say that it failed, unless it has ended."""
        self._end(None)

    def _follow(self) -> None:
        chiefs = self._round.common()
        with self._round.part() as prefix:
            self._held.write_own(prefix, chiefs, *self._worker)
        self._round.committed()
        self._committed()
        self._end(Took(0, 0.0, 0.0, 0.0))

    def _end(self, took: Took | None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._ended(took)
