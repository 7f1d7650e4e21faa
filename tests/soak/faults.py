"""Operations of a save that fail as they do on a bad day, in this process from now on.

faults = Faults([Fault("pwrite", after=3, times=2, error=errno.ENOSPC)], "runs/a", tell)
faults.arm()                        # from now on operations are counted
"""

import builtins
import os
import random
from dataclasses import dataclass
from errno import EIO, ENOSPC, EROFS

OPERATIONS = {  # and what they may say
    "open": (ENOSPC, EIO, EROFS),
    "pwrite": (ENOSPC, EIO),
    "write": (ENOSPC, EIO),
    "fsync": (EIO, ENOSPC),
    "mkdir": (ENOSPC, EIO, EROFS),
    "rename": (EIO, EROFS, ENOSPC),
    "replace": (EIO, EROFS, ENOSPC),
    "link": (EIO, EROFS, ENOSPC),
    "unlink": (EIO, EROFS),
    "rmdir": (EIO, EROFS),
}
_AT_A_TIME = (1, 1, 1, 2, 5, 40)


@dataclass(frozen=True)
class Fault:
    """``times`` operations in a row fail, after so many of the kind that went well."""

    operation: str
    after: int
    times: int
    error: int

    @classmethod
    def draw(cls, chosen: random.Random) -> "Fault":
        """Return any one."""
        operation = chosen.choice(list(OPERATIONS))
        return cls(operation, chosen.randrange(12), chosen.choice(_AT_A_TIME), chosen.choice(OPERATIONS[operation]))


class Faults:
    """Makes operations in a directory fail.

    Args:
        faults: Which.
        directory: Only paths in it count, and whatever has a descriptor.
        tell: Called with the name of each operation that fails, and how.
    """

    def __init__(self, faults, directory, tell):
        self._faults = faults
        self._directory = directory
        self._tell = tell
        self._counts = None
        for name in {fault.operation for fault in faults} - {"write"}:
            setattr(os, name, self._failing(name, getattr(os, name)))
        if any(fault.operation == "write" for fault in faults):  # a file that Python writes: manifest, state file
            builtins.open = self._failing("write", builtins.open, only=self._is_written)

    def arm(self):
        """Begin to count, if that was not done."""
        self._counts = self._counts or dict.fromkeys(OPERATIONS, 0)

    def _failing(self, name, operation, only=lambda *arguments, **named: True):
        def call(*arguments, **named):
            if self._counts is not None and self._is_inside(arguments[0]) and only(*arguments, **named):
                self._strike(name, arguments[0])
            return operation(*arguments, **named)

        return call

    def _strike(self, name, path):
        self._counts[name] += 1
        for fault in self._faults:
            if fault.operation == name and fault.after < self._counts[name] <= fault.after + fault.times:
                self._tell(fault=f"{name} {os.strerror(fault.error)}")
                raise OSError(fault.error, os.strerror(fault.error), None if isinstance(path, int) else path)

    def _is_inside(self, path):
        if isinstance(path, int):
            return True
        path = os.fspath(path)
        return not os.path.isabs(path) or path.startswith(self._directory)  # relative to a descriptor

    @staticmethod
    def _is_written(path, mode="r", *_, **named):
        return "w" in mode
