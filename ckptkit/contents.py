"""Whether containers hold what they held, and nothing was put in the place of anything: asked in nanoseconds an item.

    contents = Contents([vars(layer), layer.blocks])
    contents.are_same()                      # False: an item is another object, or there are more or fewer

Compared is by identity, so that nothing of what they hold is called. A container in a container counts as an item: what
it holds itself is not looked at, unless it is handed in as well.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Contents"]


class Contents:
    """Remembers what containers hold.

    Args:
        containers: Dicts, lists and tuples.
    """

    def __init__(self, containers: Iterable[dict[Any, Any] | Sequence[Any]]) -> None:
        unique = {id(each): each for each in containers}.values()
        # A view of a dict's values shows what it holds at any later time, too.
        self._live = [view for each in unique for view in ([each, each.values()] if isinstance(each, dict) else [each])]
        self._lengths = list(map(len, self._live))
        # What is remembered is held as well: its place in memory cannot go to something new.
        self._items = list(itertools.chain.from_iterable(self._live))

    def are_same(self) -> bool:
        """Say whether each container holds the same objects in the same order."""
        now = itertools.chain.from_iterable(self._live)
        return list(map(len, self._live)) == self._lengths and all(map(operator.is_, now, self._items))
