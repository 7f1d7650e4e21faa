"""``ckptkit prune DIR``: what a policy would delete of a directory, or deleting it.

$ ckptkit prune --keep-latest 3 --keep-best 2 --monitor val_loss --mode min runs/digits
$ ckptkit prune --keep-latest 3 --yes runs/digits
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import reduce
from operator import or_
from typing import Any

from ckptkit.cli.printing import console, print_json, table_of
from ckptkit.cli.usage import UsageError, count, secs, steps
from ckptkit.keeping import Upkeep, resumed_from
from ckptkit.preservation import Best, EveryNSecs, EveryNSteps, Latest, PreservationPolicy, Steps
from ckptkit.pruning import Pruning, prune
from ckptkit.readable import age_text, plain, size_text
from ckptkit.records import CheckpointRecord
from ckptkit.spelling import near
from ckptkit.store import Store

__all__ = ["add"]

_COLUMNS = {"checkpoint": "left", "step": "right", "age": "right", "size": "right", "": "left", "why": "left"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "prune",
        help="delete checkpoints that are not needed any more",
        description="Say which checkpoints none of the options keeps, or delete them with --yes. The newest one and "
        "the one that the last run went on from stay in any case, and a damaged one takes no sound one's place.",
        epilog="example: ckptkit prune --keep-latest 3 --keep-best 2 --monitor val_loss --mode min runs/digits",
    )
    parser.add_argument("path", metavar="DIR")
    parser.add_argument("--keep-latest", type=count, metavar="N", help="keep the N newest")
    parser.add_argument("--keep-best", type=count, metavar="N", help="keep the N best by --monitor")
    parser.add_argument("--monitor", metavar="METRIC", help="the metric that ranks them, such as val_loss")
    parser.add_argument("--mode", choices=("min", "max"), help="whether the least or the greatest is the best")
    parser.add_argument("--keep-every-n-steps", type=count, metavar="N", help="keep one every N steps")
    parser.add_argument("--keep-every-n-secs", type=secs, metavar="SECS", help="keep one every so many seconds")
    parser.add_argument("--steps", type=steps, metavar="STEP,STEP", help="keep those of these steps")
    parser.add_argument("--foreign", action="store_true", help="delete what plain TensorFlow wrote as well")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--dry-run", action="store_true", help="only say what would be deleted, as without --yes")
    doing.add_argument("--yes", action="store_true", help="delete; exit code 1 while a run is writing there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, verb="prune")


def _run(options: argparse.Namespace) -> int:
    store, now = Store(options.path.rstrip(os.sep) or os.sep), time.time()
    policy = _policy(options, store, now)
    came_from = resumed_from(store.directory)
    pruning = prune(store, policy, now=now, foreign=options.foreign, resumed_from=came_from, apply=options.yes)
    if options.json:
        print_json(_json(pruning, done=options.yes))
    else:
        _print(pruning, now, done=options.yes)
    for name, reason in pruning.damaged.items():
        print(plain(f"{name} is damaged, and stays as it is: {reason}"), file=sys.stderr)
    return 1 if pruning.damaged else 0


def _policy(options: argparse.Namespace, store: Store, now: float) -> PreservationPolicy:
    """Return the policy that some options say.

    Raises:
        UsageError: They say none, or what cannot be meant.
    """
    makers: list[tuple[Any, Callable[[Any], PreservationPolicy]]] = [
        (options.keep_latest, Latest),
        (options.keep_best, lambda n: _best(options, store, now, n)),
        (options.keep_every_n_steps, EveryNSteps),
        (options.keep_every_n_secs, EveryNSecs),
        (options.steps, Steps),
    ]
    if options.keep_best is None and (options.monitor or options.mode):
        raise UsageError("--monitor and --mode say which are the best: say how many to keep, --keep-best N")
    parts = [make(value) for value, make in makers if value is not None]
    if not parts:
        raise UsageError("nothing says what to keep: --keep-latest 3, say")
    return reduce(or_, parts)


def _best(options: argparse.Namespace, store: Store, now: float, n: int) -> Best:
    listing = store.scan()
    if not options.monitor:
        raise UsageError("--keep-best needs to know by which metric: --monitor val_loss")
    metrics = sorted({name for record in listing.records for name in record.metrics})
    if options.monitor not in metrics and listing.records:
        have = f"have: {', '.join(metrics) or 'none'}"
        raise UsageError(f"no checkpoint carries {options.monitor!r} ({have}).{near(options.monitor, metrics)}")
    known = Upkeep(listing, now).best_policy
    mode = options.mode or (known.mode if known is not None and known.monitor == options.monitor else None)
    if mode is None:
        raise UsageError(f"which {options.monitor} is the best? --mode min, or --mode max")
    return Best(options.monitor, mode, n)


def _json(pruning: Pruning, *, done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "gone": [record.name for record in pruning.gone],
        "checkpoints": [{"name": r.name, **asdict(r), "kept": pruning.reasons[r.name]} for r in pruning.records],
        "damaged": dict(pruning.damaged),
    }


def _print(pruning: Pruning, now: float, *, done: bool) -> None:
    gone = {record.name for record in pruning.gone}

    def cells(record: CheckpointRecord) -> list[str]:
        what = "stays" if record.name not in gone else "deleted" if done else "would go"
        age, size = age_text(now - record.created_at), size_text(record.size_bytes)
        return [record.name, str(record.step), age, size, what, ", ".join(pruning.reasons[record.name])]

    console().print(table_of(_COLUMNS, map(cells, pruning.records)))
    of_gone, of_all = (size_text(sum(r.size_bytes for r in each)) for each in (pruning.gone, pruning.records))
    verb = "deleted" if done else "would delete"
    print(f"{verb} {len(pruning.gone)} of {len(pruning.records)} checkpoints, {of_gone} of {of_all}")
    if pruning.gone and not done:
        print("nothing was deleted: --yes does it", file=sys.stderr)
