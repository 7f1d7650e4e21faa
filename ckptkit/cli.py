"""The command line: ``ckptkit ls DIR``.

$ ckptkit ls runs/digits
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptkit.listing import DirectoryReader, Listing
from ckptkit.records import CheckpointRecord, finite_json
from ckptkit.stats import size_text

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 problems found, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="ckptkit", description="Look at directories of checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="list the checkpoints of a directory", epilog="example: ckptkit ls runs/digits")
    ls.add_argument("directory", metavar="DIR")
    ls.add_argument("--json", action="store_true", help="print JSON, one object a checkpoint")
    options = parser.parse_args(arguments)
    return _list(options.directory, as_json=options.json)


def _list(directory: str, *, as_json: bool) -> int:
    try:
        listing = DirectoryReader(directory).scan()
    except OSError as error:
        print(f"cannot read {directory}: {error.strerror}", file=sys.stderr)
        return 2
    if as_json:
        rows = [_json(record) for record in listing.records]
        print(json.dumps(rows, indent=2, allow_nan=False))
    elif listing.records:
        Console().print(_table(listing))
    for name, reason in listing.damaged.items():
        print(_printable(f"{name} is damaged: {reason}"), file=sys.stderr)
    if not listing.records and not listing.damaged:
        print(f"no checkpoints in {directory}", file=sys.stderr)
    return 1 if listing.damaged or not listing.records else 0


def _table(listing: Listing) -> Table:
    table = Table()
    for heading in ("checkpoint", "step", "epoch", "age", "size", "metrics"):
        table.add_column(heading, justify="right" if heading in ("step", "epoch", "age", "size") else "left")
    for record in listing.records:
        # Text, for names may hold what rich takes for markup.
        table.add_row(*(Text(_printable(cell)) for cell in _row(record, newest=record is listing.records[-1])))
    return table


def _json(record: CheckpointRecord) -> dict[str, Any]:
    created_at = finite_json({"created_at": record.created_at})
    return {**asdict(record), **created_at, "metrics": finite_json(record.metrics)}


def _printable(text: str) -> str:
    # A name in a directory may hold whatever moves a terminal's cursor, or what no terminal can be sent at all.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _row(record: CheckpointRecord, *, newest: bool) -> tuple[str, ...]:
    epoch = "" if record.epoch is None else str(record.epoch) + (f" + {record.batch} batches" if record.batch else "")
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    if record.foreign:
        metrics = "written by plain TensorFlow, unverified"
    name = record.name + (" (latest)" if newest else "")
    return name, str(record.step), epoch, _age(time.time() - record.created_at), size_text(record.size_bytes), metrics


def _age(secs: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if secs >= length:
            return f"{secs / length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"
