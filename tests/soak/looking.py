"""What is in a directory after a life, read without TensorFlow and compared with what has to be there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptkit.errors import CheckpointError
from ckptkit.listing import META, DirectoryReader
from tests.soak import fingerprints
from tests.soak.expected import Expected


@dataclass(frozen=True)
class Seen:
    """A directory's checkpoints, oldest first, what is wrong with them, and what belongs to none of them.

    Attributes:
        metrics: Those of each checkpoint that can be read, by its step.
        wrong: A line for each that cannot, or holds other values than the run had at that step.
        litter: What belongs to no checkpoint, told from later things of the same name.
    """

    metrics: Mapping[int, Mapping[str, float]]
    wrong: Mapping[int | str, str]
    litter: frozenset[tuple[str, int, int]]

    def after(self, step: int | None) -> list[int]:
        """Return the steps that were committed after one, which must be there; all of them for None."""
        order = list(self.metrics)
        if step is None:
            return order
        return order[order.index(step) + 1 :] if step in order else []


def look(directory: str, reference: Mapping[int, Mapping[str, Any]]) -> Seen:
    """Read everything in a directory."""
    listing = DirectoryReader(directory).scan()
    metrics: dict[int, Mapping[str, float]] = {}
    wrong: dict[int | str, str] = {int(name.rpartition("-")[2]): why for name, why in listing.damaged.items()}
    for record in listing.records:
        why = _why_wrong(record.prefix, reference.get(record.step))
        if why is not None:
            wrong[record.step] = why
        else:
            metrics[record.step] = record.metrics
    known = {record.name for record in listing.records} | set(listing.damaged)
    return Seen(metrics, wrong, frozenset(_litter(directory, known)))


def missing(seen: Seen, expected: Expected) -> list[str]:
    """Return a line for each checkpoint that must be there and is not, or is not what it was."""
    told = f"(there, oldest first: {list(seen.metrics)}; must be there: {list(expected.steps)})"
    return [
        f"checkpoint of step {step} {seen.wrong.get(step, 'is gone')} {told}"
        for step in expected.steps
        if step not in seen.metrics
    ]


def _why_wrong(prefix: str, reference: Mapping[str, Any] | None) -> str | None:
    try:
        values, state = fingerprints.in_file(prefix)
    except (CheckpointError, OSError) as error:
        return f"cannot be read: {error}"
    if reference is None:
        return "is of a step that the undisturbed run does not have"
    if Counter(reference["variables"]) - values:
        return "does not hold the variables of that step"
    return None if state == reference["state"] else "does not hold the run's state at that step"


def _litter(directory: str, known: set[str]) -> list[tuple[str, int, int]]:
    found = []
    for folder in (directory, os.path.join(directory, META)):
        if not os.path.isdir(folder):
            continue
        for entry in os.scandir(folder):
            name = entry.name.removesuffix(".manifest.json").removesuffix(".index").partition(".data-")[0]
            if name not in known and entry.name not in (META, "checkpoint", "lock"):
                facts = entry.stat(follow_symlinks=False)
                found.append((entry.path, facts.st_ino, facts.st_ctime_ns))
    return found
