"""Metrics over steps, of turns that may have trained some steps twice.

for curve in curves_of(events, turns, records):
    curve.metric, curve.steps, curve.values

A step that a later turn began before was trained again, or given up: what was measured there is kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ckptkit.history import Event
from ckptkit.records import CheckpointRecord
from ckptkit.report.event_facts import metrics, whole
from ckptkit.report.turns import Turn

__all__ = ["Curve", "curves_of", "families"]

_VALIDATION = "val_"


@dataclass(frozen=True)
class Curve:
    """What was measured of one metric, by step.

    Attributes:
        metric: Its name.
        steps: Where, in order.
        values: What, NaN among them.
        lost_steps: Where it was measured in work that was lost or given up.
        lost_values: What was measured there.
    """

    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    lost_steps: tuple[int, ...] = ()
    lost_values: tuple[float, ...] = ()


def curves_of(events: Iterable[Event], turns: Sequence[Turn], records: Iterable[CheckpointRecord]) -> tuple[Curve, ...]:
    """Return a curve for each metric, in the order in which they were first measured."""
    good: dict[str, dict[int, float]] = {}
    lost: dict[str, dict[int, float]] = {}
    ends = _ends(turns)
    for event in events:
        step = whole(event, "step")
        if event.kind in ("measured", "saved") and step is not None:
            for metric, value in metrics(event).items():
                good.setdefault(metric, {})
                (good if step <= ends[event.run] else lost).setdefault(metric, {})[step] = value
    for record in records:
        for metric, value in record.metrics.items():
            good.setdefault(metric, {}).setdefault(record.step, value)
    return tuple(_curve(metric, points, lost.get(metric, {})) for metric, points in good.items())


def families(curves: Iterable[Curve]) -> tuple[tuple[Curve, ...], ...]:
    """Return the curves that belong into one chart together: of a metric in training and in validation."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.metric.removeprefix(_VALIDATION), []).append(curve)
    return tuple(
        tuple(sorted(family, key=lambda curve: curve.metric.startswith(_VALIDATION))) for family in found.values()
    )


def _ends(turns: Sequence[Turn]) -> dict[str, float]:
    """Return the last step of each turn that no later one has gone back behind."""
    ends: dict[str, float] = {}
    end = math.inf
    for turn in reversed(turns):
        ends[turn.run] = end
        end = min(end, math.inf if turn.first_step is None else turn.first_step)
    return ends


def _curve(metric: str, good: dict[int, float], lost: dict[int, float]) -> Curve:
    steps, lost_steps = sorted(good), sorted(lost)
    return Curve(
        metric,
        tuple(steps),
        tuple(good[step] for step in steps),
        tuple(lost_steps),
        tuple(lost[step] for step in lost_steps),
    )
