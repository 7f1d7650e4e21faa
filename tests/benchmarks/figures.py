"""What a benchmark says: samples by contestant, held against targets. Pure arithmetic, no TensorFlow.

figure = Figure("blocking", "s", {"ours": [0.01], "TensorFlow": [0.8]}, (Target("ours", 0.01, "TensorFlow"),))
figure.value(figure.targets[0])      # 0.0125
figure.reached(figure.targets[0])    # False
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """What one contestant must reach: a bound on its median, or on the ratio to the median of another."""

    contestant: str
    limit: float
    against: str | None = None
    at_least: bool = False
    worst: bool = False  # of its samples the greatest counts, as of a need for memory

    def __str__(self):
        text = f"{'≥' if self.at_least else '≤'} {self.limit:.3g}"
        return text if self.against is None else f"{text} × {self.against}"


@dataclass(frozen=True)
class Figure:
    """One figure of the table: its name, the unit of its samples, the samples, the targets, what else to know."""

    name: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    targets: tuple[Target, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)  # measured beside it, for the JSON

    def value(self, target):
        """Return what is held against the target; None where there is nothing to hold against it."""
        samples = self.samples.get(target.contestant, ())
        ours = max(samples, default=None) if target.worst else median(samples)
        if target.against is None:
            return ours
        return ratio(ours, median(self.samples.get(target.against, ())))

    def reached(self, target):
        """Say whether the target is reached; None if that cannot be said."""
        value = self.value(target)
        if value is None:
            return None
        return value >= target.limit if target.at_least else value <= target.limit


def median(samples: Iterable[float]) -> float | None:
    """Return the median, None of nothing."""
    samples = list(samples)
    return statistics.median(samples) if samples else None


def spread(samples: Iterable[float]) -> tuple[float, float] | None:
    """Return the least and the most, None of nothing."""
    samples = list(samples)
    return (min(samples), max(samples)) if samples else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return how many times theirs ours is; None where theirs is nothing, as a loss below the noise is."""
    return None if ours is None or theirs is None or theirs <= 0 else ours / theirs


def best(samples: Mapping[str, Sequence[float]], among: Iterable[str]) -> str | None:
    """Return which of some contestants has the least median; None if none of them took part."""
    medians = {name: median(samples.get(name, ())) for name in among}
    there = {name: value for name, value in medians.items() if value is not None}
    return min(there, key=there.__getitem__) if there else None


def against_best(
    contestants: Iterable[str], samples: Mapping[str, Sequence[float]], peers: Iterable[str], limit: float
):
    """Return a target against the best peer for each contestant that took part."""
    peer = best(samples, peers)
    return tuple(Target(name, limit, peer) for name in contestants if samples.get(name)) if peer is not None else ()


def lost(window: float, steps: int, step: float) -> float:
    """Return the training time that a save has cost.

    Args:
        window: Seconds from the call of the save until it was done, whole steps included.
        steps: Steps done in that time.
        step: Seconds of a step without a save.
    """
    return window - steps * step
