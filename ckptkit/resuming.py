"""The line that says what a run goes on from: what came back, from where, how old it is, and how its data come back.

resume_line(record, time.time(), epoch=3, batch=20, restored=["model", "optimizer"], inputs=["training data: …"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptkit.readable import age_text
from ckptkit.records import CheckpointRecord

__all__ = ["parts_of", "resume_line"]


def resume_line(
    record: CheckpointRecord, now: float, *, epoch: int, batch: int, restored: Sequence[str], inputs: Sequence[str]
) -> str:
    """Return the line for the log.

    Args:
        record: The checkpoint.
        now: Seconds since the Epoch.
        epoch: Epochs done.
        batch: Batches done in the epoch that follows.
        restored: What has its values again.
        inputs: How each input comes back to where it was, and how exactly.
    """
    at = f"step {record.step}, epoch {epoch}, batch {batch}"
    told = "; ".join([f"restored {', '.join(restored) or 'nothing'}", *inputs])
    return f"resuming from {record.prefix}, saved {age_text(now - record.created_at)} ago, at {at}: {told}."


def parts_of(checkpoint: Any) -> list[str]:
    """Return the names of what a ``tf.train.Checkpoint`` was made of."""
    return [name for name in vars(checkpoint) if not name.startswith("_")]
