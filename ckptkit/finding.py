"""Which checkpoint is meant: the best, a step, a prefix; and what to say where there is none.

record = find(ledger, "runs/digits", 1200)
raise nothing_to_restore(ledger, "runs/digits")
"""

from __future__ import annotations

import math
import os

from ckptkit.errors import CheckpointDamagedError, CheckpointError, CheckpointNotFoundError
from ckptkit.ledger import Ledger
from ckptkit.listing import MANIFEST, DirectoryReader, read_manifest
from ckptkit.ranking import is_better
from ckptkit.records import CheckpointRecord

__all__ = ["best_of", "find", "nothing_to_restore"]

_SHOWN = 5


def find(ledger: Ledger, directory: str, which: str | int | os.PathLike[str]) -> CheckpointRecord:
    """Return the checkpoint that is asked for by ``"best"``, by step or by prefix.

    Raises:
        CheckpointNotFoundError: There is none; the message lists the steps there are.
        CheckpointDamagedError: It is there, and damaged; of the best, one that is damaged may be better.
        ValueError: The best was asked for, and nothing says which one that is.
    """
    if which == "best":
        # Be it damaged: what was asked for by name is never replaced by another.
        best = ledger.best_of_all if best_of(ledger) is not None else None
        _require_no_better(best, ledger, directory)
        if best is None:
            raise CheckpointNotFoundError(f"no checkpoint in {directory} carries the monitored metric.")
        return best
    own = ledger.newest_first()
    found = [r for r in own if r.step == which] if isinstance(which, int) else _at(ledger, directory, os.fspath(which))
    if found:
        return found[0]
    for name, reason in ledger.damaged.items():
        if name == os.path.basename(str(which)) or (isinstance(which, int) and name.endswith(f"-{which}")):
            raise CheckpointDamagedError(f"checkpoint {name} in {directory} is damaged: {reason}.")
    steps = ", ".join(str(record.step) for record in own[: 2 * _SHOWN]) or "none"
    raise CheckpointNotFoundError(f"no checkpoint {which!r} in {directory}; steps there, newest first: {steps}.")


def best_of(ledger: Ledger) -> CheckpointRecord | None:
    """Return the best checkpoint, None if none carries the metric.

    Raises:
        ValueError: No ``Best`` is part of the preservation policy.
    """
    if ledger.best_policy is None:
        raise ValueError(
            "which checkpoint is best is not defined: pass preservation_policy=Best(monitor, mode), "
            "or monitor= to TrainingCheckpoint."
        )
    return ledger.best


def nothing_to_restore(ledger: Ledger, directory: str) -> CheckpointError:
    """Return the error to raise: nothing is there, or nothing that is there can be read."""
    if not ledger.damaged:
        return CheckpointNotFoundError(f"no checkpoint in {directory}.")
    told = "\n".join(f"  {name}: {reason}" for name, reason in list(ledger.damaged.items())[:_SHOWN])
    return CheckpointDamagedError(
        f"checkpoints are in {directory}, but none of them can be restored:\n{told}\n"
        "Bring back the files from a copy, or choose an empty directory to start afresh."
    )


def _require_no_better(best: CheckpointRecord | None, ledger: Ledger, directory: str) -> None:
    assert ledger.best_policy is not None
    monitor, mode = ledger.best_policy.monitor, ledger.best_policy.mode
    than = None if best is None else best.metrics[monitor]
    for name, reason in ledger.damaged.items():
        path = os.path.join(directory, name + MANIFEST)
        manifest = read_manifest(path)
        is_known = manifest is not None and manifest.name == name
        value = manifest.metrics.get(monitor, math.nan) if manifest is not None and is_known else math.nan
        if is_better(value, than, mode) or (not is_known and os.path.lexists(path)):
            raise CheckpointDamagedError(
                f"the best checkpoint in {directory} may be {name}, which is damaged: {reason}.\n"
                "Bring it back from a copy, or restore another one by its step."
            )


def _at(ledger: Ledger, directory: str, prefix: str) -> list[CheckpointRecord]:
    wanted = os.path.realpath(prefix)
    records = ledger.records
    if os.path.dirname(wanted) != os.path.realpath(directory):
        # As with TensorFlow a checkpoint of another directory may be restored from, too.
        records = DirectoryReader(os.path.dirname(prefix)).scan().records
    return [record for record in records if os.path.realpath(record.prefix) == wanted]
