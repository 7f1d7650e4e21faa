"""How a checkpoint and the live objects differ, told so that a person can act on it.

raise CheckpointMismatchError(report("runs/a/ckpt-1200", [...], 14))

cannot restore step 1200 from runs/a/ckpt-1200: 2 of 14 variables differ.
  dense/kernel  checkpoint (64, 10) float32   model (64, 12) float32
Build the model as it was saved, or pass strict=False to skip these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptkit.records import split_number
from ckptkit.spelling import nearest

__all__ = ["Difference", "report"]

_SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """One value that does not fit: what each side has under a name, None for nothing."""

    name: str
    saved: str | None
    live: str | None


def report(prefix: str, differences: Sequence[Difference], variables: int) -> str:
    """Return the message for a restore that cannot be done: both sides of the first five, then a count."""
    only_saved = [d.name for d in differences if d.live is None]
    width = max(len(d.name) for d in differences[:_SHOWN])
    number = split_number(prefix)
    what = prefix if number is None else f"step {number[1]} from {prefix}"
    lines = [f"cannot restore {what}: {len(differences)} of {variables} variables differ."]
    for d in differences[:_SHOWN]:
        lines.append(f"  {d.name:<{width}}  checkpoint {d.saved or 'nothing'}   model {d.live or 'nothing'}")
        near = nearest(d.name, only_saved) if d.saved is None else None
        if near:
            lines[-1] += f"   (the checkpoint has {near!r})"
    if len(differences) > _SHOWN:
        lines.append(f"  … and {len(differences) - _SHOWN} more.")
    lines.append("Build the model as it was saved, or pass strict=False to skip these.")
    return "\n".join(lines)
