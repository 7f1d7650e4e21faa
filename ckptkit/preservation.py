"""What to keep: small frozen policies over the records of a directory, combined with ``|`` and ``&``.

    policy = Latest(3) | Best("val_loss", "min")
    policy.keep(KeepContext(records, now=0.0))         # the prefixes that stay

A policy is pure and only names what stays. Whatever it says, the newest checkpoint, the one a run was resumed from
and one being read are never deleted; the manager sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ckptkit.combinators import Combinable, Combined
from ckptkit.records import CheckpointRecord

__all__ = ["All", "Best", "EveryNSecs", "KeepContext", "Latest", "PreservationPolicy"]


@dataclass(frozen=True)
class KeepContext:
    """What a policy may look at.

    Attributes:
        records: The committed checkpoints, oldest first.
        now: Seconds since the Epoch.
        preserved_at: Time of the last checkpoint kept for its age, before the first of ``records``.
    """

    records: Sequence[CheckpointRecord]
    now: float
    preserved_at: float = -math.inf


class PreservationPolicy(Combinable):
    """Base of all preservation policies."""

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefixes of the checkpoints that stay."""
        raise NotImplementedError


@dataclass(frozen=True)
class All(PreservationPolicy):
    """Keep everything."""

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return every prefix."""
        return frozenset(record.prefix for record in context.records)


@dataclass(frozen=True)
class Latest(PreservationPolicy):
    """Keep the ``n`` newest."""

    n: int = 1

    def __post_init__(self) -> None:
        _require(
            isinstance(self.n, int) and not isinstance(self.n, bool) and self.n >= 1, self, "n", self.n, "at least 1"
        )

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the last ``n`` prefixes."""
        return frozenset(record.prefix for record in context.records[-self.n :])


@dataclass(frozen=True)
class Best(PreservationPolicy):
    """Keep the ``n`` best by a metric; of equals the earlier. Records without the metric do not compete."""

    monitor: str
    mode: str
    n: int = 1

    def __post_init__(self) -> None:
        _require(isinstance(self.monitor, str) and self.monitor != "", self, "monitor", self.monitor, "a metric's name")
        _require(self.mode in ("min", "max"), self, "mode", self.mode, "'min' or 'max'")
        _require(
            isinstance(self.n, int) and not isinstance(self.n, bool) and self.n >= 1, self, "n", self.n, "at least 1"
        )

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return the prefixes of the ``n`` best."""
        sign = 1 if self.mode == "min" else -1
        scored = [r for r in context.records if not math.isnan(r.metrics.get(self.monitor, math.nan))]
        # sorted() is stable, so of equal values the earlier record comes first.
        return frozenset(r.prefix for r in sorted(scored, key=lambda r: sign * r.metrics[self.monitor])[: self.n])


@dataclass(frozen=True)
class EveryNSecs(PreservationPolicy):
    """Keep one checkpoint every ``secs`` seconds of training time."""

    secs: float

    def __post_init__(self) -> None:
        number = isinstance(self.secs, (int, float)) and not isinstance(self.secs, bool)
        _require(number and self.secs > 0, self, "secs", self.secs, "more than 0 seconds")

    def keep(self, context: KeepContext) -> frozenset[str]:
        """Return each prefix that is at least ``secs`` younger than the one kept before it."""
        kept: list[str] = []
        last = context.preserved_at
        for record in context.records:
            if record.created_at - self.secs >= last:
                kept.append(record.prefix)
                last = record.created_at
        return frozenset(kept)


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


def _require(fine: bool, policy: PreservationPolicy, name: str, value: Any, wanted: str) -> None:
    if not fine:
        raise ValueError(f"{type(policy).__name__} takes {name} = {wanted}, got {value!r}.")
