"""What has to be in a directory, told by what was reported from it: the parent's own book, kept without ckptkit.

expected = Expected(kept=2)
expected.resumed(None)
expected.committed(5, None)
expected.committed(11, 0.3)
expected.steps                      # (5, 11): each of them must be there, the last one is the newest
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Committed:
    """A checkpoint that was reported: its step, and the metric that ranks it, if it has one."""

    step: int
    metric: float | None


class Expected:
    """The checkpoints that no policy lets go.

    Args:
        kept: Number of newest that stay, beside the best and the one a run was resumed from.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._there: list[Committed] = []
        self._doubtful: Committed | None = None  # damaged on purpose, and the newest since
        self._resumed_from: int | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of what must be there, the newest last."""
        return tuple(each.step for each in self._there)

    @property
    def is_doubtful(self) -> bool:
        """Whether the newest was damaged: it may be left out, or be unharmed after all."""
        return self._doubtful is not None

    @property
    def to_resume_from(self) -> tuple[int | None, ...]:
        """The steps that a run may be resumed from; None for a start from nothing."""
        newest = self.steps[-1] if self._there else None
        return (newest,) if self._doubtful is None else (newest, self._doubtful.step)

    def resumed(self, step: int | None) -> None:
        """Note what a life begins with."""
        if self._doubtful is not None and step == self._doubtful.step:  # the damage is in bytes that mean nothing
            self.found(step, self._doubtful.metric)
        self._resumed_from = step

    def committed(self, step: int, metric: float | None) -> None:
        """Note a commit, after which the writer tidies up."""
        self.found(step, metric)
        stay = {each.step for each in self._there[-self._kept :]} | {self._resumed_from}
        ranked = [each for each in self._there if each.metric is not None]
        if ranked:
            stay.add(min(ranked, key=lambda each: each.metric).step)  # of equals the earliest
        self._there = [each for each in self._there if each.step in stay]

    def found(self, step: int, metric: float | None) -> None:
        """Note a commit that nobody lived to report, or to tidy up after."""
        self._there = [each for each in self._there if each.step != step] + [Committed(step, metric)]
        self._doubtful = None

    def rotted(self) -> None:
        """Note that the newest was damaged on purpose."""
        self._doubtful = self._there.pop()
