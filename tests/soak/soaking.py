"""The parent: lives of a script one after the other in one directory, until the time is up."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from typing import Any

from tests.soak import life
from tests.soak.child import Child
from tests.soak.misfortunes import Misfortunes
from tests.soak.onlooker import Onlooker
from tests.soak.plan import Plan
from tests.soak.run import Run
from tests.soak.tally import Tally
from tests.soak.verdicts import Verdicts

LIMIT_SECS = 120.0  # of a life; nothing here takes a tenth of it
_LOOK_SECS = 0.001  # between two looks at a child


class Soak:
    """Kills and resumes.

    Args:
        folder: Of everything.
        small: Folder on a small disk, None if there is none.
        seed: Of all that is chosen.
        epochs: Of each run.
        references: What an undisturbed run has at each step, by kind of script.
        onlooker: Restores without writing.
    """

    def __init__(
        self,
        folder: str,
        small: str | None,
        seed: int,
        epochs: int,
        references: Mapping[str, Mapping[int, Mapping[str, Any]]],
        onlooker: Onlooker,
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._small = small
        self._chosen = random.Random(seed)
        self._epochs = epochs
        self._references = references
        self._onlooker = onlooker
        self._verdicts = Verdicts(self.tally, onlooker)
        self._runs = self._chosen.randrange(len(references))  # so that each kind comes first with some seed
        self._run: Run | None = None

    def cycle(self) -> None:
        """Let one life begin and end, and compare what it leaves with what it must."""
        self._run = run = self._run or self._next_run()
        plan = Plan.draw(self._chosen)
        losses, unexpected = len(self.tally.losses), len(self.tally.unexpected)
        misfortunes = Misfortunes(run, plan, self._small, self._onlooker, self._verdicts, self.tally)
        misfortunes.rot()
        child = self._live(run, plan, misfortunes)
        self.tally.count("cycles", run.kind)
        self._verdicts.judge(run, child, misfortunes.was_starved)
        self._verdicts.compare(run, child)
        problems = [*self.tally.losses[losses:], *self.tally.unexpected[unexpected:]]
        if problems:
            self._keep(run, plan, problems)
        is_over = child.said("ended") > 0 and run.last_step in run.expected.steps
        if is_over and not problems:
            self.tally.count("runs that ended with the same bits", run.kind)
        if is_over or problems:
            shutil.rmtree(run.directory, ignore_errors=True)
            self._run = None

    def _next_run(self) -> Run:
        self._runs += 1
        kind = sorted(self._references)[self._runs % len(self._references)]
        may_be_filled = self._chosen.random() < 0.5 and self._small is not None
        folder = self._small if may_be_filled and self._small is not None else self._folder
        name = f"run-{self._runs}"
        told = os.path.join(self._folder, f"told-{self._runs}")
        return Run(kind, self._references[kind], os.path.join(folder, name), told, may_be_filled)

    def _live(self, run: Run, plan: Plan, misfortunes: Misfortunes) -> Child:
        run.lives += 1
        path = f"{run.told}-{run.lives}.jsonl"
        child = Child(path, lambda: life.live(run.kind, run.directory, self._epochs, plan, path, LIMIT_SECS))
        misfortunes.begin(child)
        try:
            while child.status is None:
                self._verdicts.hear(run, child.poll())
                misfortunes.befall(child)
                if time.monotonic() > child.began + LIMIT_SECS + 10.0:  # its own limit has not ended it
                    child.signal(signal.SIGABRT)
                time.sleep(_LOOK_SECS)
        finally:
            child.signal(signal.SIGKILL)
            misfortunes.end()
        return child

    def _keep(self, run: Run, plan: Plan, problems: list[str]) -> None:
        """Put a run with problems where it stays."""
        target = os.path.join(self._folder, "kept", os.path.basename(run.directory))
        if os.path.isdir(run.directory):
            shutil.copytree(run.directory, target, symlinks=True)
        with open(f"{run.told}-{run.lives}.txt", "w", encoding="utf-8") as file:
            file.write("\n".join([*problems, str(run), str(plan), ""]))
