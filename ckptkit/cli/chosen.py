"""Which checkpoint is meant by a path: ``DIR/ckpt-1200``, one of its files, or a directory for its newest.

record = checkpoint_at("runs/digits/ckpt-1200.index")
record = checkpoint_at("runs/digits", "best")
"""

from __future__ import annotations

import os
import re
import time

from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError
from ckptkit.keeping import Upkeep
from ckptkit.listing import DirectoryReader, Listing
from ckptkit.records import CheckpointRecord
from ckptkit.spelling import near

__all__ = ["CHECKPOINT", "checkpoint_at"]

CHECKPOINT = "a checkpoint, DIR/ckpt-1200, or a directory for its newest"  # the help of an argument

_ENDINGS = re.compile(r"(\.index|\.manifest\.json|\.data-[0-9]{5}-of-[0-9]{5})\Z")
_SHOWN = 5


def checkpoint_at(path: str, which: str = "latest") -> CheckpointRecord:
    """Return the checkpoint that a path stands for.

    Args:
        path: A directory, or the prefix of a checkpoint, or one of its files.
        which: Of a directory ``"latest"``, ``"best"`` or a step.

    Raises:
        CheckpointNotFoundError: There is none; the message has the nearest name.
        CheckpointDamagedError: There is, and its files are not what was written.
    """
    path = path.rstrip(os.sep) or os.sep
    if os.path.isdir(path):
        reader = DirectoryReader(path)
        listing = reader.scan()
        return _named(reader, listing, _name(listing, path, which))
    folder, file = os.path.split(_ENDINGS.sub("", path))
    reader = DirectoryReader(folder or ".")
    return _named(reader, reader.scan(), file)


def _name(listing: Listing, directory: str, which: str) -> str:
    if not listing.records:
        raise CheckpointNotFoundError(f"no checkpoints in {directory}.{_damage(listing)}")
    if which == "latest":
        return listing.records[-1].name
    if which == "best":
        best = Upkeep(listing, time.time()).best
        if best is None:
            raise CheckpointNotFoundError(
                f"nothing says which checkpoint in {directory} is the best: its newest one was saved without monitor= "
                "or a Best policy, or none carries the metric. Name one: 'ckptkit ls' lists them."
            )
        return best
    found = [record.name for record in listing.records if str(record.step) == which]
    if not found:
        steps = ", ".join(str(record.step) for record in listing.records[: -_SHOWN - 1 : -1])
        raise CheckpointNotFoundError(f"no checkpoint of step {which} in {directory}; steps there, newest: {steps}.")
    return found[-1]


def _named(reader: DirectoryReader, listing: Listing, name: str) -> CheckpointRecord:
    there = {record.name: record for record in (*reader.unlisted(listing).records, *listing.records)}
    if name in there:
        return there[name]
    if name in listing.damaged:
        raise CheckpointDamagedError(
            f"checkpoint {os.path.join(reader.directory, name)} is damaged: {listing.damaged[name]}.\n"
            f"'ckptkit repair {reader.directory}' moves it aside."
        )
    names = [*there, *listing.damaged]
    hint = near(name, names) or (f"\nThere are {', '.join(names[-_SHOWN:])}." if names else "")
    raise CheckpointNotFoundError(f"no checkpoint {os.path.join(reader.directory, name)}.{hint}")


def _damage(listing: Listing) -> str:
    return "".join(f"\n{name} is damaged: {reason}." for name, reason in listing.damaged.items())
