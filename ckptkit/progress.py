"""How far something is that takes long: a bar where a person looks on, and a line in the log when it is done.

    with progress("restoring ckpt-1200", "restored ckpt-1200", size_bytes=1_200_000_000) as work:
        work.advance(1 << 20)                           # bytes, from any thread
    with progress("saving model.keras", "saved model.keras", steps=3) as work:
        work.step("loading it again")

The log says ``restored ckpt-1200: 1.2 GB in 0.92 s``. The bar is on standard error, and gone when all is done. Standard
output and error are left as they are, and where somebody else's display is at work there is no bar: neither the bar of
``fit`` nor another one of rich's is written over. rich is loaded where there is a bar.
"""

from __future__ import annotations

import builtins
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ckptkit.readable import plain, secs_text, size_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

__all__ = ["Work", "progress"]

_log = logging.getLogger("ckptkit")

_WORTH_A_BAR = 100_000_000  # bytes; less is read in the time that it takes to look up
_only_bar = threading.Lock()  # two that do not know of each other would draw over each other


class Work:
    """What is under way.

    Attributes:
        done: What the log is to say of it.
        size_bytes: How much it was, which the log says as well; 0 where that is not known.
    """

    def __init__(self, done: str, size_bytes: int) -> None:
        self.done = done
        self.size_bytes = size_bytes
        self._shown: tuple[Progress, TaskID] | None = None
        self._begun = 0

    def advance(self, size_bytes: int) -> None:
        """Say that so many bytes more are done; any thread may, a block at a time."""
        if self._shown is not None:
            bar, task = self._shown
            bar.advance(task, size_bytes)

    def step(self, name: str) -> None:
        """Say that a step begins."""
        if self._shown is not None:
            bar, task = self._shown
            bar.update(task, completed=self._begun, step=name)
            self._begun += 1


@contextmanager
def progress(
    doing: str, done: str, *, size_bytes: int = 0, steps: int | None = None, verbose: int = 1
) -> Iterator[Work]:
    """Show a bar while something is done, if that takes long and somebody looks on, and log a line at its end.

    Args:
        doing: What is done, for the bar.
        done: What was done, for the line. What fails has none.
        size_bytes: How much there is to do.
        steps: In how many steps it is done, each of which may take long; None where bytes are counted. Of a single one
            nobody knows how far it is.
        verbose: 0 for neither bar nor line.

    Yields:
        What to tell how far it is.
    """
    began, work = time.monotonic(), Work(done, size_bytes)
    is_long = size_bytes >= _WORTH_A_BAR or (steps or 0) > 1
    console = _console() if verbose and is_long else None
    if console is None or not _only_bar.acquire(blocking=False):
        yield work
    else:
        try:
            with _bar(console, plain(doing), size_bytes, steps) as work._shown:
                yield work
        finally:
            _only_bar.release()
    if verbose:
        size = f": {size_text(work.size_bytes)}" if work.size_bytes else ""
        _log.info("%s%s in %s", work.done, size, secs_text(time.monotonic() - began))


def _console() -> Console | None:
    """Return where a person looks on, None where nobody does."""
    if not _is_terminal() and not hasattr(builtins, "get_ipython"):
        return None
    from rich.console import Console
    from rich.file_proxy import FileProxy

    if isinstance(sys.stdout, FileProxy) or isinstance(sys.stderr, FileProxy):  # another display of rich's is at work
        return None
    console = Console(file=sys.stderr)
    return console if console.is_interactive or console.is_jupyter else None


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


@contextmanager
def _bar(console: Console, doing: str, size_bytes: int, steps: int | None) -> Iterator[tuple[Progress, TaskID]]:
    from rich import progress as rich

    columns: list[ProgressColumn] = [rich.TextColumn("{task.description}", markup=False), rich.BarColumn()]
    if steps is None:
        columns += [rich.DownloadColumn(), rich.TransferSpeedColumn()]
    else:
        columns += [rich.TextColumn("{task.fields[step]}", markup=False), rich.TimeElapsedColumn()]
    # What others print is not ours to lead elsewhere: the bar of a fit is drawn on standard output.
    bar = rich.Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    total = size_bytes if steps is None else steps if steps > 1 else None
    task = bar.add_task(doing, total=total, step="")
    with suppress(OSError):  # a terminal that is gone is no reason to do nothing
        bar.start()
    try:
        yield bar, task
    finally:
        with suppress(OSError):
            bar.stop()
