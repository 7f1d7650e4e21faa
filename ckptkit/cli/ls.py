"""``ckptkit ls DIR``: the checkpoints of a directory, oldest first."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptkit.cli.printing import age_text, plain
from ckptkit.listing import DirectoryReader, Listing
from ckptkit.records import CheckpointRecord, finite_json
from ckptkit.stats import size_text

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "ls", help="list the checkpoints of a directory", epilog="example: ckptkit ls runs/digits"
    )
    parser.add_argument("path", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a checkpoint")
    parser.set_defaults(run=_run, verb="read")


def _run(options: argparse.Namespace) -> int:
    listing = DirectoryReader(options.path).scan()
    if options.json:
        rows = [_json(record) for record in listing.records]
        print(json.dumps(rows, indent=2, allow_nan=False))
    elif listing.records:
        Console().print(_table(listing))
    for name, reason in listing.damaged.items():
        print(plain(f"{name} is damaged: {reason}"), file=sys.stderr)
    if not listing.records and not listing.damaged:
        print(f"no checkpoints in {plain(options.path)}", file=sys.stderr)
    return 1 if listing.damaged or not listing.records else 0


def _table(listing: Listing) -> Table:
    table = Table()
    for heading in ("checkpoint", "step", "epoch", "age", "size", "metrics"):
        table.add_column(heading, justify="right" if heading in ("step", "epoch", "age", "size") else "left")
    for record in listing.records:
        # Text, for names may hold what rich takes for markup.
        table.add_row(*(Text(plain(cell)) for cell in _row(record, newest=record is listing.records[-1])))
    return table


def _json(record: CheckpointRecord) -> dict[str, Any]:
    created_at = finite_json({"created_at": record.created_at})
    numbers = {"metrics": finite_json(record.metrics), "best": finite_json(record.best)}
    return {**asdict(record), **created_at, **numbers}


def _row(record: CheckpointRecord, *, newest: bool) -> tuple[str, ...]:
    epoch = "" if record.epoch is None else str(record.epoch) + (f" + {record.batch} batches" if record.batch else "")
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    if record.foreign:
        metrics = "written by plain TensorFlow, unverified"
    name = record.name + (" (latest)" if newest else "")
    age = age_text(time.time() - record.created_at)
    return name, str(record.step), epoch, age, size_text(record.size_bytes), metrics
