"""What the commands print: tables for people, JSON for programs.

console().print(table_of({"name": "left", "step": "right"}, [["ckpt-1", "1"]]))
print_json({"loss": math.nan})                          # {"loss": "NaN"}
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptkit.readable import plain
from ckptkit.records import finite_json

__all__ = ["console", "print_json", "strict", "table_of"]

_WIDE = 10_000  # columns: what is no terminal has no edge, and a program that reads on wants a row a line


def console() -> Console:
    """Return standard output, with colours on a terminal only."""
    is_bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_bounded else _WIDE)


def table_of(headings: Mapping[str, str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of texts as they are, whatever rich takes for markup.

    Args:
        headings: On which side the column of each is, ``"left"`` or ``"right"``.
        rows: A text a column.
    """
    table = Table()
    for heading, side in headings.items():
        table.add_column(heading, justify="right" if side == "right" else "left")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as one document of strict JSON."""
    print(json.dumps(strict(value), indent=indent, allow_nan=False))


def strict(value: Any) -> Any:
    """Return a value as strict JSON can hold it: NaN and the infinities by their names."""
    if isinstance(value, Mapping):
        return {str(key): strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return finite_json({"": value})[""]
    return value
