"""What to keep: small frozen policies over records that combine with ``|`` and ``&``.

    >>> from ckptkit.preservation import Best, KeepContext, Latest
    >>> policy = Latest(1) | Best("loss", "min")
    >>> losses = {100: 0.2, 200: 0.6, 300: 0.4}
    >>> records = [ckptkit.CheckpointRecord(f"ckpt-{step}", step, metrics={"loss": losses[step]}) for step in losses]
    >>> sorted(policy.keep(KeepContext(records, now=0.0)))  # the prefixes that stay
    ['ckpt-100', 'ckpt-300']
    >>> manager = ckptkit.CheckpointManager(checkpoint, "runs/digits", max_to_keep=None, preservation_policy=policy)

A policy is pure and only names what stays. Whatever it says, the newest checkpoint, the one a run was resumed from
and one being read are never deleted; the manager sees to that.

To prune after every save leaves what pruning once at the end would leave, with each policy and with any union. With
``&`` it leaves that too, and may leave more. Of the losses 1, 2, 3, 4 ``Latest(3) & Best("loss", "min")`` keeps none at
the end, as the best is not among the latest three; but it is, if 2 was pruned before 4 came. ``EveryNSecs`` inside
``&`` may even leave others: what it counts from may have been pruned by the other policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ckptkit.arguments import require_count, require_metric, require_mode, require_number, require_steps
from ckptkit.combinators import Combinable, Combined
from ckptkit.ranking import best_first
from ckptkit.records import CheckpointRecord

__all__ = [
    "All",
    "Best",
    "EveryNSecs",
    "EveryNSteps",
    "KeepContext",
    "Latest",
    "NewerThan",
    "PreservationPolicy",
    "Steps",
]


@dataclass(frozen=True)
class KeepContext:
    """What a policy may look at.

    Attributes:
        records: The committed checkpoints, oldest first.
        now: Seconds since the Epoch.
        preserved_at: Time of the last checkpoint kept for its age, before the first of ``records``.

    Example:
        >>> context = ckptkit.preservation.KeepContext(manager.records(), now=0.0)
        >>> ckptkit.preservation.All().keep(context)
        frozenset()
    """

    records: Sequence[CheckpointRecord]
    now: float
    preserved_at: float = -math.inf


class PreservationPolicy(Combinable):
    """Base of all preservation policies, also of your own.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class EpochEnds(ckptkit.preservation.PreservationPolicy):
        ...     def keep(self, context):
        ...         return frozenset(record.prefix for record in context.records if not record.batch)
        >>> ckptkit.preservation.Latest(3) | EpochEnds()
        Latest(n=3) | EpochEnds()
    """

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefixes of the checkpoints that stay.

        Args:
            context: What a policy may look at.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class All(PreservationPolicy):
    """Keep everything.

    Example:
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{step}", step) for step in (900, 1000, 2100)]
        >>> sorted(ckptkit.preservation.All().keep(ckptkit.preservation.KeepContext(records, now=0.0)))
        ['ckpt-1000', 'ckpt-2100', 'ckpt-900']
    """

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return every prefix."""
        return frozenset(record.prefix for record in context.records)


@dataclass(frozen=True)
class Latest(PreservationPolicy):
    """Keep the ``n`` newest.

    Example:
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{step}", step) for step in (900, 1000, 2100)]
        >>> sorted(ckptkit.preservation.Latest(2).keep(ckptkit.preservation.KeepContext(records, now=0.0)))
        ['ckpt-1000', 'ckpt-2100']
    """

    n: int = 1

    def __post_init__(self) -> None:
        require_count(self, "n", self.n)

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the last ``n`` prefixes."""
        return frozenset(record.prefix for record in context.records[-self.n :])


@dataclass(frozen=True)
class Best(PreservationPolicy):
    """Keep the ``n`` best by a metric; of equals the one of the earlier step.

    Records without the metric do not compete.

    Args:
        monitor: Name of the metric.
        mode: ``"min"`` where less is better, else ``"max"``.
        n: How many, at least 1.

    Example:
        >>> losses = {100: 0.2, 200: 0.6, 300: 0.4}
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{at}", at, metrics={"loss": losses[at]}) for at in losses]
        >>> context = ckptkit.preservation.KeepContext(records, now=0.0)
        >>> sorted(ckptkit.preservation.Best("loss", "min", n=2).keep(context))
        ['ckpt-100', 'ckpt-300']
    """

    monitor: str
    mode: str
    n: int = 1

    def __post_init__(self) -> None:
        require_metric(self, self.monitor)
        require_mode(self, self.mode)
        require_count(self, "n", self.n)

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefixes of the ``n`` best."""
        ranked = best_first(context.records, self.monitor, self.mode)
        return frozenset(record.prefix for record in ranked[: self.n])


@dataclass(frozen=True)
class EveryNSteps(PreservationPolicy):
    """Keep the first checkpoint at or after each multiple of ``n`` steps, from ``n`` itself on.

    Example:
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{step}", step) for step in (900, 1000, 2100)]
        >>> sorted(ckptkit.preservation.EveryNSteps(1000).keep(ckptkit.preservation.KeepContext(records, now=0.0)))
        ['ckpt-1000', 'ckpt-2100']
    """

    n: int

    def __post_init__(self) -> None:
        require_count(self, "n", self.n)

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefix of the earliest step behind each multiple."""
        first: dict[int, CheckpointRecord] = {}
        for record in context.records:
            multiple = record.step // self.n
            if multiple > 0 and (multiple not in first or record.step < first[multiple].step):
                first[multiple] = record
        return frozenset(record.prefix for record in first.values())


@dataclass(frozen=True)
class EveryNSecs(PreservationPolicy):
    """Keep one checkpoint every ``secs`` seconds of training time; where the clock was set back, count anew.

    Example:
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{at}", at, created_at=float(at)) for at in (10, 40, 90)]
        >>> sorted(ckptkit.preservation.EveryNSecs(50).keep(ckptkit.preservation.KeepContext(records, now=100.0)))
        ['ckpt-10', 'ckpt-90']
    """

    secs: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "secs", require_number(self, "secs", self.secs))

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return each prefix that is at least ``secs`` younger than the one kept before it, or older than that."""
        kept: list[str] = []
        last = context.preserved_at
        for record in context.records:
            was_set_back = bool(kept) and record.created_at < last
            if record.created_at - self.secs >= last or was_set_back:
                kept.append(record.prefix)
                last = record.created_at
        return frozenset(kept)


@dataclass(frozen=True)
class NewerThan(PreservationPolicy):
    """Keep what is less than ``secs`` seconds old.

    Example:
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{at}", at, created_at=float(at)) for at in (10, 40, 90)]
        >>> sorted(ckptkit.preservation.NewerThan(70).keep(ckptkit.preservation.KeepContext(records, now=100.0)))
        ['ckpt-40', 'ckpt-90']
    """

    secs: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "secs", require_number(self, "secs", self.secs))

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefixes of those that were made in the last ``secs`` seconds."""
        return frozenset(r.prefix for r in context.records if context.now - r.created_at < self.secs)


@dataclass(frozen=True)
class Steps(PreservationPolicy):
    """Keep the checkpoints of exactly these ``steps``.

    Example:
        >>> records = [ckptkit.CheckpointRecord(f"ckpt-{step}", step) for step in (900, 1000, 2100)]
        >>> sorted(ckptkit.preservation.Steps([900, 1000]).keep(ckptkit.preservation.KeepContext(records, now=0.0)))
        ['ckpt-1000', 'ckpt-900']
    """

    steps: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", require_steps(self, self.steps))

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefixes of those whose step is listed."""
        return frozenset(record.prefix for record in context.records if record.step in self.steps)


@dataclass(frozen=True, repr=False)
class _AnyOf(Combined, PreservationPolicy):
    operator = "|"

    def keep(self, context: KeepContext) -> frozenset[str]:
        return frozenset().union(*(part.keep(context) for part in self.parts))


@dataclass(frozen=True, repr=False)
class _AllOf(Combined, PreservationPolicy):
    operator = "&"

    def keep(self, context: KeepContext) -> frozenset[str]:
        return frozenset.intersection(*(part.keep(context) for part in self.parts))


PreservationPolicy.family = PreservationPolicy
PreservationPolicy.union, PreservationPolicy.intersection = _AnyOf, _AllOf
