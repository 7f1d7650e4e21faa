"""Workers that train together leave together: one that is told to end tells the others, and all save the same step.

    appointment = Appointment(session, watch)        # watches what the others say, beside the training
    if watch.request is not None and appointment.is_due(step):
        ...                                          # save and leave, as all others do at this very step
    appointment.end()

runs/digits/.ckptkit/cluster-<random>/
  leave.because-<index>              a worker was told to end, and why
  leave.worker-<index>.at-<step>     the first step at which that worker can, or ``.at-end`` if it has come to its end

The step is the last of those that the workers say. Each says its own as soon as it knows, from a thread: the one that
trains may be inside a step, for which it needs the others. So nobody waits for what cannot come.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

from ckptkit.coordination import Session
from ckptkit.errors import WorkerError
from ckptkit.preemption import PreemptionWatch

__all__ = ["Appointment"]

_log = logging.getLogger("ckptkit")
_PAUSE = 0.1  # seconds between two looks
_END = "end"


class Appointment:
    """Find the step at which all workers leave.

    Args:
        session: Where they meet.
        watch: What tells this one to end; what another one was told is noted there.

    Attributes:
        is_broken: Whether another worker did not say when it can: it has died, perhaps, and nothing can be saved.
    """

    def __init__(self, session: Session, watch: PreemptionWatch) -> None:
        self._session = session
        self._watch = watch
        self.is_broken = False
        self._step = 0
        self._has_said = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="ckptkit-appointment", daemon=True)
        self._thread.start()

    def is_due(self, step: int) -> bool:
        """Say whether this is the step; called when this worker, or another, was told to end.

        Args:
            step: Steps done; this worker has come to their end, and can save here.
        """
        self._step = step
        assert self._watch.request is not None
        self._note(f"leave.because-{self._session.index}", self._watch.request.cause)
        self._say(str(step))
        try:
            steps = self._session.wait_for(self._all, self._missing, timeout_secs=self._watch.secs_left)
        except WorkerError as error:
            _log.error("%s", error)
            self.is_broken = True
            return True
        return _END not in steps and step >= max(map(int, steps))

    def passes(self, step: int) -> None:
        """Say where this worker is; called at every step."""
        self._step = step

    def end(self) -> None:
        """Say that this worker has come to its end, and look on no longer."""
        self._ended.set()
        self._thread.join()
        self._say(_END)

    def _look_on(self) -> None:
        while not self._ended.wait(_PAUSE):
            cause = self._cause()
            if cause is not None:
                self._watch.note(cause)
                # After it is noted: whoever passes from here on sees it, and the step after is one to leave at.
                self._say(str(self._step + 1))
                return

    def _cause(self) -> str | None:
        """Return why a worker was told to end, None if none was."""
        with suppress(OSError):
            for name in os.listdir(self._session.folder):
                if name.startswith("leave.because-"):
                    with open(os.path.join(self._session.folder, name), encoding="utf-8") as file:
                        return file.read()
        return None

    def _all(self) -> list[str] | None:
        """Return the steps that the workers have said, None before all have."""
        said = self._said()
        return list(said.values()) if len(said) == len(self._session.names) else None

    def _missing(self) -> str:
        late = [name for number, name in enumerate(self._session.names) if number not in self._said()]
        return f"{' and '.join(late)} did not say at which step to leave"

    def _said(self) -> dict[int, str]:
        try:
            return self._session.said("leave.")
        except OSError:  # the chief has gone, perhaps, and the folder with it
            return {}

    def _say(self, step: str) -> None:
        with self._lock:
            if not self._has_said:
                self._has_said = True
                self._note(f"leave.worker-{self._session.index}.at-{step}", "")

    def _note(self, name: str, content: str) -> None:
        with suppress(OSError):  # as above
            if not os.path.exists(os.path.join(self._session.folder, name)):
                self._session.write(name, content)
