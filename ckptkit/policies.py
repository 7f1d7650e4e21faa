"""When to save: small frozen policies that read one context and combine with ``|`` and ``&``.

    >>> from ckptkit.policies import EveryEpochs, EverySteps, SaveContext
    >>> policy = EverySteps(500) | EveryEpochs(1)
    >>> policy.should_save(SaveContext(step=1000, previous_step=996))  # a multiple of 500 was crossed
    True
    >>> callback = ckptkit.TrainingCheckpoint("runs/digits", save_freq=policy)

A policy is pure: it sees no clock, no disk and no log, so the same context always gives the same answer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ckptkit.arguments import require_count, require_metric, require_mode, require_number, require_steps
from ckptkit.combinators import Combinable, Combined
from ckptkit.ranking import is_better

__all__ = [
    "Always",
    "AtSteps",
    "EveryEpochs",
    "EverySecs",
    "EverySteps",
    "Never",
    "OnImprovement",
    "OverheadBudget",
    "SaveContext",
    "SavePolicy",
]

_RETRY_SECS = 10.0


@dataclass(frozen=True)
class SaveContext:
    """What a policy may look at.

    Attributes:
        step: Optimizer steps done.
        previous_step: Steps done when the policy was last asked.
        epoch: Epochs done.
        previous_epoch: Epochs done when the policy was last asked.
        now: Seconds since the Epoch.
        metrics: What was measured at this very moment.
        last_save_at: Seconds since the Epoch when the last save began, be it that it failed, or the run, where it has
            saved nothing yet.
        best: The best value so far of each metric that ranks checkpoints, be its checkpoint still there or not.
        lost_secs: How much training time each of the last saves cost, oldest first; empty where none was measured yet.
        is_saving: Whether a save is under way, or has ended and its cost is not known yet.
        has_saved: Whether this process has tried to save at all.

    Example:
        >>> context = ckptkit.policies.SaveContext(step=12, previous_step=8, metrics={"loss": 0.25})
        >>> ckptkit.policies.EverySteps(10).should_save(context)
        True
    """

    step: int
    previous_step: int
    epoch: int = 0
    previous_epoch: int = 0
    now: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    last_save_at: float = 0.0
    best: Mapping[str, float] = field(default_factory=dict)
    lost_secs: Sequence[float] = ()
    is_saving: bool = False
    has_saved: bool = False

    def has_waited(self, secs: float) -> bool:
        """Say whether the last save is ``secs`` seconds ago; if the clock was set back, nobody knows, and it is."""
        return not 0.0 <= self.now - self.last_save_at < secs


class SavePolicy(Combinable):
    """Base of all save policies, also of your own.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class WhenCheap(ckptkit.policies.SavePolicy):
        ...     most_secs: float
        ...
        ...     def should_save(self, context):
        ...         return max(context.lost_secs, default=0.0) <= self.most_secs
        >>> ckptkit.policies.EverySteps(500) & WhenCheap(0.5)
        EverySteps(n=500) & WhenCheap(most_secs=0.5)
    """

    def should_save(self, context: SaveContext) -> bool:
        """Say whether a checkpoint is due.

        Args:
            context: What a policy may look at.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class EverySteps(SavePolicy):
    """Save whenever a multiple of ``n`` steps was crossed since the last question.

    Crossed, not met: with ``steps_per_execution=4`` Keras jumps from step 8 to step 12, and ``EverySteps(10)`` saves.

    Example:
        >>> policy = ckptkit.policies.EverySteps(10)
        >>> policy.should_save(ckptkit.policies.SaveContext(step=12, previous_step=8))
        True
    """

    n: int

    def __post_init__(self) -> None:
        require_count(self, "n", self.n)

    def should_save(self, context: SaveContext) -> bool:
        """Say whether a multiple of ``n`` lies after the previous step, up to this one."""
        return context.step // self.n > context.previous_step // self.n


@dataclass(frozen=True)
class EveryEpochs(SavePolicy):
    """Save at the end of every ``n``-th epoch.

    Example:
        >>> policy = ckptkit.policies.EveryEpochs(2)
        >>> policy.should_save(ckptkit.policies.SaveContext(90, 89, epoch=2, previous_epoch=1))
        True
    """

    n: int = 1

    def __post_init__(self) -> None:
        require_count(self, "n", self.n)

    def should_save(self, context: SaveContext) -> bool:
        """Say whether a multiple of ``n`` epochs was finished since the previous question."""
        return context.epoch // self.n > context.previous_epoch // self.n


@dataclass(frozen=True)
class EverySecs(SavePolicy):
    """Save when the last save, for whatever reason it was taken, is ``secs`` seconds ago.

    Example:
        >>> policy = ckptkit.policies.EverySecs(600)
        >>> policy.should_save(ckptkit.policies.SaveContext(90, 89, now=1000.0, last_save_at=500.0))
        False
    """

    secs: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "secs", require_number(self, "secs", self.secs))

    def should_save(self, context: SaveContext) -> bool:
        """Say whether so many seconds have passed."""
        return context.has_waited(self.secs)


@dataclass(frozen=True)
class AtSteps(SavePolicy):
    """Save at each of these ``steps``, or at the first question after it; each of them once.

    Example:
        >>> policy = ckptkit.policies.AtSteps([1000, 5000])
        >>> policy.should_save(ckptkit.policies.SaveContext(step=1001, previous_step=997))
        True
    """

    steps: Sequence[int]

    def __post_init__(self) -> None:
        # At step 0 nothing was done yet, and nobody asks.
        object.__setattr__(self, "steps", require_steps(self, self.steps, least=1))

    def should_save(self, context: SaveContext) -> bool:
        """Say whether one of the steps lies after the previous step, up to this one."""
        return bisect_right(self.steps, context.step) > bisect_right(self.steps, context.previous_step)


@dataclass(frozen=True)
class OnImprovement(SavePolicy):
    """Save when a metric is better than ever before in this run, however often it was started again.

    Where the metric was not measured nothing is decided: with a ``val_`` metric saves come at validations only. NaN is
    never better.

    Args:
        monitor: Name of the metric.
        mode: ``"min"`` where less is better, else ``"max"``.

    Example:
        >>> policy = ckptkit.policies.OnImprovement("val_loss", "min")
        >>> so_far = {"val_loss": 0.31}
        >>> policy.should_save(ckptkit.policies.SaveContext(90, 45, metrics={"val_loss": 0.29}, best=so_far))
        True
    """

    monitor: str
    mode: str

    def __post_init__(self) -> None:
        require_metric(self, self.monitor)
        require_mode(self, self.mode)

    def should_save(self, context: SaveContext) -> bool:
        """Say whether the metric was measured now, and beats the best so far."""
        value = context.metrics.get(self.monitor, math.nan)
        return is_better(value, context.best.get(self.monitor), self.mode)


@dataclass(frozen=True)
class OverheadBudget(SavePolicy):
    """Save as often as the training time that saves cost stays within a fraction of all time.

    Each save is paid for by the time that follows it: after one that cost training 0.3 s, the next comes 30 s later at
    the earliest if 1 % may be lost. So the sum stays within the budget whatever the disk does, and when it becomes slow
    the very next interval is longer. One that seems to have cost less than the last few did in the median is paid for
    like those, for what is measured has noise in it. A dear one may be the last for hours:
    ``OverheadBudget() | EverySecs(3600)`` has one an hour whatever that costs. None begins while another is under way.
    The first is taken at once, to measure one; where it fails, or nobody knows yet how long a step takes without a
    save, the next comes 10 s later.

    Args:
        max_fraction: The most that saves may cost, as a fraction of all time, more than 0 and less than 1.
        mtbf_secs: Mean time between failures of the machine, in seconds. If it is said, saves come no more often than
            loses the least in all, in saves and in the work that is done again after a failure: about every
            ``sqrt(2 * cost * mtbf_secs)`` seconds. None saves as often as the budget allows.

    Source: Mohan et al., CheckFreq, FAST 2021; Daly, A higher order estimate of the optimum checkpoint interval for
        restart dumps, 2006.

    Example:
        >>> policy = ckptkit.policies.OverheadBudget(max_fraction=0.01)
        >>> policy.interval_secs([0.3, 0.2, 0.3])  # until the next save
        30.0
    """

    max_fraction: float = 0.01
    mtbf_secs: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_fraction", require_number(self, "max_fraction", self.max_fraction, below=1.0))
        if self.mtbf_secs is not None:
            object.__setattr__(self, "mtbf_secs", require_number(self, "mtbf_secs", self.mtbf_secs))

    def should_save(self, context: SaveContext) -> bool:
        """Say whether the last save is paid for."""
        if context.is_saving:
            return False
        if not context.lost_secs:  # with nothing to measure by but failed saves, try again now and then
            return not context.has_saved or context.has_waited(_RETRY_SECS)
        return context.has_waited(self.interval_secs(context.lost_secs))

    def interval_secs(self, lost_secs: Sequence[float]) -> float:
        """Return how long to wait after the last of some saves, in seconds, from ``lost_secs``: what each has cost."""
        usual = median(lost_secs)
        interval = max(lost_secs[-1], usual) / self.max_fraction
        return interval if self.mtbf_secs is None else max(interval, _optimum(usual, self.mtbf_secs))


@dataclass(frozen=True)
class Always(SavePolicy):
    """Save at every opportunity.

    Example:
        >>> ckptkit.policies.Always().should_save(ckptkit.policies.SaveContext(step=1, previous_step=0))
        True
    """

    def should_save(self, context: SaveContext) -> bool:
        """Say yes."""
        return True


@dataclass(frozen=True)
class Never(SavePolicy):
    """Never save on one's own; explicit saves still happen.

    Example:
        >>> ckptkit.policies.Never().should_save(ckptkit.policies.SaveContext(step=1, previous_step=0))
        False
    """

    def should_save(self, context: SaveContext) -> bool:
        """Say no."""
        return False


@dataclass(frozen=True, repr=False)
class _AnyOf(Combined, SavePolicy):
    operator = "|"

    def should_save(self, context: SaveContext) -> bool:
        return any(part.should_save(context) for part in self.parts)


@dataclass(frozen=True, repr=False)
class _AllOf(Combined, SavePolicy):
    operator = "&"

    def should_save(self, context: SaveContext) -> bool:
        return all(part.should_save(context) for part in self.parts)


SavePolicy.family, SavePolicy.union, SavePolicy.intersection = SavePolicy, _AnyOf, _AllOf


def _optimum(cost: float, mtbf: float) -> float:
    """Return Daly's optimum of the time from the beginning of one save to that of the next."""
    if cost >= 2.0 * mtbf:
        return mtbf + cost
    share = cost / (2.0 * mtbf)
    # Daly's is the time of work between two saves; the save itself comes on top, and takes his last term away.
    return math.sqrt(2.0 * cost * mtbf) * (1.0 + math.sqrt(share) / 3.0 + share / 9.0)
