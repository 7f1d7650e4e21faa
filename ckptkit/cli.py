"""The command line: ``ckptkit ls | verify | repair``, without TensorFlow.

$ ckptkit ls runs/digits
$ ckptkit verify --deep runs/digits
$ ckptkit repair runs/digits
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptkit.errors import CheckpointNotFoundError, DirectoryLockedError
from ckptkit.listing import DirectoryReader, Listing
from ckptkit.records import CheckpointRecord, finite_json
from ckptkit.repairing import Action, repair
from ckptkit.stats import size_text
from ckptkit.store import Store
from ckptkit.verifying import Verdict, Verification

__all__ = ["main"]

_STYLES = {"ok": "green", "damaged": "bold red", "unreadable": "red", "not checked": "yellow"}
_VERBS = {"ls": "read", "verify": "verify", "repair": "repair"}
_DONE = {"finish": "finished", "move": "moved", "rewrite": "rewrote", "sweep": "swept"}
_WORTH_A_BAR = 100_000_000  # bytes; less is read in the time that it takes to look up


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 problems found, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (CheckpointNotFoundError, DirectoryLockedError) as error:
        print("\n".join(map(_plain, str(error).splitlines())), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot {_VERBS[options.command]} {_plain(options.path)}: {error.strerror or error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ckptkit",
        description="Look at directories of checkpoints, and bring them back in order.",
        epilog="exit codes: 0 fine, 1 problems found, 2 wrong usage",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="list the checkpoints of a directory", epilog="example: ckptkit ls runs/digits")
    ls.add_argument("path", metavar="DIR")
    ls.add_argument("--json", action="store_true", help="print JSON, one object a checkpoint")
    ls.set_defaults(run=_list)
    verify = commands.add_parser(
        "verify",
        help="check whether checkpoints are what was written",
        description="Compare checkpoints with their manifests: sizes of the files, checksum of the index.",
        epilog="example: ckptkit verify --deep runs/digits/ckpt-1200",
    )
    verify.add_argument("path", metavar="DIR", help="a directory, or one checkpoint in it: DIR/ckpt-1200")
    verify.set_defaults(run=_verify)
    mend = commands.add_parser(
        "repair",
        help="bring a directory back in order",
        description="Say what there is to do, or do it: sweep what saves that died have left, rewrite TensorFlow's "
        "state file, move damaged checkpoints to DIR/.ckptkit. Nothing that verifies is deleted.",
        epilog="example: ckptkit repair --yes runs/digits",
    )
    mend.add_argument("path", metavar="DIR")
    mend.add_argument("--yes", action="store_true", help="do it; exit code 1 while a run is writing there")
    mend.set_defaults(run=_repair)
    for command in (verify, mend):
        command.add_argument("--deep", action="store_true", help="read every tensor, and compare it with its checksum")
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _list(options: argparse.Namespace) -> int:
    listing = DirectoryReader(options.path).scan()
    if options.json:
        rows = [_json(record) for record in listing.records]
        print(json.dumps(rows, indent=2, allow_nan=False))
    elif listing.records:
        Console().print(_table(listing))
    for name, reason in listing.damaged.items():
        print(_plain(f"{name} is damaged: {reason}"), file=sys.stderr)
    if not listing.records and not listing.damaged:
        print(f"no checkpoints in {_plain(options.path)}", file=sys.stderr)
    return 1 if listing.damaged or not listing.records else 0


def _table(listing: Listing) -> Table:
    table = Table()
    for heading in ("checkpoint", "step", "epoch", "age", "size", "metrics"):
        table.add_column(heading, justify="right" if heading in ("step", "epoch", "age", "size") else "left")
    for record in listing.records:
        # Text, for names may hold what rich takes for markup.
        table.add_row(*(Text(_plain(cell)) for cell in _row(record, newest=record is listing.records[-1])))
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
    return name, str(record.step), epoch, _age(time.time() - record.created_at), size_text(record.size_bytes), metrics


def _age(secs: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if secs >= length:
            return f"{secs / length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"


def _verify(options: argparse.Namespace) -> int:
    path = options.path.rstrip(os.sep) or os.sep
    directory, only = (path, None) if os.path.isdir(path) else os.path.split(path)
    verification = Verification(DirectoryReader(directory or "."), deep=options.deep, watch=_bar)
    width = max((len(_plain(name)) for name in verification.names if only in (None, name)), default=0)
    verdicts = []
    for verdict in verification.verdicts(only):
        verdicts.append(verdict)
        if not options.json:
            _print_verdict(verdict, width)
    notes = verification.notes() if only is None else []
    if options.json:
        rows = [{key: getattr(v, key) for key in ("name", "state", "reason", "bytes_read")} for v in verdicts]
        print(json.dumps({"checkpoints": rows, "notes": notes}, indent=2))
    else:
        for note in notes:
            print(f"note: {_plain(note)}", file=sys.stderr)
    if not verdicts:
        print(f"no checkpoint{'s in' if only is None else ''} {_plain(path)}", file=sys.stderr)
    sound = {"ok", "not checked"}
    return 0 if verdicts and all(verdict.state in sound for verdict in verdicts) else 1


def _print_verdict(verdict: Verdict, width: int) -> None:
    line = Text(f"{_plain(verdict.name):<{width}}  ")
    line.append(f"{verdict.state:<11}", style=_STYLES[verdict.state])
    line.append(f"  {size_text(verdict.bytes_read) + ' read':<12}  {_plain(verdict.reason)}")
    line.rstrip()
    Console().print(line, soft_wrap=True)


def _repair(options: argparse.Namespace) -> int:
    store = Store(options.path.rstrip(os.sep) or os.sep)
    found = repair(store, now=time.time(), deep=options.deep, apply=options.yes, watch=_bar)
    if options.json:
        rows = [asdict(action) for action in found.actions]
        print(json.dumps({"done": options.yes, "actions": rows, "left": found.left}, indent=2))
    else:
        for action in found.actions:
            Console().print(Text(_plain(_told(action, done=options.yes))), soft_wrap=True)
        for reason in found.left:
            print(_plain(reason), file=sys.stderr)
        if not found.actions and not found.left:
            print(f"nothing to do in {_plain(options.path)}")
        elif found.actions and not options.yes:
            print("nothing was changed: --yes does it", file=sys.stderr)
    return 1 if found.left or (found.actions and not options.yes) else 0


def _told(action: Action, *, done: bool) -> str:
    verb = _DONE[action.verb] if done else f"would {action.verb}"
    return f"{verb} {action.what}{' to ' + action.to if action.to else ''}: {action.why}"


@contextmanager
def _bar(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far the reading of a large checkpoint is; nothing if that is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=size_bytes < _WORTH_A_BAR) as bar:
        task = bar.add_task(_plain(name), total=size_bytes)
        yield lambda size: bar.advance(task, size)


def _plain(text: str) -> str:
    """Return a text as one line that does nothing to a terminal: file names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
