"""What befalls a life while it lives, and its directory before."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ckptkit.errors import DirectoryLockedError
from ckptkit.listing import MANIFEST, META
from ckptkit.store import Store
from tests.soak import disk, rot
from tests.soak.child import Child
from tests.soak.onlooker import Onlooker
from tests.soak.plan import Kill, Plan
from tests.soak.run import Run
from tests.soak.tally import Tally
from tests.soak.verdicts import Verdicts

_ROOM_BYTES = 6 << 20  # at most, on a disk that is filled: less than two checkpoints
_FULL_SECS = 0.5  # at most, before there is room again
_TRIES = 5  # of a reader, who may lose a race with a writer that deletes


@dataclass(frozen=True)
class Act:
    """Something to do when a life has committed so often, and not before a time."""

    after_commits: int
    do: Callable[[], None]
    not_before: float = 0.0


class Misfortunes:
    """All that befalls one life.

    Args:
        run: Of which it is a part.
        plan: What is to befall it.
        small: Folder on the small disk, None if there is none.
        onlooker: Restores without writing.
        verdicts: Hears what the life tells.
        tally: Takes the counts.
    """

    def __init__(
        self, run: Run, plan: Plan, small: str | None, onlooker: Onlooker, verdicts: Verdicts, tally: Tally
    ) -> None:
        self._run = run
        self._plan = plan
        self._small = small
        self._onlooker = onlooker
        self._verdicts = verdicts
        self._tally = tally
        self._acts: list[Act] = []
        self._ballast: str | None = None
        self._ready_to_die: float | None = None
        self.was_starved = False  # of room on the disk

    def rot(self) -> None:
        """Do to the directory what is to be done before."""
        run, kind, chosen = self._run, self._plan.rot, random.Random(self._plan.seed)
        if kind is None or not run.expected.steps:
            return
        if kind in ("flip", "truncate"):
            name = f"ckpt-{run.expected.steps[-1]}"
            is_in_place = os.path.exists(os.path.join(run.directory, name + MANIFEST))
            if run.expected.is_doubtful or len(run.expected.steps) < 2 or not is_in_place:
                return
            (rot.flip if kind == "flip" else rot.truncate)(run.directory, name, chosen)
            run.expected.rotted()
        elif kind == "no state file":
            rot.delete_state_file(run.directory)
        elif kind == "copy" and run.may_be_filled:
            return  # there is no room for two
        else:
            run.moves += 1
            target = f"{run.directory.partition('-moved-')[0]}-moved-{run.moves}"
            run.directory = (rot.move if kind == "move" else rot.copy)(run.directory, target)
            run.litter = frozenset()
        self._tally.count("rot", kind)

    def begin(self, child: Child) -> None:
        """Prepare what befalls a life."""
        plan, chosen = self._plan, random.Random(self._plan.seed)
        self._acts = [Act(chosen.randrange(1, 6), partial(self._pause, child, secs)) for secs in plan.pauses]
        if plan.second_writer:
            self._acts.append(Act(chosen.randrange(1, 6), partial(self._write_as_well, child)))
        if plan.reader:
            self._acts += [Act(commits, partial(self._read_meanwhile, child)) for commits in range(1, 30, 3)]
        if plan.full_disk and self._run.may_be_filled:
            left, secs = chosen.randrange(_ROOM_BYTES), chosen.uniform(0.0, _FULL_SECS)
            self._acts.append(Act(chosen.randrange(1, 6), partial(self._take_room, left, secs)))

    def befall(self, child: Child) -> None:
        """Do what is due now."""
        now, commits, kill = time.monotonic(), child.said("committed"), self._plan.kill
        for act in [act for act in self._acts if act.after_commits <= commits and act.not_before <= now]:
            self._acts.remove(act)
            act.do()
        if kill is not None and commits >= kill.after_commits:
            self._ready_to_die = self._ready_to_die or now
            if self._is_time(kill, self._ready_to_die):
                child.signal(signal.SIGKILL)

    def end(self) -> None:
        """Leave nothing behind that does not belong there."""
        if self._ballast is not None:
            os.unlink(self._ballast)
            self._ballast = None

    def _is_time(self, kill: Kill, ready: float) -> bool:
        if not kill.in_a_save:
            return time.monotonic() >= ready + kill.secs
        meta = os.path.join(self._run.directory, META)
        if not os.path.isdir(meta) or not any(name.startswith("tmp-") for name in os.listdir(meta)):
            return False
        time.sleep(kill.secs)
        return True

    def _pause(self, child: Child, secs: float) -> None:
        self._verdicts.hear(self._run, child.stop())
        time.sleep(secs)
        child.signal(signal.SIGCONT)
        self._tally.count("pauses")

    def _write_as_well(self, child: Child) -> None:
        self._verdicts.hear(self._run, child.stop())
        if child.status is None and not {"closing", "failed", "ended"} & {child.place, *child.lines[-1]}:
            self._tally.count("second writers")
            try:
                Store(self._run.directory).lock().release()
                self._tally.unexpected.append("a second writer was let in")
            except DirectoryLockedError as error:
                if f"process {child.pid} on" not in str(error):
                    self._tally.unexpected.append(f"a second writer was told of another process: {error}")
        child.signal(signal.SIGCONT)

    def _read_meanwhile(self, child: Child) -> None:
        run = self._run
        self._verdicts.hear(run, child.poll())
        newest, committed = run.expected.steps[-1], {line.get("committed") for line in child.lines}
        for _ in range(_TRIES):
            answer = self._onlooker.restore(run.directory)
            if "error" not in answer:
                break
            self._tally.count("lost races of a reader", answer["error"])
        self._verdicts.hear(run, child.poll())
        if "error" in answer:
            self._tally.unexpected.append(f"a reader beside a writer got {answer['error']}: {answer['text']}")
            return
        self._tally.count("restores", "beside a writer")
        begun = {line["step"] for line in child.lines if "step" in line and "resumed" not in line} - committed
        if answer["step"] not in {newest, *begun}:
            self._tally.losses.append(f"a reader got step {answer['step']}, when {newest} was committed")
        self._verdicts.require_same(run, answer, "a reader got other values")

    def _take_room(self, left_bytes: int, secs: float) -> None:
        assert self._small is not None
        self._ballast = disk.fill(self._small, left_bytes)
        self.was_starved = True
        self._tally.count("faults", "the disk is full")
        self._acts.append(Act(0, self.end, time.monotonic() + secs))
