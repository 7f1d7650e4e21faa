"""What is configured otherwise than it was when a checkpoint was saved, in one sentence.

report("runs/a", 1200, record.config, {"training_checkpoint": {"max_to_keep": 3}})
# runs/a is gone on with another configuration than step 1200 was saved with: max_to_keep 5 -> 3.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

__all__ = ["report"]

# Where the run is, how it begins, whether it only looks on and what it tells change nothing of what it saves.
_OF_NO_MATTER = {"directory", "last_checkpoint_step", "read_only", "resume", "tensorboard_dir", "verbose"}

# What was saved may come from anywhere: however large or deep it is, little of it is shown.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


def report(directory: str, step: int, saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return what to say of a run that goes on, both sides of each option; None if nothing has changed.

    An option that only one side knows is no change: the other is of another version of ckptkit.

    Args:
        directory: Where the run is.
        step: The step of the checkpoint that it goes on from.
        saved: The configuration in that checkpoint: options by section, as JSON has them.
        now: The configuration of today.
    """
    changes = []
    for section, options in now.items():
        before = saved.get(section)
        if not isinstance(before, Mapping):
            continue
        for name, value in options.items():
            if name in before and name not in _OF_NO_MATTER and before[name] != value:
                changes.append(f"{name} {_short.repr(before[name])} -> {_short.repr(value)}")
    if not changes:
        return None
    return f"{directory} is gone on with another configuration than step {step} was saved with: {', '.join(changes)}."
