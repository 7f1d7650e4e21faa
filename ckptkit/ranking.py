"""Which checkpoint is better by a metric: NaN never is, and one that does not carry the metric does not compete.

best = best_record(records, monitor="val_loss", mode="min")
ranked = best_first(records, "val_accuracy", "max")
best_so_far = best_values({"val_loss": 0.3}, {"val_loss": 0.2}, modes={"val_loss": "min"})    # {"val_loss": 0.2}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ckptkit.records import CheckpointRecord

__all__ = ["best_first", "best_record", "best_values", "is_better"]


def is_better(value: float, than: float | None, mode: str) -> bool:
    """Say whether a metric's value beats another; NaN never does, and everything else beats nothing."""
    if math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value < than if mode == "min" else value > than


def best_first(records: Iterable[CheckpointRecord], monitor: str, mode: str) -> list[CheckpointRecord]:
    """Return the records that carry ``monitor``, the best first; of equals that of the earliest step, then by name."""
    sign = 1 if mode == "min" else -1
    scored = [record for record in records if not math.isnan(record.metrics.get(monitor, math.nan))]
    return sorted(scored, key=lambda record: (sign * record.metrics[monitor], record.step, record.name))


def best_record(records: Iterable[CheckpointRecord], monitor: str, mode: str) -> CheckpointRecord | None:
    """Return the first of :func:`best_first`, None if no record carries the metric."""
    return next(iter(best_first(records, monitor, mode)), None)


def best_values(*measured: Mapping[str, float], modes: Mapping[str, str]) -> dict[str, float]:
    """Return the best value of each metric in ``modes``, of those that were measured at all."""
    best: dict[str, float] = {}
    for metrics in measured:
        for monitor, mode in modes.items():
            value = metrics.get(monitor, math.nan)
            if is_better(value, best.get(monitor), mode):
                best[monitor] = value
    return best
