"""``ckptkit ls DIR``: the checkpoints of a directory, oldest first, and why each is kept.

$ ckptkit ls runs/digits
$ ckptkit ls --follow runs/digits       # looks again every two seconds, until Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ckptkit.cli.printing import console, print_json, table_of
from ckptkit.cli.usage import secs
from ckptkit.keeping import Upkeep, resumed_from
from ckptkit.listing import DirectoryReader, Listing
from ckptkit.readable import age_text, plain, size_text
from ckptkit.records import CheckpointRecord

__all__ = ["add"]

_COLUMNS = {
    "checkpoint": "left",
    "step": "right",
    "epoch": "right",
    "age": "right",
    "size": "right",
    "metrics": "left",
    "kept": "left",
}
_FOREIGN = "written by plain TensorFlow, unverified"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "ls",
        help="list the checkpoints of a directory",
        description="List the checkpoints of a directory, oldest first: what they hold, which is the latest and the "
        "best, and why each is kept. Of what plain TensorFlow wrote neither epoch nor metrics nor reasons are known.",
        epilog="example: ckptkit ls runs/digits",
    )
    parser.add_argument("path", metavar="DIR")
    parser.add_argument("--follow", action="store_true", help="look again and again, until Ctrl-C")
    parser.add_argument(
        "--interval", type=secs, default=2.0, metavar="SECS", help="how often --follow looks, 2 by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --follow a line a change")
    parser.set_defaults(run=_run, verb="read")


def _run(options: argparse.Namespace) -> int:
    reader = DirectoryReader(options.path)
    if options.follow:
        return _follow(reader, options.interval, as_json=options.json)
    look = _look(reader)
    if options.json:
        print_json({"checkpoints": look.rows(), "damaged": dict(look.listing.damaged)})
    elif look.listing.records:
        console().print(look.table())
    for line in look.damage():
        print(line, file=sys.stderr)
    if look.is_empty:
        print(f"no checkpoints in {plain(options.path)}", file=sys.stderr)
    return 1 if look.listing.damaged or look.is_empty else 0


@dataclass(frozen=True)
class _Look:
    """What was in a directory at one moment."""

    listing: Listing
    upkeep: Upkeep
    now: float

    @property
    def is_empty(self) -> bool:
        return not self.listing.records and not self.listing.damaged

    def table(self) -> Table:
        return table_of(_COLUMNS, map(self._cells, self.listing.records))

    def rows(self) -> list[dict[str, Any]]:
        return list(map(self.row, self.listing.records))

    def row(self, record: CheckpointRecord) -> dict[str, Any]:
        return {
            **asdict(record),
            "name": record.name,
            "is_latest": self._is_latest(record),
            "is_best": record.name == self.upkeep.best,
            "kept": list(self.upkeep.reasons[record.name]),
        }

    def damage(self) -> list[str]:
        return [plain(f"{name} is damaged: {reason}") for name, reason in self.listing.damaged.items()]

    def line(self, record: CheckpointRecord) -> str:
        """Return what stands in a row of the table, on one line."""
        _, step, epoch, age, size, metrics, kept = self._cells(record)
        facts = [f"step {step}", f"epoch {epoch}" if epoch else "", f"{age} old", size, metrics, f"kept: {kept}"]
        return plain(f"{record.name}: {', '.join(filter(None, facts))}")

    def _is_latest(self, record: CheckpointRecord) -> bool:
        return record is self.listing.records[-1]

    def _cells(self, record: CheckpointRecord) -> tuple[str, ...]:
        marks = ["latest"] * self._is_latest(record) + ["best"] * (record.name == self.upkeep.best)
        batches = f" + {record.batch} batches" if record.batch else ""
        return (
            record.name + (f" ({', '.join(marks)})" if marks else ""),
            str(record.step),
            "" if record.epoch is None else f"{record.epoch}{batches}",
            age_text(self.now - record.created_at),
            size_text(record.size_bytes),
            _FOREIGN if record.foreign else "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items()),
            ", ".join(self.upkeep.reasons[record.name]) or "no more: the next save deletes it",
        )


def _look(reader: DirectoryReader) -> _Look:
    listing, now = reader.scan(), time.time()
    return _Look(listing, Upkeep(listing, now, resumed_from(reader.directory)), now)


def _follow(reader: DirectoryReader, interval: float, *, as_json: bool) -> int:
    try:
        if as_json or not sys.stdout.isatty():
            _print_changes(reader, interval, as_json=as_json)
        else:
            _show(reader, interval)
    except KeyboardInterrupt:
        pass  # the way to end it
    return 0


def _show(reader: DirectoryReader, interval: float) -> None:
    """Show the table, as it is now, in one place of the terminal."""
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            look = _look(reader)
            nothing = [Text(plain(f"no checkpoints in {reader.directory} yet"))] if look.is_empty else []
            live.update(Group(look.table(), *map(Text, look.damage()), *nothing), refresh=True)
            time.sleep(interval)


def _print_changes(reader: DirectoryReader, interval: float, *, as_json: bool) -> None:
    """Print a line for each checkpoint that comes, goes or is found damaged, those that are there at first."""
    seen: dict[str, object] = {}
    while True:
        look = _look(reader)
        there = {record.name: record for record in look.listing.records}
        now = {name: (record.sequence, record.created_at, record.size_bytes) for name, record in there.items()}
        found: dict[str, object] = {**now, **look.listing.damaged}
        for name in [*(name for name in seen if name not in found), *(n for n in found if seen.get(n) != found[n])]:
            if as_json:
                print_json(_event(look, name, there.get(name)), indent=None)
            else:
                print(_told(look, name, there.get(name)))
        sys.stdout.flush()
        seen = found
        time.sleep(interval)


def _event(look: _Look, name: str, record: CheckpointRecord | None) -> dict[str, Any]:
    if record is not None:
        return {"event": "saved", **look.row(record)}
    reason = look.listing.damaged.get(name)
    return {"event": "gone", "name": name} if reason is None else {"event": "damaged", "name": name, "reason": reason}


def _told(look: _Look, name: str, record: CheckpointRecord | None) -> str:
    if record is not None:
        return look.line(record)
    reason = look.listing.damaged.get(name)
    return plain(f"{name}: gone" if reason is None else f"{name} is damaged: {reason}")
