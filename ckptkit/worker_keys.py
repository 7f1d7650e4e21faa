"""Where in a checkpoint lies what one of several workers has for itself: its place in the data, its random numbers.

    own = worker_key("_CKPTKIT/loop", 1, 2)          # "_CKPTKIT_WORKER/1-of-2/_CKPTKIT/loop"
    seen_by(keys, 1, 2)["_CKPTKIT/loop"]             # own: this is where worker 1 of 2 has to look
    seen_by(keys, 0, 2)["_CKPTKIT/loop"]             # "_CKPTKIT/loop", the chief's: also for a worker that is new

A worker's own value is stored only where its bytes differ from the chief's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["seen_by", "worker_key"]

_PREFIX = "_CKPTKIT_WORKER/"
_NAME = re.compile(rf"{_PREFIX}([0-9]{{1,9}})-of-([0-9]{{1,9}})/(.*)", re.DOTALL)


def worker_key(key: str, index: int, count: int) -> str:
    """Return where the value of one of ``count`` workers goes, beside the chief's under ``key``."""
    return f"{_PREFIX}{index}-of-{count}/{key}"


def seen_by(keys: Iterable[str], index: int, count: int | None = None) -> dict[str, str]:
    """Return the keys that a worker sees, and where it finds the value of each.

    Args:
        keys: All keys of a checkpoint.
        index: The number of the worker.
        count: How many there were when it was saved, None for whatever the keys say.
    """
    seen, own = {}, {}
    for key in keys:
        match = _NAME.fullmatch(key)
        if match is None:
            seen[key] = key
        elif int(match[1]) == index and count in (None, int(match[2])):
            own[match[3]] = key
    return seen | own
