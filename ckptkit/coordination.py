"""What the workers of a cluster tell each other about one save: files in the checkpoint directory, no connection.

    common = round.common()                      # a follower: what the chief has written
    with round.part() as prefix:                 # hands in what it has for itself
        held.write_own(prefix, common, 1, 2)
    round.committed()                            # waits for the commit

    round.tell_common(sums)                      # the chief, before its commit
    round.parts()                                # waits for those of all others
    round.end(None)                              # and after it

runs/digits/.ckptkit/cluster-<random>/           of one run of a cluster; swept by the next
  7.common.json                                  the chief's values of the seventh save: dtype, shape, checksum
  7.worker-1.at-1200/own.index, .data-…          what worker 1 has for itself, at its step
  7.ended.json                                   whether it is committed

Everybody waits for a limited time, and says for whom.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from ckptkit.durability import sync_directory, sync_file
from ckptkit.errors import WorkerError

__all__ = ["SaveRound", "Session"]

_Found = TypeVar("_Found")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds between two looks
_HURRY_SECS = 5.0  # for those that are leaving because of an error
_KEPT = 4  # rounds, until a worker that is slow has seen how they ended


class Session:
    """One run of a cluster in one directory, as one of its workers sees it.

    Args:
        folder: Where the files are; the chief makes it.
        index: The number of this worker, 0 for the chief.
        names: What each worker is called.
        timeout_secs: How long to wait for another one, None for as long as it takes.
        progress: Returns what changes as long as the chief is writing: waiting for it begins anew with every change.
    """

    def __init__(
        self,
        folder: str,
        index: int,
        names: Sequence[str],
        timeout_secs: float | None,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder = folder
        self.index = index
        self.names = tuple(names)
        self.progress = progress
        self._timeout_secs = timeout_secs
        self._hurry_at: float | None = None
        self._rounds = 0

    def is_there(self) -> bool:
        """Say whether this worker sees the folder; a network's file system may take a moment."""
        with suppress(WorkerError):
            self.wait_for(lambda: os.path.isdir(self.folder) or None, lambda: "", timeout_secs=_HURRY_SECS)
            return True
        return False

    @property
    def is_chief(self) -> bool:
        """Whether it is this process that saves."""
        return self.index == 0

    def begin(self, step: int, *, durable: bool) -> SaveRound:
        """Return the next save; all workers begin the same ones in the same order."""
        self._rounds += 1
        if self.is_chief and self._rounds > _KEPT:
            _remove(os.path.join(self.folder, f"{self._rounds - _KEPT}.ended.json"))
        return SaveRound(self, self._rounds, step, durable)

    def said(self, start: str) -> dict[int, str]:
        """Return what each worker has said, by its number: the end of a name like ``START`` + ``worker-1.at-1200``.

        Raises:
            OSError: The folder has gone.
        """
        found, start = {}, f"{start}worker-"
        for name in os.listdir(self.folder):
            if name.startswith(start):
                number, _, what = name.removeprefix(start).partition(".at-")
                found[int(number)] = what
        return dict(sorted(found.items()))

    def write(self, name: str, content: str) -> None:
        """Write a file that is there whole or not at all."""
        temporary = os.path.join(self.folder, f"tmp-{uuid.uuid4().hex}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
        os.rename(temporary, os.path.join(self.folder, name))

    def hurry(self) -> None:
        """Wait no longer than some seconds from now on: an error ends this process, and has perhaps ended others."""
        self._hurry_at = self._hurry_at or time.monotonic()

    def close(self) -> None:
        """Remove the folder when all others have seen how the last save ended; the next session sweeps what is left."""
        if not self.is_chief or not os.path.isdir(self.folder):
            return
        others = range(1, len(self.names))
        seen = [os.path.join(self.folder, f"{self._rounds}.seen-{number}") for number in others]
        with suppress(WorkerError):
            self.wait_for(lambda: all(map(os.path.exists, seen)) or None, lambda: "", timeout_secs=_HURRY_SECS)
            shutil.rmtree(self.folder, ignore_errors=True)

    def wait_for(
        self,
        look: Callable[[], _Found | None],
        missing: Callable[[], str],
        timeout_secs: float | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> _Found:
        """Look again and again until something is there.

        Args:
            look: Returns it, or None.
            missing: Says what is missing.
            timeout_secs: For how long, None for as long as the session waits.
            progress: The time begins anew when what this returns has changed.

        Raises:
            WorkerError: It did not come in time.
        """
        began, pause, seen = time.monotonic(), _FIRST_PAUSE, progress()
        longest = self._timeout_secs if timeout_secs is None else timeout_secs
        while (found := look()) is None:
            if not threading.main_thread().is_alive():
                self.hurry()  # the script has ended, and this is what the process waits for
            now = time.monotonic()
            if (newest := progress()) != seen:
                began, seen = now, newest
            limit = math.inf if longest is None else began + longest
            if self._hurry_at is not None:
                limit = min(limit, self._hurry_at + _HURRY_SECS)
            if now >= limit:
                raise WorkerError(f"{missing()} within {now - began:.0f} s.")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return found


class SaveRound:
    """One save.

    Args:
        session: The run of the cluster.
        number: Which save of it this is, from 1.
        step: Where this worker is.
        durable: Whether what is handed in is flushed to the disk.
    """

    def __init__(self, session: Session, number: int, step: int, durable: bool) -> None:
        self._session = session
        self._number = number
        self._step = step
        self._durable = durable

    # The chief ---------------------------------------------------------------------------------------------------

    def tell_common(self, sums: Mapping[str, Sequence[Any]]) -> None:
        """Say what has been written, for the others to compare."""
        self._write("common.json", {"step": self._step, "sums": dict(sums)})

    def parts(self) -> list[str]:
        """Wait for what the others hand in; return the prefixes, in their order.

        Raises:
            WorkerError: One of them did not hand in its part in time, or is at another step.
        """
        others = range(1, len(self._session.names))

        def look() -> list[str] | None:
            there = self._handed_in()
            for number, step in there.items():
                if step != self._step:
                    raise WorkerError(
                        f"{self._session.names[number]} saves step {step} while the chief saves step {self._step}: "
                        "all workers have to do the same steps and save at the same ones."
                    )
            prefixes = [self._path(f"worker-{number}.at-{self._step}", "own") for number in others]
            return prefixes if len(there) == len(others) else None

        def missing() -> str:
            late = [self._session.names[number] for number in others if number not in self._handed_in()]
            return f"{' and '.join(late)} of {len(self._session.names)} did not hand in what {_its(late)} saved"

        return self._session.wait_for(look, missing)

    def end(self, error: str | None) -> None:
        """Say whether it is committed, and remove what was handed in.

        Args:
            error: Why it is not, None if it is.
        """
        self._write("ended.json", {"error": error})
        _remove(self._path("common.json"))
        for number, step in self._handed_in().items():
            shutil.rmtree(self._path(f"worker-{number}.at-{step}"), ignore_errors=True)

    # The others --------------------------------------------------------------------------------------------------

    def common(self) -> Mapping[str, Sequence[Any]]:
        """Wait for what the chief has written.

        Raises:
            WorkerError: It did not come in time, or the chief could not save.
        """
        told = self._wait_for_chief(lambda: self._read("common.json") or self._ended(), "written")
        self._require_saved(told)
        return told["sums"]  # type: ignore[no-any-return]

    @contextmanager
    def part(self) -> Iterator[str]:
        """Hand in what is written, at the prefix that this gives, in one step."""
        folder = self._path(f"part-{self._session.index}-{uuid.uuid4().hex}")
        os.mkdir(folder)
        yield os.path.join(folder, "own")
        for name in os.listdir(folder):
            sync_file(os.path.join(folder, name), durable=self._durable)
        sync_directory(folder, durable=self._durable)
        os.rename(folder, self._path(f"worker-{self._session.index}.at-{self._step}"))

    def committed(self) -> None:
        """Wait for the commit.

        Raises:
            WorkerError: It did not come in time, or the chief could not save.
        """
        told = self._wait_for_chief(self._ended, "committed")
        with suppress(OSError):  # the chief has gone, perhaps, and its folder with it
            self._write(f"seen-{self._session.index}", None)
        self._require_saved(told)

    # Inside ------------------------------------------------------------------------------------------------------

    def _wait_for_chief(self, look: Callable[[], Any], done: str) -> Any:
        missing = f"{self._session.names[0]} has not {done} step {self._step}"
        return self._session.wait_for(look, lambda: missing, progress=self._session.progress)

    def _require_saved(self, told: Mapping[str, Any]) -> None:
        if told.get("error") is not None:
            raise WorkerError(f"{self._session.names[0]} could not save it: {told['error']}")

    def _ended(self) -> Any:
        return self._read("ended.json")

    def _handed_in(self) -> dict[int, int]:
        """Return the step of each worker that has handed in its part, by its number."""
        return {number: int(step) for number, step in self._session.said(f"{self._number}.").items()}

    def _path(self, *names: str) -> str:
        return os.path.join(self._session.folder, f"{self._number}.{names[0]}", *names[1:])

    def _write(self, name: str, content: Any) -> None:
        self._session.write(f"{self._number}.{name}", json.dumps(content))

    def _read(self, name: str) -> Any:
        try:
            with open(self._path(name), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None


def _its(workers: Sequence[str]) -> str:
    return "it" if len(workers) == 1 else "they"


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
