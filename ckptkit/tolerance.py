"""How many failed saves a run puts up with.

tolerance = Tolerance("warn", max_save_errors=5)
tolerance.run(job)          # True; False if it failed, which is counted and logged; the fifth in a row raises
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ckptkit.errors import CheckpointSaveError

__all__ = ["MAX_SAVE_ERRORS", "Tolerance"]

MAX_SAVE_ERRORS = 5

_log = logging.getLogger("ckptkit")


class Tolerance:
    """Run saves, one at a time and in any thread, and count those that fail in a row.

    Args:
        on_save_error: ``"raise"``, or ``"warn"`` to log a failed save and go on.
        max_save_errors: With ``"warn"`` the error of so many failed saves in a row is raised after all; None for never.
    """

    def __init__(self, on_save_error: str, max_save_errors: int | None) -> None:
        self._most = 1 if on_save_error == "raise" else max_save_errors
        self._in_a_row = 0

    def run(self, save: Callable[[], None]) -> bool:
        """Run a save.

        Returns:
            Whether it was saved; if not, that was logged.

        Raises:
            CheckpointSaveError: It failed, and that is not put up with.
        """
        try:
            save()
        except CheckpointSaveError as error:
            self.failed(error)
            return False
        self._in_a_row = 0
        return True

    def failed(self, error: CheckpointSaveError) -> None:
        """Count a save that failed, and log it.

        Raises:
            CheckpointSaveError: That is not put up with.
        """
        self._in_a_row += 1
        if self._most is None or self._in_a_row < self._most:
            _log.warning("%s", error)
        elif self._most == 1:
            raise error
        else:
            raise CheckpointSaveError(
                f"{error}\n{self._in_a_row} saves in a row have failed, and max_save_errors={self._most} puts up with "
                "no more."
            ) from error
