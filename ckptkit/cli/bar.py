"""A bar on standard error, for what takes a while to read.

with bar("ckpt-1200", size_bytes) as told:
    told(done)              # bytes that were read since it was called last
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from ckptkit.cli.printing import plain

__all__ = ["bar"]

_WORTH_A_BAR = 100_000_000  # bytes; less is read in the time that it takes to look up


@contextmanager
def bar(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far the reading of a large checkpoint is; nothing if that is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=size_bytes < _WORTH_A_BAR) as shown:
        task = shown.add_task(plain(name), total=size_bytes)
        yield lambda size: shown.advance(task, size)
