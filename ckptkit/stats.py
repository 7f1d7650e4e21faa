"""What saves cost a run: how long training was blocked, how much time it lost, how long the files took.

    recorder = SaveRecorder()
    recorder.step_boundary(now)                         # at every step
    recorder.save_began(1200, now, blocked=0.002)       # in the thread that trains, before the writer has the job
    recorder.save_finished(1200, now, Took(403_000_000, 0.06, 0.31, 0.02))  # in the writer's thread
    recorder.step_boundary(now)                         # the step that ran meanwhile has ended: now it is known
    [cost.line("runs/a/ckpt-1200") for cost in recorder.take_settled()]
    recorder.stats().lost_secs

Time lost is what the caller was blocked, plus by how much the steps that ran while the save was under way took longer
than a usual step: the median of the last 50 outside of saves. Steps that were faster are set off. A pause that the
caller tells of is no step. One that was held up for longer than the save was there lost what the save was there, or,
where that is less by more than a usual step, was held up by something else.

Pure bookkeeping: time comes in as numbers, from any clock that does not go back.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from ckptkit.readable import count_text, line, secs_text, size_text, table

__all__ = ["SaveCost", "SaveRecorder", "SaveStats", "Took"]

_USUAL_STEPS = 50
_LAST_SAVES = 5  # whose costs tell what the next will cost
_MOST_STEPS = 2**14  # that are remembered; of a save that takes more, the last
_GAP = math.nan  # between two boundaries: what lies there is no step


@dataclass(frozen=True)
class Took:
    """What the files of one save took.

    Attributes:
        size_bytes: Size of its files.
        staged_secs: How long the values took to the host.
        written_secs: How long the files took to write, staging included.
        synced_secs: How long they took to the disk.
    """

    size_bytes: int
    staged_secs: float
    written_secs: float
    synced_secs: float


_NOTHING = Took(0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class SaveCost:
    """What one save cost.

    Attributes:
        step: The step that was saved.
        size_bytes: Size of its files.
        blocked_secs: How long the caller waited.
        lost_secs: By how much training came later than without the save; the time blocked is part of it.
        staged_secs: How long the values took to the host.
        written_secs: How long the files took to write.
        synced_secs: How long they took to the disk.
    """

    step: int
    size_bytes: int
    blocked_secs: float
    lost_secs: float
    staged_secs: float
    written_secs: float
    synced_secs: float

    def line(self, prefix: str) -> str:
        """Return the line for the log."""
        return (
            f"saved {prefix}: {size_text(self.size_bytes)}, blocked {secs_text(self.blocked_secs)}, "
            f"lost {secs_text(self.lost_secs)}, staged in {secs_text(self.staged_secs)}, "
            f"written in {secs_text(self.written_secs)}, synced in {secs_text(self.synced_secs)}"
        )


@dataclass(frozen=True, repr=False)
class SaveStats:
    """What the saves so far cost in all.

    Attributes:
        saves: Number of saves that were committed.
        skipped: Number of saves that were due and not taken, because two were under way.
        failed: Number of saves that could not be written.
        bytes_written: Size of all that was committed.
        blocked_secs: See :class:`SaveCost`; in all, those that failed included, and so are the next.
        lost_secs: In all.
        staged_secs: In all.
        written_secs: In all.
        synced_secs: In all.
        last: The last save that was committed, None before the first.
    """

    saves: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_written: int = 0
    blocked_secs: float = 0.0
    lost_secs: float = 0.0
    staged_secs: float = 0.0
    written_secs: float = 0.0
    synced_secs: float = 0.0
    last: SaveCost | None = None

    def __repr__(self) -> str:
        told = [count_text(self.saves, "save"), size_text(self.bytes_written)]
        told += [f"blocked {secs_text(self.blocked_secs)}", f"lost {secs_text(self.lost_secs)}"]
        told += [f"{count} {word}" for count, word in ((self.skipped, "skipped"), (self.failed, "failed")) if count]
        return line("SaveStats", "", told)

    def _repr_html_(self) -> str:
        headings = ("saves", "size", "blocked", "lost", "staged", "written", "synced")
        rows = [_row(count_text(self.saves, "save"), self.bytes_written, self)]
        if self.last is not None:
            rows.append(_row(f"the last, of step {self.last.step}", self.last.size_bytes, self.last))
        return table(f"{self.skipped} skipped, {self.failed} failed", rows, headings=headings)


@dataclass(eq=False)
class _Save:
    """A save, in the time that training has for itself: a clock that stands still while the caller is blocked."""

    step: int
    began: float
    blocked: float
    finished: float = math.nan
    took: Took = _NOTHING
    failed: bool = False


class SaveRecorder:
    """Keep the books of what saves cost.

    Steps and the beginnings of saves are told by the thread that trains, how saves end by any, and any may ask.

    Attributes:
        lost_secs: What each of the last saves has cost, oldest first; one that failed at least what the one before it
            has. Left out is one beside which steps ran when nobody knew yet how long a step takes, and what fails
            before any cost is known.
    """

    def __init__(self) -> None:
        self.lost_secs: tuple[float, ...] = ()
        self._lock = threading.Lock()
        self._boundaries: deque[float] = deque(maxlen=_MOST_STEPS)  # since the last save, or during one
        self._usual: deque[float] = deque(maxlen=_USUAL_STEPS)  # secs of steps outside of saves
        self._blocked = 0.0
        self._under_way: list[_Save] = []
        self._newest: _Save | None = None
        self._ended: list[_Save] = []  # while the step that ran meanwhile has not
        self._totals = SaveStats()
        self._settled: list[SaveCost] = []

    @property
    def counts_steps(self) -> bool:
        """Whether anybody tells of steps, so that it pays to wait for the next before a save is settled."""
        return bool(self._boundaries)

    @property
    def is_saving(self) -> bool:
        """Whether there is a save whose cost is not known yet."""
        return bool(self._under_way or self._ended)

    def step_boundary(self, now: float) -> bool:
        """Say that a step has ended and the next one begins.

        Returns:
            Whether :meth:`take_settled` has something.
        """
        self._boundaries.append(now - self._blocked)  # nothing else, as a rule: this is in every step's way
        if self._ended:
            self.settle()
        return self._settled != []

    def pause(self) -> None:
        """Say that what lies between the last boundary and the next is no step, such as a validation."""
        self._boundaries.append(_GAP)

    def save_began(self, step: int, now: float, blocked: float) -> None:
        """Say that a save is under way, and that the caller was blocked for so many seconds until now."""
        self.settle()  # no step has come since: what is known is all there is
        with self._lock:
            if not self._under_way:
                steps = pairwise(list(self._boundaries)[-1 - _USUAL_STEPS :])
                self._usual.extend(end - begin for begin, end in steps if not math.isnan(end - begin))
                self._forget_steps()
            self._blocked += blocked
            self._newest = _Save(step, now - self._blocked, blocked)
            self._under_way.append(self._newest)

    def save_blocked(self, now: float, secs: float) -> None:
        """Say that the save that began last blocked the caller for further seconds until now.

        That is, until there was a place for it in the queue, or until it was written.
        """
        with self._lock:
            self._blocked += secs
            for save in self._ended:  # what ended meanwhile ended at this moment of training
                save.finished = min(save.finished, now - self._blocked)
            if self._newest is not None:
                self._newest.blocked += secs

    def save_finished(self, step: int, now: float, took: Took) -> None:
        """Say that a save is committed, and what its files took.

        Raises:
            ValueError: None of that step is under way.
        """
        with self._lock:
            self._end(step, now).took = took

    def save_failed(self, step: int, now: float) -> None:
        """Say that a save could not be written.

        Raises:
            ValueError: None of that step is under way.
        """
        with self._lock:
            self._end(step, now).failed = True

    def failed(self) -> None:
        """Say that a save was due and failed before it began."""
        with self._lock:
            self._totals = replace(self._totals, failed=self._totals.failed + 1)

    def skipped(self) -> None:
        """Say that a save was due and not taken."""
        with self._lock:
            self._totals = replace(self._totals, skipped=self._totals.skipped + 1)

    def settle(self) -> None:
        """Take what is known of the saves that have ended as all there is: no step follows, or one just did."""
        with self._lock:
            costs = self._costs()
            if not costs:
                return
            self._settled += [cost for save, cost in costs if not save.failed]
            for save, cost in costs:
                self._note_lost(save, cost.lost_secs)
            self._totals = _sum(self._totals, costs)
            self._ended = []
            self._forget_steps()

    def take_settled(self) -> tuple[SaveCost, ...]:
        """Return the saves that were committed and settled since the last call, oldest first."""
        if not self._settled:  # asked at every step, which must not wait for the lock
            return ()
        with self._lock:
            settled, self._settled = tuple(self._settled), []
            return settled

    def stats(self) -> SaveStats:
        """Return all that is known now."""
        with self._lock:
            return _sum(self._totals, self._costs())

    def _end(self, step: int, now: float) -> _Save:
        for save in self._under_way:
            if save.step == step:
                self._under_way.remove(save)
                save.finished = now - self._blocked
                self._ended = [*self._ended, save]
                return save
        steps = ", ".join(str(save.step) for save in self._under_way) or "none"
        raise ValueError(f"no save of step {step} is under way; under way: {steps}.")

    def _forget_steps(self) -> None:
        last = list(self._boundaries)[-1:]
        self._boundaries.clear()
        self._boundaries.extend(last)

    def _note_lost(self, save: _Save, secs: float) -> None:
        if save.failed and self.lost_secs:
            secs = max(secs, self.lost_secs[-1])  # it might have cost more if it had not
        elif save.failed or not (self._usual or save.finished <= save.began):
            return  # nobody knows how long a step takes, and steps came in its way
        self.lost_secs = (*self.lost_secs, secs)[-_LAST_SAVES:]

    def _costs(self) -> list[tuple[_Save, SaveCost]]:
        """Return what each save that has ended cost; of several at once, the first is charged for the steps."""
        boundaries = list(self._boundaries)
        costs = []
        for save in self._ended:
            longer = _longer(boundaries, save, statistics.median(self._usual)) if self._usual else 0.0
            boundaries = []
            took = save.took
            times = (save.blocked, save.blocked + longer, took.staged_secs, took.written_secs, took.synced_secs)
            costs.append((save, SaveCost(save.step, took.size_bytes, *times)))
        return costs


def _row(name: str, size_bytes: int, took: SaveCost | SaveStats) -> tuple[str, ...]:
    secs = (took.blocked_secs, took.lost_secs, took.staged_secs, took.written_secs, took.synced_secs)
    return (name, size_text(size_bytes), *map(secs_text, secs))


def _longer(boundaries: Iterable[float], save: _Save, usual: float) -> float:
    """Return by how much longer than usual the steps took in which a save was under way."""
    total = 0.0
    for begin, end in pairwise(boundaries):
        longer = end - begin - usual
        # Of a step the save can only hold up the part in which it was under way. A gap compares false.
        most = min(end, save.finished) - max(begin, save.began)
        # Steps vary: one that is beside the mark by more than a step takes was held up by something else.
        if most > 0 and longer - most <= usual:
            total += min(longer, most)
    return max(total, 0.0)


def _sum(totals: SaveStats, costs: Iterable[tuple[_Save, SaveCost]]) -> SaveStats:
    for save, cost in costs:
        totals = SaveStats(
            saves=totals.saves + (not save.failed),
            skipped=totals.skipped,
            failed=totals.failed + save.failed,
            bytes_written=totals.bytes_written + cost.size_bytes,
            blocked_secs=totals.blocked_secs + cost.blocked_secs,
            lost_secs=totals.lost_secs + cost.lost_secs,
            staged_secs=totals.staged_secs + cost.staged_secs,
            written_secs=totals.written_secs + cost.written_secs,
            synced_secs=totals.synced_secs + cost.synced_secs,
            last=totals.last if save.failed else cost,
        )
    return totals
