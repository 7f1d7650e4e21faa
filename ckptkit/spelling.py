"""The nearest of the names there are, for one that is not.

raise ValueError(f"no metric {name!r}.{near(name, names)}")     # no metric 'val_los'. / Did you mean 'val_loss'?
nearest("kernle", ["kernel", "bias"])                           # "kernel"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["near", "nearest"]

_LONGEST = 100  # characters of what somebody has written: the comparison takes longer the longer they are


def near(name: str, names: Iterable[str]) -> str:
    """Return the question whether another name was meant, on a line of its own; nothing if none is near."""
    found = nearest(name, names) if len(name) <= _LONGEST else None
    return "" if found is None else f"\nDid you mean {found!r}?"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like another one; None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)
