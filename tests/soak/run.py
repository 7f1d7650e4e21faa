"""A run: a script that is started again until its training is over, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.soak import life
from tests.soak.expected import Expected


@dataclass
class Run:
    """One run.

    Attributes:
        kind: Of the script.
        reference: What a run that nothing befalls has at each step.
        directory: Of its checkpoints; it may move.
        told: Path stem of what its lives tell.
        may_be_filled: Whether the directory is on the small disk.
        lives: How many there were.
        moves: How many times the directory has moved.
        litter: What lay about after the last life.
        expected: What must be in the directory.
    """

    kind: str
    reference: Mapping[int, Mapping[str, Any]]
    directory: str
    told: str
    may_be_filled: bool
    lives: int = 0
    moves: int = 0
    litter: frozenset[tuple[str, int, int]] = frozenset()
    expected: Expected = field(default_factory=lambda: Expected(life.KEPT))

    @property
    def last_step(self) -> int:
        """The step at which training is over."""
        return max(self.reference)
