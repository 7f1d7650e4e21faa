"""Whether something fits on a disk, asked before any of it is written.

require_room("runs/a", 403_000_000)     # OSError ENOSPC: 403 MB are needed, and 120 MB are free
"""

from __future__ import annotations

import errno
import os

from ckptkit.readable import size_text

__all__ = ["free_bytes", "require_room"]


def free_bytes(directory: str) -> int | None:
    """Return how many bytes this user may write to the file system of a folder; None if it does not say."""
    try:
        about = os.statvfs(directory)
    except OSError:  # a file system that has no answer can hold files all the same
        return None
    if not about.f_blocks or not about.f_frsize:  # nor is one of no size at all, as some in user space are
        return None
    return about.f_bavail * about.f_frsize


def require_room(directory: str, size_bytes: int) -> None:
    """Refuse to write what does not fit.

    Args:
        directory: A folder that is there.
        size_bytes: How much is to be written; what it replaces is still there by then.

    Raises:
        OSError: It needs more bytes than are free, which the message tells.
    """
    free = free_bytes(directory)
    if free is not None and free < size_bytes:
        raise OSError(
            errno.ENOSPC,
            f"it needs {size_text(size_bytes)}, and {size_text(free)} are free; nothing was written",
            directory,
        )
