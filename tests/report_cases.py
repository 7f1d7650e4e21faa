"""A run that was killed, preempted and came to its end, as its directory and its history tell of it."""

from __future__ import annotations

import os

from ckptkit.history import Event
from ckptkit.listing import META, Listing
from ckptkit.records import CheckpointRecord
from ckptkit.report.facts import facts_of
from ckptkit.report.turns import turns_of
from tests import checkpoint_dirs

NOW = 1_790_010_000.0
CONFIG = {"training_checkpoint": {"max_to_keep": 2, "monitor": "val_loss", "mode": "min", "preservation_policy": None}}


def event(kind, at, run="a", **facts):
    """An event, so many seconds after the run began."""
    return Event(kind, NOW - 10_000.0 + at, run, facts)


def saved(at, step, run="a", **facts):
    facts = {"epoch": step // 100, "batch": 0, "metrics": {}, "size_bytes": 1000, "blocked_secs": 0.002, **facts}
    return event("saved", at, run, **{"name": f"ckpt-{step}", "step": step, **facts})


def measured(at, step, run="a", **metrics):
    return event("measured", at, run, step=step, epoch=step // 100, metrics=metrics)


def cost(at, step, secs, run="a"):
    return event("cost", at, run, name=f"ckpt-{step}", step=step, lost_secs=secs)


EVENTS = (
    event("begun", 0, "a", step=0, resumed_from=None, workers=1, pid=7, host="node-1"),
    saved(100, 100, "a", metrics={"loss": 0.9, "val_loss": 0.8}),
    cost(101, 100, 0.1, "a"),
    measured(100, 100, "a", loss=0.9, val_loss=0.8),
    saved(200, 200, "a", metrics={"loss": 0.5, "val_loss": 0.4}),
    measured(200, 200, "a", loss=0.5, val_loss=0.4),
    cost(201, 200, 0.3, "a"),
    event("skipped", 250, "a", step=250),
    measured(300, 300, "a", loss=0.41, val_loss=0.47),  # killed after this: the save of 300 never came
    event("begun", 1000, "b", step=200, resumed_from="ckpt-200", workers=1, pid=8, host="node-2"),
    saved(1100, 300, "b", metrics={"loss": 0.4, "val_loss": 0.45}),
    measured(1100, 300, "b", loss=0.4, val_loss=0.45),
    event("pruned", 1101, "b", names=["ckpt-100"]),
    event("failed", 1150, "b", step=350, why="OSError 28 No space left on device"),
    saved(1180, 380, "b"),
    event("preempted", 1181, "b", step=380, cause="SIGTERM"),
    event("begun", 5000, "c", step=380, resumed_from="ckpt-380", workers=1, pid=9, host="node-3"),
    saved(5100, 400, "c", metrics={"loss": 0.35, "val_loss": 0.5}),
    measured(5100, 400, "c", loss=0.35, val_loss=0.5),
    event("pruned", 5101, "c", names=["ckpt-300"]),
    event("ended", 5110, "c", step=400),
)


def record(step, at, metrics, **facts):
    """What a scan has for a checkpoint that was committed so many seconds after the run began."""
    facts = {"epoch": step // 100, "batch": 0, "config": CONFIG, "size_bytes": 1000, "sequence": step, **facts}
    return CheckpointRecord(f"runs/a/ckpt-{step}", step, metrics=metrics, created_at=NOW - 10_000.0 + at, **facts)


RECORDS = (
    record(200, 200, {"loss": 0.5, "val_loss": 0.4}),
    record(380, 1180, {}),
    record(400, 5100, {"loss": 0.35, "val_loss": 0.5}),
)


def facts(events=EVENTS, records=RECORDS, damaged=None, *, directory="runs/a", seconds=None, is_alive=None):
    """What a report makes of it."""
    turns = turns_of(events, is_alive or (lambda pid, host: None))
    return facts_of(directory, Listing(tuple(records), damaged or {}), events, seconds or {}, turns, NOW)


def write(directory, events=EVENTS):
    """Write the same to a directory, real checkpoints among it."""
    for each in RECORDS:
        known = {key: getattr(each, key) for key in ("epoch", "batch", "metrics", "config", "created_at")}
        checkpoint_dirs.save(directory, each.step, **known)
    with open(os.path.join(directory, META, "history.jsonl"), "w") as file:
        file.writelines(each.to_json() + "\n" for each in events)
