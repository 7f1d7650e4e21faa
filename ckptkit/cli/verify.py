"""``ckptkit verify DIR``: whether the checkpoints of a directory, or one of them, are what was written."""

from __future__ import annotations

import argparse
import os
import sys

from rich.text import Text

from ckptkit.cli.printing import console, print_json
from ckptkit.listing import DirectoryReader
from ckptkit.readable import plain, size_text
from ckptkit.verifying import Verdict, Verification

__all__ = ["add"]

_STYLES = {"ok": "green", "damaged": "bold red", "unreadable": "red", "not checked": "yellow"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "verify",
        help="check whether checkpoints are what was written",
        description="Compare checkpoints with their manifests: sizes of the files, checksum of the index.",
        epilog="example: ckptkit verify --deep runs/digits/ckpt-1200",
    )
    parser.add_argument("path", metavar="DIR", help="a directory, or one checkpoint in it: DIR/ckpt-1200")
    parser.add_argument("--deep", action="store_true", help="read every tensor, and compare it with its checksum")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, verb="verify")


def _run(options: argparse.Namespace) -> int:
    path = options.path.rstrip(os.sep) or os.sep
    directory, only = (path, None) if os.path.isdir(path) else os.path.split(path)
    verification = Verification(DirectoryReader(directory or "."), deep=options.deep)
    width = max((len(plain(name)) for name in verification.names if only in (None, name)), default=0)
    verdicts = []
    for verdict in verification.verdicts(only):
        verdicts.append(verdict)
        if not options.json:
            _print(verdict, width)
    notes = verification.notes() if only is None else []
    if options.json:
        rows = [{key: getattr(v, key) for key in ("name", "state", "reason", "bytes_read")} for v in verdicts]
        print_json({"checkpoints": rows, "notes": notes})
    else:
        for note in notes:
            print(f"note: {plain(note)}", file=sys.stderr)
    if not verdicts:
        print(f"no checkpoint{'s in' if only is None else ''} {plain(path)}", file=sys.stderr)
    sound = {"ok", "not checked"}
    return 0 if verdicts and all(verdict.state in sound for verdict in verdicts) else 1


def _print(verdict: Verdict, width: int) -> None:
    line = Text(f"{plain(verdict.name):<{width}}  ")
    line.append(f"{verdict.state:<11}", style=_STYLES[verdict.state])
    line.append(f"  {size_text(verdict.bytes_read) + ' read':<12}  {plain(verdict.reason)}")
    line.rstrip()
    console().print(line, soft_wrap=True)
