"""What has happened in a directory of checkpoints, for people to read: ``.ckptkit/history.jsonl``, an event a line.

    history = History("runs/digits")
    history.begin(step=1200, resumed_from="ckpt-1200")     # a turn of this process
    history.note("saved", name="ckpt-1800", step=1800)
    history.end(step=1800)
    [event.facts["name"] for event in read("runs/digits") if event.kind == "saved"]

    {"event": "saved", "at": 1790000000.5, "run": "3f0c…", "name": "ckpt-1800", "step": 1800, …}

A turn without an end was killed, some time after its last event. Nothing but reports hangs on this file: it is not
flushed to the disk, a line that cannot be written is lost, and one that cannot be read is passed over.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ckptkit.durability import write_file
from ckptkit.listing import META
from ckptkit.records import finite_json, from_finite_json

__all__ = ["Event", "History", "newest_first", "read"]

_log = logging.getLogger("ckptkit")
_NAME = "history.jsonl"
_MOST_BYTES = 16 << 20  # some 50,000 saves; then the older half goes
_MOST_WAITING = 1000  # events before there is a folder to write them to


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: ``begun``, ``saved``, ``cost``, ``pruned``, ``skipped``, ``failed``, ``measured``, ``restored``,
            ``preempted`` or ``ended``; a newer ckptkit may know others.
        at: Seconds since the Epoch.
        run: The turn of one process at the directory, random hex; "" where it was no run, as of a command.
        facts: What belongs to it: ``step`` with nearly all of them, ``metrics`` as numbers.
    """

    kind: str
    at: float
    run: str
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        """Return it as a line of strict JSON."""
        facts = dict(self.facts)
        if "metrics" in facts:
            facts["metrics"] = finite_json(facts["metrics"])
        return json.dumps(
            {"event": self.kind, "at": self.at, "run": self.run, **facts}, allow_nan=False, default=_plain
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> Event:
        """Parse a line.

        Raises:
            ValueError: It is none.
        """
        try:
            facts = json.loads(line)
            kind, at, run = facts.pop("event"), float(facts.pop("at")), facts.pop("run")
            if "metrics" in facts:
                facts["metrics"] = from_finite_json(facts["metrics"])
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"no event: {error!r}") from error
        if not (isinstance(kind, str) and isinstance(run, str) and math.isfinite(at)):
            raise ValueError("no event: kind, time or run is of a wrong type")
        return cls(kind, at, run, facts)


def read(directory: str) -> tuple[Event, ...]:
    """Return what has happened in a directory, oldest first; nothing where nobody has noted anything."""
    return tuple(newest_first(directory))[::-1]


def newest_first(directory: str) -> Iterator[Event]:
    """Go over what has happened in a directory, backwards: who looks for the last of a kind parses no more."""
    try:
        with open(_path(directory), "rb") as file:
            lines = file.read(2 * _MOST_BYTES).splitlines()
    except OSError:
        return
    for line in reversed(lines):
        with suppress(ValueError):  # torn by a crash
            yield Event.from_json(line)


class History:
    """What this process does in a directory, a turn after the other.

    Args:
        directory: Folder of the checkpoints. What happens before it is made is written when it is there.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._run: str | None = None
        self._pid = os.getpid()
        self._step = 0
        self._error_before: BaseException | None = None
        self._waiting: list[bytes] = []
        self._listeners: list[Callable[[Event], None]] = []
        self._lock = threading.Lock()
        self._may_be_torn = True

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call a function with every event, in whatever thread it happens."""
        self._listeners.append(listener)

    def begin(self, **facts: Any) -> None:
        """Begin a turn, if none is under way."""
        if self._run is None:
            self._run, self._pid = uuid.uuid4().hex, os.getpid()
            self._error_before = getattr(sys, "last_value", None)
            self._trim()
            self.note("begun", pid=self._pid, host=os.uname().nodename, **facts)

    def note(self, kind: str, **facts: Any) -> None:
        """Enter an event, if a turn is under way; never an error."""
        if self._run is None or os.getpid() != self._pid:  # of a process that was forked: not its turn
            return
        self._step = facts.setdefault("step", self._step)
        event = self._enter(kind, self._run, facts)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a log for people: no save fails of it
                _log.exception("%r of %s could not be passed on.", kind, self._directory)

    def end(self, kind: str = "ended", **facts: Any) -> None:
        """End the turn that is under way, if one is."""
        self.note(kind, **facts)
        self._run = None

    def end_with_process(self) -> None:
        """End the turn that is under way because nobody else did; an error that nobody caught is named."""
        error = getattr(sys, "last_value", None)
        self.end(error=None if error is self._error_before else type(error).__name__)

    def remark(self, kind: str, **facts: Any) -> None:
        """Enter an event that belongs to no turn: somebody has used a command."""
        self._enter(kind, "", facts)

    def _enter(self, kind: str, run: str, facts: Mapping[str, Any]) -> Event:
        event = Event(kind, time.time(), run, facts)
        self._append(event.to_json().encode() + b"\n")
        return event

    def _append(self, line: bytes) -> None:
        with self._lock:
            self._waiting.append(line)
            del self._waiting[:-_MOST_WAITING]
            content = b"".join(self._waiting)
            try:
                file = os.open(_path(self._directory), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except FileNotFoundError:  # no folder yet
                return
            except OSError as error:
                self._waiting.clear()
                _log.debug("no line can be added to %s: %s", _path(self._directory), error)
                return
            self._waiting.clear()
            try:
                try:
                    size = os.fstat(file).st_size
                    if self._may_be_torn and size and os.pread(file, 1, size - 1) != b"\n":
                        content = b"\n" + content
                    self._may_be_torn = True
                    self._may_be_torn = os.write(file, content) < len(content)
                finally:
                    os.close(file)
            except OSError as error:
                _log.debug("no line can be added to %s: %s", _path(self._directory), error)

    def _trim(self) -> None:
        path = _path(self._directory)
        try:
            if os.path.getsize(path) <= _MOST_BYTES:
                return
            with open(path, "rb") as file:
                file.seek(-_MOST_BYTES // 2, os.SEEK_END)
                file.readline()
                newer = file.read()
            write_file(path, newer, temporary=path + ".tmp", durable=False)
        except OSError as error:
            _log.debug("%s could not be made shorter: %s", path, error)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)  # a step may be one of NumPy's numbers


def _path(directory: str) -> str:
    return os.path.join(directory, META, _NAME)
