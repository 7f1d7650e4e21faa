"""The turns of the processes that worked in a directory: from when to when, how each ended, and what was lost then.

for turn in turns_of(read("runs/digits"), is_alive=lambda pid, host: None):
    print(turn.number, turn.ended, turn.repeated_steps)      # 1 killed 150

A turn that was killed has no end: its last event is the last sign of life, and what was trained since is not known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ckptkit.history import Event
from ckptkit.report.event_facts import text, whole

__all__ = ["ENDS", "INTERRUPTIONS", "Turn", "is_alive", "turns_of"]

INTERRUPTIONS = ("killed", "preempted", "failed")
ENDS = (*INTERRUPTIONS, "ended", "running", "unknown")
_LAST_EVENTS = {"ended", "preempted"}


@dataclass(frozen=True)
class Turn:
    """What one process did in a directory, from its start to its end.

    Attributes:
        number: From 1, in the order in which they began.
        run: Its identity in the history.
        began_at: Seconds since the Epoch; of its first event, where the history does not go back to its beginning.
        seen_at: When it ended, or gave its last sign of life.
        first_step: The step it began at, None where that is not known.
        last_step: The last one that it is known to have done, None where none is.
        resumed_from: Name of the checkpoint that it went on from, None for a fresh start.
        ended: How: one of :data:`ENDS`.
        why: The cause of its end, as far as it is known.
        lost_from: Since when its work was in no checkpoint when it was interrupted; None if nothing was lost.
        repeated_steps: How many steps the next one had to train again, at least.
    """

    number: int
    run: str
    began_at: float
    seen_at: float
    first_step: int | None
    last_step: int | None
    resumed_from: str | None
    ended: str
    why: str = ""
    lost_from: float | None = None
    repeated_steps: int = 0

    @property
    def is_interrupted(self) -> bool:
        """Whether it ended before its time."""
        return self.ended in INTERRUPTIONS


def turns_of(events: Sequence[Event], is_alive: Callable[[int, str], bool | None]) -> tuple[Turn, ...]:
    """Return the turns that a history tells of, oldest first.

    Args:
        events: What happened, oldest first.
        is_alive: Says whether a process of a number is alive on a host, None if nobody can know.
    """
    by_run: dict[str, list[Event]] = {}
    for event in events:
        if event.run:  # else it was a command
            by_run.setdefault(event.run, []).append(event)
    own = list(by_run.values())
    turns: list[Turn] = []
    for at, (mine, turn) in enumerate(zip(own, map(_turn, own))):
        following = own[at + 1] if at + 1 < len(own) else None
        if turn.ended == "unknown":
            ended = "killed" if following is not None else _end_of_last(mine, is_alive)
            turn = replace(turn, ended=ended)
        turns.append(replace(_with_loss(turn, mine, following), number=at + 1))
    return tuple(turns)


def is_alive(pid: int, host: str) -> bool | None:
    """Say whether a process is alive; None for one of another machine."""
    if host != os.uname().nodename or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return None
    return True


def _turn(events: Sequence[Event]) -> Turn:
    first, last = events[0], events[-1]
    begun = next((event for event in events if event.kind == "begun"), None)
    end = next((event for event in reversed(events) if event.kind in _LAST_EVENTS), None)
    steps = [step for event in events if (step := whole(event, "step")) is not None]
    return Turn(
        number=0,
        run=first.run,
        began_at=first.at,
        seen_at=max(first.at, last.at),  # the clock may have gone back
        first_step=None if begun is None else whole(begun, "step"),
        last_step=max(steps, default=None),
        resumed_from=None if begun is None else text(begun, "resumed_from") or None,
        ended=_how(end),
        why="" if end is None else text(end, "cause") or text(end, "error"),
    )


def _how(end: Event | None) -> str:
    if end is None:
        return "unknown"
    return "failed" if text(end, "error") else end.kind


def _end_of_last(events: Iterable[Event], is_alive: Callable[[int, str], bool | None]) -> str:
    begun = next((event for event in events if event.kind == "begun"), None)
    pid = None if begun is None else whole(begun, "pid")
    if begun is None or pid is None:
        return "unknown"
    alive = is_alive(pid, text(begun, "host"))
    return "unknown" if alive is None else "running" if alive else "killed"


def _with_loss(turn: Turn, events: Iterable[Event], following: Iterable[Event] | None) -> Turn:
    begun = next((event for event in following or () if event.kind == "begun"), None)
    went_on_at = None if begun is None else whole(begun, "step")
    repeated = 0
    if turn.is_interrupted and went_on_at is not None and turn.last_step is not None:
        repeated = max(turn.last_step - went_on_at, 0)
    if turn.ended != "killed" and not repeated:
        return turn
    # What the next one went on from is what was not lost; where nobody went on, all that was committed.
    saves = [event for event in events if event.kind == "saved"]
    safe = [event.at for event in saves if went_on_at is None or (whole(event, "step") or 0) <= went_on_at]
    return replace(turn, lost_from=max(safe, default=turn.began_at), repeated_steps=repeated)
