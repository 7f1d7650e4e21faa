"""``ckptkit diff A B``: how two checkpoints differ, in their tensors and in what is known of them.

$ ckptkit diff runs/digits/ckpt-800 runs/digits/ckpt-1200
$ ckptkit diff --all runs/a runs/b              # the newest of each; what has not changed as well
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ckptkit.cli.chosen import CHECKPOINT, checkpoint_at
from ckptkit.cli.printing import console, print_json, strict, table_of
from ckptkit.cli.usage import count
from ckptkit.listing import DirectoryReader
from ckptkit.progress import progress
from ckptkit.readable import plain
from ckptkit.records import CheckpointRecord

if TYPE_CHECKING:
    from ckptkit.comparing import Comparison, Moved, Other

__all__ = ["add"]

_LIMIT = 20
_COLUMNS = {"tensor": "left", "relative change": "right", "values that differ": "right", "NaN": "right"}
_OF_NO_MATTER = "directory"  # a copy elsewhere is no other checkpoint


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "diff",
        help="compare two checkpoints",
        description="Compare two checkpoints: tensors that only one has, those of another shape or dtype, and how far "
        "each of the others has changed, the norm of the difference divided by the norm in A, largest first; and what "
        "is known of them: counters, metrics, versions, configuration.",
        epilog="exit codes, as of diff(1): 0 they are the same, 1 they differ or one cannot be read, 2 wrong usage; "
        "example: ckptkit diff runs/digits/ckpt-800 runs/digits/ckpt-1200",
    )
    parser.add_argument("path", metavar="A", help=CHECKPOINT)
    parser.add_argument("other", metavar="B", help="the other one")
    parser.add_argument(
        "--limit", type=count, default=_LIMIT, metavar="N", help=f"tensors to show, {_LIMIT} by default"
    )
    parser.add_argument("--all", action="store_true", help="show all tensors, those that have not changed as well")
    parser.add_argument("--json", action="store_true", help="print JSON, of all tensors that differ")
    parser.set_defaults(run=_run, verb="compare")


def _run(options: argparse.Namespace) -> int:
    records = checkpoint_at(options.path), checkpoint_at(options.other)
    facts = {} if any(record.foreign for record in records) else _differing(*map(_facts, records))
    from ckptkit.bundle import Bundle
    from ckptkit.comparing import compare

    total = sum(record.size_bytes for record in records)
    with (
        Bundle(records[0].prefix) as a,
        Bundle(records[1].prefix) as b,
        progress("comparing", "compared", size_bytes=total) as work,
    ):
        comparison = compare(a, b, work.advance)
    is_same = comparison.is_same and not facts
    if options.json:
        print_json(_json(records, facts, comparison, is_all=options.all))
    else:
        _print(records, facts, comparison, None if options.all else options.limit)
    return 0 if is_same else 1


def _facts(record: CheckpointRecord) -> dict[str, Any]:
    """Return what is known of a checkpoint and is the same of a copy of it, each by its name."""
    manifest = DirectoryReader(os.path.dirname(record.prefix)).manifest(record)
    facts = {"step": record.step, "epoch": record.epoch, "batch": record.batch, "workers": record.workers}
    for name in ("metrics", "versions", "config"):
        facts |= _leaves(strict(getattr(manifest, name)), name)
    return {path: value for path, value in facts.items() if path.rpartition(".")[2] != _OF_NO_MATTER}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)}


def _leaves(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, each in value.items() for name, leaf in _leaves(each, f"{path}.{key}").items()}


def _json(
    records: Sequence[CheckpointRecord], facts: Mapping[str, Any], comparison: Comparison, *, is_all: bool
) -> dict[str, Any]:
    return {
        "a": records[0].prefix,
        "b": records[1].prefix,
        "same": comparison.is_same and not facts,
        "facts": facts,
        "others": list(map(asdict, comparison.others)),
        "changed": list(map(_row, comparison.moved)),
        **({"unchanged": [moved.name for moved in comparison.same]} if is_all else {}),
    }


def _row(moved: Moved) -> dict[str, Any]:
    return {
        "name": moved.name,
        "key": moved.key,
        "change": moved.distance.change,
        "differing": moved.distance.differing,
        "nan_counts": list(moved.distance.nans),
    }


def _print(
    records: Sequence[CheckpointRecord], facts: Mapping[str, Any], comparison: Comparison, limit: int | None
) -> None:
    lines = [f"{name}: {left} -> {right}" for name, (left, right) in facts.items()]
    lines += [f"{r.prefix} is of plain TensorFlow: tensors alone are compared" for r in records if r.foreign]
    lines += [_said(other, records) for other in comparison.others]
    out = console()
    for line in lines:
        out.print(Text(plain(line)), soft_wrap=True)
    shown = [*comparison.moved[:limit], *(comparison.same if limit is None else ())]
    if shown:
        out.print(table_of(_COLUMNS, map(_cells, shown)))
    more, same = len(comparison.moved) - len(comparison.moved[:limit]), len(comparison.same)
    not_shown = f"{more} more changed, " if more else ""
    out.print(Text(f"{not_shown}{same} tensor{' is' if same == 1 else 's are'} the same"))


def _said(other: Other, records: Sequence[CheckpointRecord]) -> str:
    if other.in_a is not None and other.in_b is not None:
        return f"{other.name}: {other.in_a} -> {other.in_b}"
    at = records[0] if other.in_b is None else records[1]
    return f"only in {at.prefix}: {other.name} {other.in_a or other.in_b}"


def _cells(moved: Moved) -> list[str]:
    change, nans = moved.distance.change, moved.distance.nans
    told = "" if change is None else f"{change:.3g}"
    return [moved.name, told, str(moved.distance.differing), f"{nans[0]} -> {nans[1]}" if any(nans) else ""]
