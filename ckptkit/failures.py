"""What is said of a save that failed: why, which checkpoint is still there, and what to do.

told = failure("save of ckpt-1200 to runs/a failed", error, newest=record)
raise CheckpointSaveError(told) from error
"""

from __future__ import annotations

import errno

from ckptkit.records import CheckpointRecord

__all__ = ["cause_of", "failure", "remedy_for"]

_REMEDIES = {
    errno.ENOSPC: "Free space there or save to another directory",
    errno.EDQUOT: "Free some of this user's quota there or save to another directory",
    errno.EACCES: "Let this user write there or save to another directory",
    errno.EPERM: "Let this user write there or save to another directory",
    errno.EROFS: "Mount it for writing or save to another directory",
    errno.EIO: "Have a look at that disk, of which the system's log tells more, or save to another directory",
}


def cause_of(error: BaseException) -> str:
    """Return what went wrong in a few words: ``OSError ENOSPC No space left on device: 'runs/a/checkpoint'``."""
    kind = type(error).__name__
    if not isinstance(error, OSError) or error.errno is None:
        return f"{kind} {error}"
    paths = " -> ".join(repr(path) for path in (error.filename, error.filename2) if path is not None)
    return f"{kind} {errno.errorcode.get(error.errno, error.errno)} {error.strerror}{paths and f': {paths}'}"


def remedy_for(error: BaseException) -> str:
    """Return the beginning of a sentence that says what to do."""
    number = error.errno if isinstance(error, OSError) else None
    return "Mend the cause" if number is None else _REMEDIES.get(number, "Mend the cause")


def failure(what: str, error: BaseException, newest: CheckpointRecord | None) -> str:
    """Return the message for a save that failed.

    Args:
        what: What did, and where: ``save of ckpt-1200 to runs/a failed``.
        error: Why.
        newest: The newest complete checkpoint, None if there is none.
    """
    stands = f"{newest.prefix} is the newest complete checkpoint." if newest else "There is no complete checkpoint yet."
    return f"{what}: {cause_of(error)}\n{stands} {remedy_for(error)}, then save again; training state is unharmed."
