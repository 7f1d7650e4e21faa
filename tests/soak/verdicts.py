"""What has to hold of a life: while it tells what it does, by the way it ends, and by what it leaves."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from typing import Any

from tests.soak import life
from tests.soak.child import Child
from tests.soak.looking import look, missing
from tests.soak.onlooker import Onlooker
from tests.soak.run import Run
from tests.soak.tally import Tally

_OF_A_FAULT = {errno.ENOSPC, errno.EIO, errno.EROFS}


class Verdicts:
    """Compares and counts.

    Args:
        tally: Takes the counts.
        onlooker: Restores without writing.
    """

    def __init__(self, tally: Tally, onlooker: Onlooker) -> None:
        self._tally = tally
        self._onlooker = onlooker

    def hear(self, run: Run, lines: list[dict[str, Any]]) -> None:
        """Take note of what a child has told."""
        for line in lines:
            if "resumed" in line:
                self._hear_of_a_resume(run, line)
            elif "step" in line:
                self._tally.count("saves begun")
                self.require_same(run, line, "training is at other values than the undisturbed run")
            elif "committed" in line:
                self._tally.count("saves committed")
                run.expected.committed(line["committed"], line["metrics"].get(life.MONITOR))
            elif "fault" in line:
                self._tally.count("faults", line["fault"])
            elif "ended" in line and line["ended"] != run.reference[run.last_step]["variables"]:
                self._tally.losses.append("the run ended with other values than the undisturbed one")

    def require_same(self, run: Run, facts: Mapping[str, Any], what: str) -> None:
        """Count it as a loss if something is not what the undisturbed run has at that step."""
        step = facts["step"]
        for part in ("variables", "state"):
            if step not in run.reference or facts[part] != run.reference[step][part]:
                self._tally.losses.append(f"{what} at step {step}: its {part}")

    def judge(self, run: Run, child: Child, was_starved: bool) -> None:
        """Say whether a life has ended as it may."""
        assert child.status is not None
        code = os.waitstatus_to_exitcode(child.status)
        if code == -signal.SIGKILL:
            self._tally.count("kills", child.place)
        elif code == 0:
            self._tally.count("lives that ended by themselves")
        elif code == life.FAILED:
            failed = next(line for line in child.lines if "failed" in line)
            is_of_a_fault = "CheckpointSaveError" in failed["failed"] or _OF_A_FAULT & set(failed["errors"])
            if is_of_a_fault and (was_starved or child.said("fault")):
                self._tally.count("lives that a fault has ended", failed["failed"][0])
            else:
                self._tally.unexpected.append(f"a life ended with {failed['failed'][0]}: {failed['text']}")
        else:
            self._tally.unexpected.append(f"a life ended with code {code}, or has hung; it was {child.place}")

    def compare(self, run: Run, child: Child) -> None:
        """Compare what is in the directory with what has to be."""
        seen = look(run.directory, run.reference)
        for step in seen.after(run.expected.steps[-1] if run.expected.steps else None):
            # Committed, and killed before it could say so.
            run.expected.found(step, seen.metrics[step].get(life.MONITOR))
            self._tally.count("commits that nobody lived to report")
        self._tally.losses += missing(seen, run.expected)
        opened = any(line.get("did") == "opening" for line in child.lines)
        if opened and not child.said("fault"):
            left = sorted(os.path.relpath(path, run.directory) for path, *_ in run.litter & seen.litter)
            self._tally.unexpected += [f"the next writer left {path} lying about" for path in left]
        run.litter = seen.litter
        answer = self._onlooker.restore(run.directory)
        if answer.get("step") not in run.expected.to_resume_from:
            self._tally.losses.append(f"only {answer} can be restored, not {run.expected.to_resume_from}")
        elif "step" in answer:
            self._tally.count("restores", "after a life")
            self.require_same(run, answer, "other values were restored")

    def _hear_of_a_resume(self, run: Run, line: Mapping[str, Any]) -> None:
        step, wanted = line.get("step"), run.expected.to_resume_from
        if step not in wanted:
            self._tally.losses.append(f"a life was resumed from step {step}, where it could be from {wanted}")
        elif step is not None:
            self._tally.count("restores", "to train on")
            self.require_same(run, line, "a life was resumed with other values")
        if run.expected.is_doubtful:
            self._tally.count("fallbacks", "to the one before" if step == wanted[0] else "not needed")
        run.expected.resumed(step)
