"""``ckptkit repair DIR``: a directory brought back in order, or what there is to do for that."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict

from rich.text import Text

from ckptkit.cli.printing import console, print_json
from ckptkit.readable import plain
from ckptkit.repairing import Action, repair
from ckptkit.store import Store

__all__ = ["add"]

_DONE = {"finish": "finished", "move": "moved", "rewrite": "rewrote", "sweep": "swept"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "repair",
        help="bring a directory back in order",
        description="Say what there is to do, or do it: sweep what saves that died have left, rewrite TensorFlow's "
        "state file, move damaged checkpoints to DIR/.ckptkit. Nothing that verifies is deleted.",
        epilog="example: ckptkit repair --yes runs/digits",
    )
    parser.add_argument("path", metavar="DIR")
    parser.add_argument("--yes", action="store_true", help="do it; exit code 1 while a run is writing there")
    parser.add_argument("--deep", action="store_true", help="read every tensor, and compare it with its checksum")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, verb="repair")


def _run(options: argparse.Namespace) -> int:
    store = Store(options.path.rstrip(os.sep) or os.sep)
    found = repair(store, now=time.time(), deep=options.deep, apply=options.yes)
    if options.json:
        rows = [asdict(action) for action in found.actions]
        print_json({"done": options.yes, "actions": rows, "left": found.left})
    else:
        for action in found.actions:
            console().print(Text(plain(_told(action, done=options.yes))), soft_wrap=True)
        for reason in found.left:
            print(plain(reason), file=sys.stderr)
        if not found.actions and not found.left:
            print(f"nothing to do in {plain(options.path)}")
        elif found.actions and not options.yes:
            print("nothing was changed: --yes does it", file=sys.stderr)
    return 1 if found.left or (found.actions and not options.yes) else 0


def _told(action: Action, *, done: bool) -> str:
    verb = _DONE[action.verb] if done else f"would {action.verb}"
    return f"{verb} {action.what}{' to ' + action.to if action.to else ''}: {action.why}"
