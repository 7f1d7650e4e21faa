"""Policies that combine with ``|`` and ``&``: flat, readable, and deaf to anything that is not a policy.

EverySteps(500) | EveryEpochs(1)           # one is enough
Latest(3) | Best("val_loss", "min", n=2)   # what either of them keeps
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

__all__ = ["Combinable", "Combined", "alternatives", "leaves"]

P = TypeVar("P", bound="Combinable")


class Combinable:
    """A frozen policy that knows the classes of its own unions and intersections."""

    # The family's root class: only members of one family combine. Set by the modules that own a family.
    family: ClassVar[type]
    union: ClassVar[type]
    intersection: ClassVar[type]

    def __or__(self: P, other: P) -> P:
        return cast("P", _combine(self.union, self, other))

    def __and__(self: P, other: P) -> P:
        return cast("P", _combine(self.intersection, self, other))


@dataclass(frozen=True)
class Combined:
    """Several policies of one family under one operator."""

    parts: tuple[Any, ...]
    operator: ClassVar[str]

    def __repr__(self) -> str:
        return f" {self.operator} ".join(f"({p!r})" if isinstance(p, Combined) else repr(p) for p in self.parts)


def leaves(policy: Combinable | None) -> Iterator[Combinable]:
    """Yield the policies that one is combined from, in the order in which they are written; itself, if it is none."""
    for part in policy.parts if isinstance(policy, Combined) else () if policy is None else (policy,):
        if isinstance(part, Combined):
            yield from leaves(cast("Combinable", part))
        else:
            yield part


def alternatives(policy: P) -> list[P]:
    """Return the policies of which one is enough for what a policy says; itself, if it is no union."""
    return list(cast("Any", policy).parts) if isinstance(policy, policy.union) else [policy]


def _combine(kind: Any, left: Any, right: Any) -> Any:
    if not isinstance(right, left.family):
        return NotImplemented
    parts: list[Any] = []
    for side in (left, right):
        for part in side.parts if isinstance(side, kind) else (side,):
            if part not in parts:
                parts.append(part)
    return parts[0] if len(parts) == 1 else kind(tuple(parts))
