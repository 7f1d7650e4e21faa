"""A progress bar on what takes long, where somebody looks on.

with progress("saving model.keras", 3) as step:
    step("writing")
    ...
    step("loading it again")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress"]


@contextmanager
def progress(title: str, steps: int, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show a bar on standard error while something is done in steps; nothing if that is no terminal.

    Args:
        title: What is done.
        steps: How many steps there are.
        console: Where to show it.

    Yields:
        What to call when a step begins, with its name.
    """
    console = console or Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=steps, step="")
        begun = 0

        def step(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, step=name)
            begun += 1

        yield step
