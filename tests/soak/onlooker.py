"""A process that restores, read only, from any directory it is asked for; it lives as long as the soak."""

import json
import os
import select
import signal

from tests.soak.life import look_on

LIMIT_SECS = 120.0  # of a restore


class Onlooker:
    """The parent's end of it.

    Args:
        output: File for what it says.
    """

    def __init__(self, output):
        asked, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            os.close(self._answers)
            look_on(asked, answers, output)
        os.close(asked)
        os.close(answers)

    def restore(self, directory):
        """Return step and hashes of what it restored, or the error that it got.

        Raises:
            TimeoutError: It has hung, or is gone.
        """
        os.write(self._ask, f"{directory}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], LIMIT_SECS)
            more = os.read(self._answers, 1 << 16) if ready else b""
            if not more:
                raise TimeoutError(f"the process that looks on gave no answer about {directory}")
            answer += more
        return json.loads(answer)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._ask)
        os.close(self._answers)
