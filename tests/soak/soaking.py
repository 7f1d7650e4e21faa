"""The parent: lives of a script one after the other in one directory, what befalls them, and what has to hold then."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ckptkit.errors import DirectoryLockedError
from ckptkit.listing import META
from ckptkit.store import Store
from tests.soak import disk, life, rot
from tests.soak.child import Child
from tests.soak.expected import Expected
from tests.soak.looking import look, missing
from tests.soak.onlooker import Onlooker
from tests.soak.plan import Kill, Plan
from tests.soak.tally import Tally

LIMIT_SECS = 120.0  # of a life; nothing here takes a tenth of it
_LOOK_SECS = 0.001  # between two looks at a child
_ROOM_BYTES = 6 << 20  # at most, on a disk that is filled: less than two checkpoints
_FULL_SECS = 0.5  # at most, before there is room again
_TRIES = 5  # of a reader, who may lose a race with a writer that deletes
_OF_A_FAULT = {errno.ENOSPC, errno.EIO, errno.EROFS}

Reference = Mapping[int, Mapping[str, Any]]  # what the undisturbed run has at each step


@dataclass
class Run:
    """A script that is started again until its training is over.

    Attributes:
        kind: Of the script.
        directory: Of its checkpoints; it may move.
        told: Path stem of what its lives tell.
        may_be_filled: Whether the directory is on the small disk.
        lives: How many there were.
        moves: How many times the directory has moved.
        litter: What lay about after the last life.
    """

    kind: str
    directory: str
    told: str
    may_be_filled: bool
    lives: int = 0
    moves: int = 0
    litter: frozenset[tuple[str, int, int]] = frozenset()
    expected: Expected = field(default_factory=lambda: Expected(life.KEPT))


@dataclass(frozen=True)
class Act:
    """Something to do when a life has committed so often, and not before a time."""

    after_commits: int
    do: Callable[[], None]
    not_before: float = 0.0


class Soak:
    """Kills and resumes until the time is up.

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
        references: Mapping[str, Reference],
        onlooker: Onlooker,
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._small = small
        self._chosen = random.Random(seed)
        self._epochs = epochs
        self._references = references
        self._runs = 0
        self._run: Run | None = None
        self._acts: list[Act] = []
        self._ballast: str | None = None
        self._onlooker = onlooker

    def cycle(self) -> None:
        """Let one life begin and end, and compare what it leaves with what it must."""
        run = self._run or self._begin()
        plan = Plan.draw(self._chosen)
        before = len(self.tally.problems)
        self._rot(run, plan)
        child = self._live(run, plan)
        self.tally.count("cycles", run.kind)
        self._judge(run, plan, child)
        self._compare(run, child)
        if len(self.tally.problems) > before:
            self._keep(run, plan)
            self._run = None
        elif child.said("ended") and self._final(run) in run.expected.steps:
            self.tally.count("runs that ended with the same bits", run.kind)
            self._run = None
        if self._run is None:
            shutil.rmtree(run.directory, ignore_errors=True)

    # One life ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> Run:
        self._runs += 1
        kind = self._chosen.choice(sorted(self._references))
        is_small = self._chosen.random() < 0.5 and self._small is not None
        folder = self._small if is_small and self._small is not None else self._folder
        told = os.path.join(self._folder, f"told-{self._runs}")
        self._run = Run(kind, os.path.join(folder, f"run-{self._runs}"), told, is_small)
        return self._run

    def _live(self, run: Run, plan: Plan) -> Child:
        run.lives += 1
        path = f"{run.told}-{run.lives}.jsonl"
        child = Child(path, lambda: life.live(run.kind, run.directory, self._epochs, plan, path, LIMIT_SECS))
        self._acts = self._acts_on(run, plan, child)
        reached: float | None = None
        try:
            while child.status is None:
                self._hear(run, child.poll())
                now, commits = time.monotonic(), child.said("committed")
                if now > child.began + LIMIT_SECS + 10.0:  # its own limit has not ended it
                    child.signal(signal.SIGABRT)
                for act in [act for act in self._acts if act.after_commits <= commits and act.not_before <= now]:
                    self._acts.remove(act)
                    act.do()
                if plan.kill is not None and commits >= plan.kill.after_commits:
                    reached = reached or now
                    if self._is_time(plan.kill, reached, run):
                        child.signal(signal.SIGKILL)
                time.sleep(_LOOK_SECS)
        finally:
            child.signal(signal.SIGKILL)
            self._make_room()
        return child

    def _acts_on(self, run: Run, plan: Plan, child: Child) -> list[Act]:
        chosen = random.Random(plan.seed)
        acts = [Act(chosen.randrange(1, 6), partial(self._pause, run, child, secs)) for secs in plan.pauses]
        if plan.second_writer:
            acts.append(Act(chosen.randrange(1, 6), partial(self._write_as_well, run, child)))
        if plan.reader:
            acts += [Act(commits, partial(self._read_meanwhile, run, child)) for commits in range(1, 30, 3)]
        if plan.full_disk and run.may_be_filled:
            left, secs = chosen.randrange(_ROOM_BYTES), chosen.uniform(0.0, _FULL_SECS)
            acts.append(Act(chosen.randrange(1, 6), partial(self._take_room, left, secs)))
        return acts

    @staticmethod
    def _is_time(kill: Kill, reached: float, run: Run) -> bool:
        if not kill.in_a_save:
            return time.monotonic() >= reached + kill.secs
        meta = os.path.join(run.directory, META)
        if not os.path.isdir(meta) or not any(name.startswith("tmp-") for name in os.listdir(meta)):
            return False
        time.sleep(kill.secs)
        return True

    def _hear(self, run: Run, lines: list[dict[str, Any]]) -> None:
        """Take note of what a child has told."""
        reference = self._references[run.kind]
        for line in lines:
            if "resumed" in line:
                self._hear_of_a_resume(run, line)
            elif "step" in line:
                self.tally.count("saves begun")
                self._require_same(line, reference, "training is at other values than the undisturbed run")
            elif "committed" in line:
                self.tally.count("saves committed")
                run.expected.committed(line["committed"], line["metrics"].get(life.MONITOR))
            elif "fault" in line:
                self.tally.count("faults", line["fault"])
            elif "ended" in line and line["ended"] != reference[self._final(run)]["variables"]:
                self.tally.losses.append("the run ended with other values than the undisturbed one")

    def _hear_of_a_resume(self, run: Run, line: Mapping[str, Any]) -> None:
        step, wanted = line.get("step"), run.expected.to_resume_from
        if step not in wanted:
            self.tally.losses.append(f"a life was resumed from step {step}, where it could be from {wanted}")
        elif step is not None:
            self.tally.count("restores", "to train on")
            self._require_same(line, self._references[run.kind], "a life was resumed with other values")
        if run.expected.is_doubtful:
            self.tally.count("fallbacks", "to the one before" if step == wanted[0] else "not needed")
        run.expected.resumed(step)

    def _require_same(self, facts: Mapping[str, Any], reference: Reference, what: str) -> None:
        step = facts["step"]
        for part in ("variables", "state"):
            if step not in reference or facts[part] != reference[step][part]:
                self.tally.losses.append(f"{what} at step {step}: its {part}")

    # What befalls it --------------------------------------------------------------------------------------------------

    def _pause(self, run: Run, child: Child, secs: float) -> None:
        self._hear(run, child.stop())
        time.sleep(secs)
        child.signal(signal.SIGCONT)
        self.tally.count("pauses")

    def _write_as_well(self, run: Run, child: Child) -> None:
        self._hear(run, child.stop())
        if child.status is None and not {"closing", "failed", "ended"} & {child.place, *child.lines[-1]}:
            self.tally.count("second writers")
            try:
                Store(run.directory).lock().release()
                self.tally.unexpected.append("a second writer was let in")
            except DirectoryLockedError as error:
                if f"process {child.pid} on" not in str(error):
                    self.tally.unexpected.append(f"a second writer was told of another process: {error}")
        child.signal(signal.SIGCONT)

    def _read_meanwhile(self, run: Run, child: Child) -> None:
        self._hear(run, child.poll())
        newest, committed = run.expected.steps[-1], {line.get("committed") for line in child.lines}
        for _ in range(_TRIES):
            answer = self._onlooker.restore(run.directory)
            if "error" not in answer:
                break
            self.tally.count("lost races of a reader", answer["error"])
        self._hear(run, child.poll())
        if "error" in answer:
            self.tally.unexpected.append(f"a reader beside a writer got {answer['error']}: {answer['text']}")
            return
        self.tally.count("restores", "beside a writer")
        begun = {line["step"] for line in child.lines if "step" in line and "resumed" not in line} - committed
        if answer["step"] not in {newest, *begun}:
            self.tally.losses.append(f"a reader got step {answer['step']}, when {newest} was committed")
        self._require_same(answer, self._references[run.kind], "a reader got other values")

    def _take_room(self, left_bytes: int, secs: float) -> None:
        assert self._small is not None
        self._ballast = disk.fill(self._small, left_bytes)
        self.tally.count("faults", "the disk is full")
        self._acts.append(Act(0, self._make_room, time.monotonic() + secs))

    def _make_room(self) -> None:
        if self._ballast is not None:
            os.unlink(self._ballast)
            self._ballast = None

    def _rot(self, run: Run, plan: Plan) -> None:
        chosen = random.Random(plan.seed)
        if plan.rot is None or not run.expected.steps:
            return
        name = f"ckpt-{run.expected.steps[-1]}"
        if plan.rot in ("flip", "truncate"):
            is_in_place = os.path.exists(os.path.join(run.directory, f"{name}.manifest.json"))
            if run.expected.is_doubtful or len(run.expected.steps) < 2 or not is_in_place:
                return
            (rot.flip if plan.rot == "flip" else rot.truncate)(run.directory, name, chosen)
            run.expected.rotted()
        elif plan.rot == "no state file":
            rot.delete_state_file(run.directory)
        else:
            run.moves += 1
            target = f"{run.directory.partition('-moved-')[0]}-moved-{run.moves}"
            if plan.rot == "copy" and run.may_be_filled:
                return  # there is no room for two
            run.directory = (rot.move if plan.rot == "move" else rot.copy)(run.directory, target)
            run.litter = frozenset()
        self.tally.count("rot", plan.rot)

    # What has to hold -------------------------------------------------------------------------------------------------

    def _judge(self, run: Run, plan: Plan, child: Child) -> None:
        """Say whether it ended as it may."""
        assert child.status is not None
        code = os.waitstatus_to_exitcode(child.status)
        struck = child.said("fault") > 0 or (plan.full_disk and run.may_be_filled)
        if code == -signal.SIGKILL:
            self.tally.count("kills", child.place)
        elif code == 0:
            self.tally.count("lives that ended by themselves")
        elif code == life.FAILED:
            failed = next(line for line in child.lines if "failed" in line)
            if struck and ("CheckpointSaveError" in failed["failed"] or _OF_A_FAULT & set(failed["errors"])):
                self.tally.count("lives that a fault has ended", failed["failed"][0])
            else:
                self.tally.unexpected.append(f"a life ended with {failed['failed'][0]}: {failed['text']}")
        else:
            self.tally.unexpected.append(f"a life ended with code {code}, or has hung; it was {child.place}")

    def _compare(self, run: Run, child: Child) -> None:
        """Compare what is in the directory with what has to be."""
        reference = self._references[run.kind]
        seen = look(run.directory, reference)
        newest = run.expected.steps[-1] if run.expected.steps else None
        for step in seen.after(newest):  # committed, and killed before it could say so
            run.expected.found(step, seen.metrics[step].get(life.MONITOR))
            self.tally.count("commits that nobody lived to report")
        self.tally.losses += missing(seen, run.expected)
        opened = any(line.get("did") == "opening" for line in child.lines)
        if opened and not child.said("fault"):
            left = sorted(os.path.relpath(path, run.directory) for path, *_ in run.litter & seen.litter)
            self.tally.unexpected += [f"the next writer left {path} lying about" for path in left]
        run.litter = seen.litter
        answer = self._onlooker.restore(run.directory)
        if answer.get("step") not in run.expected.to_resume_from:
            self.tally.losses.append(f"only {answer} can be restored, not {run.expected.to_resume_from}")
        elif "step" in answer:
            self.tally.count("restores", "after a life")
            self._require_same(answer, reference, "other values were restored")

    def _final(self, run: Run) -> int:
        return max(self._references[run.kind])

    def _keep(self, run: Run, plan: Plan) -> None:
        """Put a run with a problem where it stays."""
        target = os.path.join(self._folder, "kept", os.path.basename(run.directory))
        if os.path.isdir(run.directory):
            shutil.copytree(run.directory, target, symlinks=True)
        with open(f"{run.told}-{run.lives}.plan", "w", encoding="utf-8") as file:
            file.write(f"{run}\n{plan}\n")
