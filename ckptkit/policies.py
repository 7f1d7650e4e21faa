"""When to save: small frozen policies that read one context and combine with ``|`` and ``&``.

    policy = EverySteps(500) | EveryEpochs(1)
    policy.should_save(SaveContext(step=1000, previous_step=996))       # True: a multiple of 500 was crossed

A policy is pure: it sees no clock, no disk and no log, so the same context always gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptkit.combinators import Combinable, Combined

__all__ = ["Always", "EveryEpochs", "EverySteps", "Never", "SaveContext", "SavePolicy"]


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
    """

    step: int
    previous_step: int
    epoch: int = 0
    previous_epoch: int = 0
    now: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


class SavePolicy(Combinable):
    """Base of all save policies."""

    def should_save(self, context: SaveContext) -> bool:
        """Say whether a checkpoint is due."""
        raise NotImplementedError


@dataclass(frozen=True)
class EverySteps(SavePolicy):
    """Save whenever a multiple of ``n`` steps was crossed since the last question.

    Crossed, not met: with ``steps_per_execution=4`` Keras jumps from step 8 to step 12, and ``EverySteps(10)`` saves.
    """

    n: int

    def __post_init__(self) -> None:
        _require_count(self, self.n)

    def should_save(self, context: SaveContext) -> bool:
        """Say whether a multiple of ``n`` lies after the previous step, up to this one."""
        return context.step // self.n > context.previous_step // self.n


@dataclass(frozen=True)
class EveryEpochs(SavePolicy):
    """Save at the end of every ``n``-th epoch."""

    n: int = 1

    def __post_init__(self) -> None:
        _require_count(self, self.n)

    def should_save(self, context: SaveContext) -> bool:
        """Say whether a multiple of ``n`` epochs was finished since the previous question."""
        return context.epoch // self.n > context.previous_epoch // self.n


@dataclass(frozen=True)
class Always(SavePolicy):
    """Save at every opportunity."""

    def should_save(self, context: SaveContext) -> bool:
        """Say yes."""
        return True


@dataclass(frozen=True)
class Never(SavePolicy):
    """Never save on one's own; explicit saves still happen."""

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


def _require_count(policy: SavePolicy, n: Any) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"{type(policy).__name__} takes a whole number of at least 1, got {n!r}.")
