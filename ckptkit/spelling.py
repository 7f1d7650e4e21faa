"""The nearest of the names there are, for one that is not.

raise ValueError(f"no metric {name!r}.{near(name, names)}")     # no metric 'val_los'. / Did you mean 'val_loss'?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["near"]

_LONGEST = 100  # characters: the comparison takes longer the longer they are


def near(name: str, names: Iterable[str]) -> str:
    """Return the question whether another name was meant, on a line of its own; nothing if none is near."""
    found = difflib.get_close_matches(name, list(names), n=1) if len(name) <= _LONGEST else []
    return f"\nDid you mean {found[0]!r}?" if found else ""
