"""When a manager saves by itself: the questions to its policy, and what the policy may know to answer them.

    schedule = Schedule(EverySteps(500) | EverySecs(600), now=time.time())
    schedule.is_due(1000, 2, time.time(), metrics={"loss": 0.3})     # each question counts as the last before the next
    ended = schedule.save_began(1000, time.time(), {"loss": 0.3})
    ended(True)                                                      # it is committed

Pure bookkeeping: time comes in as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ckptkit.combinators import leaves
from ckptkit.policies import (
    Always,
    AtSteps,
    EveryEpochs,
    EverySteps,
    Never,
    OnImprovement,
    SaveContext,
    SavePolicy,
)
from ckptkit.ranking import best_values

__all__ = ["Schedule"]


_SAME_EVERYWHERE = (Always, AtSteps, EveryEpochs, EverySteps, Never, OnImprovement)


class Schedule:
    """Ask a policy, and remember what it has to know.

    Args:
        policy: Says when a save is due; None for always.
        now: Seconds since the Epoch.
        modes: How the metrics rank that policies look at, ``"min"`` or ``"max"`` by name.

    Attributes:
        step: Steps done when the policy was last asked.
        epoch: Epochs done when the policy was last asked.
        saved_step: Step of the newest save that is committed or under way, or of what was restored; None for none.
        is_best: Whether the last question came with a metric that was better than ever.
        unseen: Names of the metrics that policies look at and no question came with.
        is_same_everywhere: Whether the answer hangs on nothing but steps, epochs and metrics, so that all workers that
            do the same get the same.
    """

    def __init__(self, policy: SavePolicy | None, now: float, modes: Mapping[str, str] | None = None) -> None:
        self.step = self.epoch = 0
        self.saved_step: int | None = None
        self.is_best = False
        self.unseen = frozenset(modes or {})
        self._policy = policy or Always()
        self.is_same_everywhere = all(isinstance(leaf, _SAME_EVERYWHERE) for leaf in leaves(self._policy))
        self._modes = modes or {}
        self._last_save_at = now
        self._has_saved = False
        self._under_way: dict[object, Mapping[str, float]] = {}  # what was measured at the saves that are
        self._retry_at: int | None = None

    def begin_at(self, step: int, epoch: int, now: float) -> None:
        """Count from here, where nothing has to be saved: it was restored, or is where a run begins."""
        self.step, self.epoch, self.saved_step, self._last_save_at = step, epoch, step, now

    def is_due(
        self,
        step: int,
        epoch: int,
        now: float,
        *,
        metrics: Mapping[str, float],
        best: Mapping[str, float] | None = None,
        lost_secs: Sequence[float] = (),
        is_saving: bool = False,
    ) -> bool:
        """Ask the policy.

        Args:
            step: Steps done.
            epoch: Epochs done.
            now: Seconds since the Epoch.
            metrics: What was measured at this very moment.
            best: The best values of what is committed.
            lost_secs: What each of the last saves cost.
            is_saving: Whether there is a save whose cost is not known yet.
        """
        best = best or {}
        if self._under_way:
            best = best_values(best, *list(self._under_way.values()), modes=self._modes)  # saves end in other threads
        self.is_best = bool(metrics) and best_values(best, metrics, modes=self._modes) != best
        self.unseen -= metrics.keys()
        context = SaveContext(
            step,
            self.step,
            epoch,
            self.epoch,
            now,
            metrics,
            self._last_save_at,
            best,
            lost_secs,
            is_saving,
            self._has_saved,
        )
        is_retry, self._retry_at = step == self._retry_at, None
        self.step, self.epoch = step, epoch
        return self._policy.should_save(context) or is_retry

    def retry(self) -> None:
        """Let the next question, if it comes at the same step, be answered with yes: what was due then has failed."""
        self._retry_at = self.step

    def save_skipped(self, now: float) -> None:
        """Say that a save was due and not taken: the next one waits as if it had been."""
        self._last_save_at, self._has_saved = now, True

    def save_began(self, step: int | None, now: float, metrics: Mapping[str, float]) -> Callable[[bool], None]:
        """Say that a save is under way.

        Args:
            step: Steps done, None where nobody has said it.
            now: Seconds since the Epoch.
            metrics: What was measured at this very moment.

        Returns:
            To be called, in any thread, when it has ended: with True if it is committed, with False if it could not
            be written, and a retry at the same step is none too many.
        """
        self.save_skipped(now)
        key, before = object(), self.saved_step
        self._under_way[key] = metrics
        self.saved_step = before if step is None else step

        def ended(is_saved: bool) -> None:
            self._under_way.pop(key, None)
            if not is_saved and step is not None and self.saved_step == step:
                self.saved_step = before

        return ended
