"""What a report of a directory tells: its checkpoints, its turns, its metrics, and what all of it cost.

facts = gather("runs/digits", now=time.time())
facts.totals.lost_secs

TensorFlow is not loaded, nothing in the directory is changed, and no lock is taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ckptkit.history import Event, read
from ckptkit.keeping import Upkeep
from ckptkit.listing import MANIFEST, DirectoryReader, Listing
from ckptkit.records import CheckpointRecord, Manifest, ManifestError
from ckptkit.report.curves import Curve, curves_of
from ckptkit.report.event_facts import text, whole
from ckptkit.report.saves import Save, saves_of
from ckptkit.report.turns import Turn, is_alive, turns_of
from ckptkit.report.wording import LAST_MOMENT

__all__ = ["Facts", "Incident", "Totals", "facts_of", "gather"]

_INCIDENTS = ("skipped", "failed", "restored")


@dataclass(frozen=True)
class Incident:
    """What happened in a turn and is no save: one was ``skipped``, one has ``failed``, or a checkpoint ``restored``."""

    kind: str
    turn: int
    at: float
    step: int | None
    why: str


@dataclass(frozen=True)
class Totals:
    """All of it in numbers.

    Attributes:
        saves: Checkpoints that were ever saved, as far as they are known.
        there: Checkpoints that can be restored.
        damaged: Checkpoints that cannot.
        skipped: Saves that were due and not taken, because two were under way.
        failed: Saves that could not be written.
        there_bytes: Size of those that can be restored.
        written_bytes: Size of all that were ever saved, as far as it is known.
        blocked_secs: How long training waited for saves; None where no save tells.
        lost_secs: By how much training came later for saves; None where no save tells.
        turns_secs: How long the turns took together.
        interruptions: How many turns were killed, preempted, or ended by an error, by kind.
        repeated_steps: How many steps were trained twice, at least.
    """

    saves: int
    there: int
    damaged: int
    skipped: int
    failed: int
    there_bytes: int
    written_bytes: int
    blocked_secs: float | None
    lost_secs: float | None
    turns_secs: float
    interruptions: Mapping[str, int]
    repeated_steps: int


@dataclass(frozen=True)
class Facts:
    """What is known of a directory.

    Attributes:
        directory: As it was asked for.
        name: What it is called, the last part of its path.
        made_at: Seconds since the Epoch.
        has_history: Whether anybody has noted what happened here.
        saves: Every checkpoint that is or was there, oldest first.
        turns: Every turn of a process, oldest first.
        curves: What was measured, by metric.
        incidents: What else happened, oldest first.
        monitor: The metric that says which checkpoint is the best, "" if none does.
        totals: All of it in numbers.
        unknown: What nobody can know, a sentence each.
    """

    directory: str
    name: str
    made_at: float
    has_history: bool
    saves: tuple[Save, ...]
    turns: tuple[Turn, ...]
    curves: tuple[Curve, ...]
    incidents: tuple[Incident, ...]
    monitor: str
    totals: Totals
    unknown: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not self.saves and not self.has_history


def gather(directory: str, now: float) -> Facts:
    """Read a directory and return what is known of it."""
    listing = DirectoryReader(directory).scan()
    events = [event for event in read(directory) if 0 <= event.at <= LAST_MOMENT]  # that is, at a time that there is
    known = {text(event, "name") for event in events if event.kind == "saved"}
    seconds = {each.name: _seconds(each) for each in listing.records if each.name not in known and not each.foreign}
    return facts_of(directory, listing, events, seconds, turns_of(events, is_alive), now)


def facts_of(
    directory: str,
    listing: Listing,
    events: Sequence[Event],
    seconds: Mapping[str, Mapping[str, float]],
    turns: tuple[Turn, ...],
    now: float,
) -> Facts:
    """Return what follows from what was read.

    Args:
        directory: Its path, to be shown.
        listing: What it holds.
        events: What has happened in it, oldest first.
        seconds: What manifests say that saves took, by name.
        turns: The turns that the events make.
        now: Seconds since the Epoch.
    """
    names = {"begun": "resumed_from", "restored": "name"}
    origins = [text(event, names[event.kind]) for event in events if event.kind in names]
    upkeep = Upkeep(listing, now, origins[-1] or None if origins else None)
    saves = tuple(_with_upkeep(save, upkeep) for save in saves_of(listing, events, seconds))
    numbers = {turn.run: turn.number for turn in turns}
    incidents = tuple(
        Incident(
            event.kind, numbers[event.run], event.at, whole(event, "step"), text(event, "why") or text(event, "name")
        )
        for event in events
        if event.kind in _INCIDENTS and event.run in numbers
    )
    return Facts(
        directory=directory,
        name=os.path.basename(os.path.abspath(directory)),
        made_at=now,
        has_history=bool(events),
        saves=saves,
        turns=turns,
        curves=curves_of(events, turns, listing.records),
        incidents=incidents,
        monitor="" if upkeep.best_policy is None else upkeep.best_policy.monitor,
        totals=_totals(saves, turns, incidents),
        unknown=_unknown(saves, turns),
    )


def _seconds(record: CheckpointRecord) -> Mapping[str, float]:
    try:
        with open(record.prefix + MANIFEST, "rb", buffering=0) as file:
            return Manifest.read_head(file).seconds
    except (OSError, ManifestError):  # deleted meanwhile, or plain TensorFlow has written over it
        return {}


def _with_upkeep(save: Save, upkeep: Upkeep) -> Save:
    if not save.is_there:
        return save
    return replace(save, kept_by=tuple(upkeep.reasons.get(save.name, ())), is_best=save.name == upkeep.best)


def _totals(saves: Sequence[Save], turns: Sequence[Turn], incidents: Sequence[Incident]) -> Totals:
    ended = [turn.ended for turn in turns if turn.is_interrupted]
    return Totals(
        saves=len(saves),
        there=sum(save.is_there for save in saves),
        damaged=sum(save.fate == "damaged" for save in saves),
        skipped=sum(incident.kind == "skipped" for incident in incidents),
        failed=sum(incident.kind == "failed" for incident in incidents),
        there_bytes=sum(save.size_bytes or 0 for save in saves if save.is_there),
        written_bytes=sum(save.size_bytes or 0 for save in saves),
        blocked_secs=_sum([save.blocked_secs for save in saves]),
        lost_secs=_sum([save.lost_secs for save in saves]),
        turns_secs=sum(turn.seen_at - turn.began_at for turn in turns),
        interruptions={kind: ended.count(kind) for kind in dict.fromkeys(ended)},
        repeated_steps=sum(turn.repeated_steps for turn in turns),
    )


def _sum(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _unknown(saves: Sequence[Save], turns: Sequence[Turn]) -> tuple[str, ...]:
    sentences = []
    if not turns:
        sentences.append(
            "No history lies in this directory: plain TensorFlow, or a ckptkit that did not keep one yet, wrote it. "
            "What was pruned, how much training time saves cost, and when the run was interrupted cannot be known."
        )
    elif any(turn.first_step is None for turn in turns[:1]):
        sentences.append("The history does not go back to the beginning: what happened before is not told here.")
    if foreign := [save.name for save in saves if save.fate == "foreign"]:
        sentences.append(
            f"{_some(foreign)}: written by plain TensorFlow. No manifest says its epoch, its metrics, what its save "
            "took, or whether its files are what was written."
        )
    if any(turn.ended == "unknown" for turn in turns):
        sentences.append(
            "Whether the last turn is at work still or was killed cannot be known from here: it is, or was, another "
            "machine's."
        )
    return tuple(sentences)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
