"""Every checkpoint that is or was in a directory: what it is, what its save cost, and what became of it.

for save in saves_of(listing, read("runs/digits"), seconds={}):
    print(save.name, save.fate, save.lost_secs)       # ckpt-1200 pruned 0.04
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ckptkit.history import Event
from ckptkit.listing import Listing
from ckptkit.records import CheckpointRecord
from ckptkit.report.event_facts import metrics, names, number, text, whole

__all__ = ["FATES", "GONE", "Save", "saves_of"]

GONE = ("pruned", "replaced", "missing")
FATES = ("kept", "foreign", "damaged", *GONE)


@dataclass(frozen=True)
class Save:
    """One checkpoint, as far as it is known.

    Attributes:
        name: ``ckpt-1200``; one that was saved again is there twice.
        step: None where nothing tells it.
        epoch: Epochs done.
        batch: Batches done in the epoch that follows.
        at: When it was committed, in seconds since the Epoch.
        metrics: What was measured at that moment.
        size_bytes: Size of all its files.
        blocked_secs: How long training waited.
        lost_secs: By how much training came later, the time blocked included.
        written_secs: How long the files took to write.
        fate: One of :data:`FATES`.
        damage: Why it is taken for damaged.
        kept_by: What keeps it: policies in words, or why else it stays.
        is_latest: Whether it is the newest.
        is_best: Whether it is the best, by the run's own policy.
        resumed_times: How many turns went on from it.
    """

    name: str
    step: int | None = None
    epoch: int | None = None
    batch: int | None = None
    at: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    size_bytes: int | None = None
    blocked_secs: float | None = None
    lost_secs: float | None = None
    written_secs: float | None = None
    fate: str = "kept"
    damage: str = ""
    kept_by: tuple[str, ...] = ()
    is_latest: bool = False
    is_best: bool = False
    resumed_times: int = 0

    @property
    def is_there(self) -> bool:
        """Whether there are files of it that somebody may use."""
        return self.fate in ("kept", "foreign")


def saves_of(listing: Listing, events: Sequence[Event], seconds: Mapping[str, Mapping[str, float]]) -> tuple[Save, ...]:
    """Return every checkpoint that the directory or its history tells of, oldest first.

    Args:
        listing: What the directory holds.
        events: What happened, oldest first.
        seconds: What the manifests say that saves took, by name; of those that the history does not know.
    """
    past, current = _past(events)
    there = {record.name: record for record in listing.records}
    damaged = {**_damaged_inside(listing.records), **listing.damaged}
    for name, at in current.items():
        if name in there:
            past[at] = _of_record(there[name], past[at])
        elif past[at].fate == "kept":
            past[at] = replace(past[at], fate="missing")
    unknown = [name for name in (*there, *listing.damaged) if name not in current]
    for name in unknown:
        current[name] = len(past)
        save = _took(name, seconds)
        past.append(_of_record(there[name], save) if name in there else save)
    origins = Counter(text(event, "resumed_from") for event in events if event.kind == "begun")
    latest = listing.records[-1].name if listing.records else None
    for name, at in current.items():
        past[at] = replace(past[at], is_latest=name == latest, resumed_times=origins[name])
        if name in damaged:
            past[at] = replace(past[at], fate="damaged", damage=damaged[name])
    # What the history does not know of is older than it, as a rule; a time tells better.
    return tuple(sorted(past, key=lambda save: 0.0 if save.at is None else save.at))


def _past(events: Iterable[Event]) -> tuple[list[Save], dict[str, int]]:
    """Return what was ever saved, and where in that list the newest of each name is."""
    saves: list[Save] = []
    current: dict[str, int] = {}
    for event in events:
        name = text(event, "name")
        if event.kind == "saved" and name:
            if name in current and saves[current[name]].fate == "kept":
                saves[current[name]] = replace(saves[current[name]], fate="replaced")
            current[name] = len(saves)
            saves.append(_of_event(event))
        elif event.kind == "cost" and name in current:
            known = saves[current[name]]
            blocked = number(event, "blocked_secs")  # in all: more may have come after the commit
            blocked = known.blocked_secs if blocked is None else blocked
            saves[current[name]] = replace(known, lost_secs=number(event, "lost_secs"), blocked_secs=blocked)
        elif event.kind == "pruned":
            for gone in names(event, "names"):
                if gone in current:
                    saves[current[gone]] = replace(saves[current[gone]], fate="pruned")
    return saves, current


def _of_event(event: Event) -> Save:
    return Save(
        name=text(event, "name"),
        step=whole(event, "step"),
        epoch=whole(event, "epoch"),
        batch=whole(event, "batch"),
        at=event.at,
        metrics=metrics(event),
        size_bytes=whole(event, "size_bytes"),
        blocked_secs=number(event, "blocked_secs"),
        written_secs=number(event, "written_secs"),
    )


def _of_record(record: CheckpointRecord, known: Save) -> Save:
    """Return what a directory says of a checkpoint, with what is known of its save."""
    return replace(
        known,
        step=record.step,
        epoch=record.epoch,
        batch=record.batch,
        at=record.created_at or None,
        metrics=dict(record.metrics),
        size_bytes=record.size_bytes,
        fate="foreign" if record.foreign else "kept",
    )


def _damaged_inside(records: Iterable[CheckpointRecord]) -> dict[str, str]:
    """Return those that somebody has read, and that were not what was written, though all files look right."""
    doubted = {told for record in records for told in record.found_damaged.items()}
    why = "it was read before, and its content was not what was written"
    return {record.name: why for record in records if (record.name, record.sequence) in doubted}


def _took(name: str, seconds: Mapping[str, Mapping[str, float]]) -> Save:
    told = seconds.get(name, {})
    return Save(name, blocked_secs=told.get("blocked"), written_secs=told.get("written"))
