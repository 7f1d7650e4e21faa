"""``ckptkit show CKPT``: what is in one checkpoint: counters, configuration, versions, tensors and their values.

$ ckptkit show runs/digits/ckpt-1200
$ ckptkit show --tensors 'dense*' runs/digits

NumPy reads every type of tensor that a checkpoint holds: TensorFlow is not needed, and not loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ckptkit.cli.chosen import CHECKPOINT, checkpoint_at
from ckptkit.cli.printing import console, print_json, table_of
from ckptkit.errors import CheckpointDamagedError, UnsupportedBundleError
from ckptkit.listing import DirectoryReader
from ckptkit.progress import progress
from ckptkit.readable import age_text, plain, size_text
from ckptkit.records import CheckpointRecord, Manifest
from ckptkit.spelling import near

if TYPE_CHECKING:
    from ckptkit.bundle import Bundle

__all__ = ["add"]

_LARGEST = 10
_FOREIGN = (
    "written by plain TensorFlow: no manifest says its epoch, metrics, configuration and versions, nor what it lacks"
)
_LABELS = {"best": "best so far", "created_at": "saved", "run_id": "run", "size_bytes": "size"}
_COLUMNS = {"tensor": "left", "dtype": "left", "shape": "left", "size": "right"}
_VALUES = {"min": "right", "max": "right", "mean": "right", "NaN": "right"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "show",
        help="show what is in one checkpoint",
        description="Show what is known of a checkpoint and its largest tensors; with --tensors those of some names, "
        "and what is in them: least and greatest value, mean, and how many are not a number. Of complex values the "
        "magnitudes are told.",
        epilog="example: ckptkit show --tensors 'dense*' runs/digits/ckpt-1200",
    )
    parser.add_argument("path", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument(
        "--tensors",
        metavar="PATTERN",
        help="show the tensors whose name, or the end of whose name behind a slash, is like this: 'dense*', '*bias'",
    )
    parser.add_argument("--no-values", action="store_true", help="with --tensors: read none of them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, verb="read")


def _run(options: argparse.Namespace) -> int:
    record = checkpoint_at(options.path)
    manifest = None if record.foreign else DirectoryReader(os.path.dirname(record.prefix)).manifest(record)
    from ckptkit.bundle import Bundle  # NumPy takes a while to load: not for those who only mistyped a name

    with Bundle(record.prefix) as bundle:
        rows = _rows(bundle)
        if options.tensors is None:
            _print_checkpoint(options, record, manifest, rows)
            return 0
        chosen = [row for row in rows if _is_like(row, options.tensors)]
        if not chosen:
            parts = {part for row in rows for part in (row["name"], *row["name"].split("/"))}
            hint = near(options.tensors.strip("*"), parts)
            print(plain(f"no tensor in {record.prefix} is like {options.tensors!r}.") + hint, file=sys.stderr)
            return 1
        damage = [] if options.no_values else _add_values(bundle, chosen, record.name)
    if options.json:
        print_json({"prefix": record.prefix, "tensors": chosen})
    else:
        console().print(table_of(_COLUMNS | ({} if options.no_values else _VALUES), map(_cells, chosen)))
    for line in damage:
        print(plain(line), file=sys.stderr)
    return 1 if damage else 0


def _print_checkpoint(
    options: argparse.Namespace,
    record: CheckpointRecord,
    manifest: Manifest | None,
    rows: Sequence[dict[str, Any]],
) -> None:
    largest = sorted(rows, key=lambda row: -row["size_bytes"])[:_LARGEST]
    facts = _facts(record, manifest)
    if options.json:
        print_json({**facts, "tensor_count": len(rows), "largest": largest})
        return
    out = console()
    for name, value in facts.items():
        if name not in ("config", "foreign") and value not in (None, {}, ""):
            out.print(Text(plain(f"{_LABELS.get(name, name):<12} {_text(name, value)}")), soft_wrap=True)
    if manifest is None:
        out.print(Text(_FOREIGN), soft_wrap=True)
    if facts["config"]:
        out.print(Text("config"))
        for line in _yaml(facts["config"]).splitlines():
            out.print(Text(plain(f"  {line}")), soft_wrap=True)
    total = size_text(sum(row["size_bytes"] for row in rows))
    largest_of = f"the {len(largest)} largest of " if len(largest) < len(rows) else ""
    out.print(Text(f"{largest_of}{len(rows)} tensors, {total}"))
    out.print(table_of(_COLUMNS, map(_cells, largest)))


def _facts(record: CheckpointRecord, manifest: Manifest | None) -> dict[str, Any]:
    """Return what is known of a checkpoint, in the order in which it is shown."""
    facts: dict[str, Any] = {"prefix": record.prefix, "step": record.step, "foreign": record.foreign}
    if manifest is not None:
        facts |= {
            "epoch": record.epoch,
            "batch": record.batch,
            "metrics": dict(record.metrics),
            "best": dict(record.best),
            "workers": record.workers,
            "run_id": record.run_id,
            "sequence": record.sequence,
            "seconds": dict(manifest.seconds),
            "versions": dict(manifest.versions),
            "files": dict(sorted(manifest.files.items())),
        }
    return facts | {"created_at": record.created_at, "size_bytes": record.size_bytes, "config": dict(record.config)}


def _text(name: str, value: Any) -> str:
    if name == "created_at":
        return f"{age_text(time.time() - value)} ago{_date(value)}"
    if name == "size_bytes":
        return size_text(value)
    if name == "files":
        return ", ".join(f"{file} {size_text(size)}" for file, size in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{each} {_number(number)}" for each, number in value.items())
    return str(value)


def _date(secs: float) -> str:
    try:
        return time.strftime(", %Y-%m-%d %H:%M:%S", time.localtime(secs))
    except (OverflowError, OSError, ValueError):  # a time that no calendar has
        return ""


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _rows(bundle: Bundle) -> list[dict[str, Any]]:
    from ckptkit.variable_names import display_names

    names = display_names(bundle)
    return [
        {
            "name": names[entry.key],
            "key": entry.key,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "size_bytes": entry.size_bytes,
        }
        for entry in bundle.entries.values()
    ]


def _is_like(row: dict[str, Any], pattern: str) -> bool:
    from ckptkit.variable_names import short_key

    names = (row["name"], row["key"], short_key(row["key"]))
    ends = {"/".join(name.split("/")[at:]) for name in names for at in range(name.count("/") + 1)}
    return any(fnmatchcase(end, pattern) for end in ends)


def _add_values(bundle: Bundle, rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Read tensors, and enter what is in each; return what is to be said of those that are damaged."""
    from ckptkit.tensor_values import summary_of

    entries = [bundle.entries[row["key"]] for row in rows]
    damage = []
    total = sum(entry.size_bytes for entry in entries)
    with progress(f"reading {name}", f"read {name}", size_bytes=total) as work:
        for row, entry in zip(rows, entries):
            try:
                summary = summary_of(bundle, entry, work.advance)
            except (CheckpointDamagedError, UnsupportedBundleError) as error:
                damage.append(str(error))
                continue
            if summary is not None:
                row |= {"min": summary.least, "max": summary.greatest, "mean": summary.mean, "nan_count": summary.nans}
    return damage


def _cells(row: dict[str, Any]) -> list[str]:
    shape = str(tuple(row["shape"]))
    values = [_number(row[key]) for key in ("min", "max", "mean", "nan_count") if key in row]
    return [row["name"], row["dtype"], shape, size_text(row["size_bytes"]), *values]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
