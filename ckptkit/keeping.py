"""Why each checkpoint of a directory is kept, by the policies that its newest one was saved with.

    upkeep = Upkeep(DirectoryReader("runs/digits").scan(), now=time.time())
    upkeep.reasons["ckpt-1200"]        # ("latest 3", "best val_loss")
    upkeep.best                        # "ckpt-800"
    words(Latest(3))                   # "latest 3"

The ledger decides, as it does for a run: what is said here is what the next save would act on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from ckptkit import history
from ckptkit.combinators import Combined
from ckptkit.ledger import Ledger
from ckptkit.listing import Listing
from ckptkit.policy_text import read_policy
from ckptkit.preservation import (
    All,
    Best,
    EveryNSecs,
    EveryNSteps,
    Latest,
    NewerThan,
    PreservationPolicy,
    Steps,
)
from ckptkit.records import split_number

__all__ = ["Upkeep", "reasons_in", "resumed_from", "stem_of", "with_best", "words"]

_Kept: TypeAlias = tuple[int | None, EveryNSecs | None, PreservationPolicy | None]

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Upkeep:
    """What keeps the checkpoints of a directory.

    Args:
        listing: What is there.
        now: Seconds since the Epoch.
        went_on_from: Name of the checkpoint that the last run went on from, if that is known.

    Attributes:
        reasons: Why each checkpoint is kept, by name: nothing for one that the next save deletes, ``("unknown",)``
            where no configuration says it.
        best_policy: The policy that says which checkpoint is the best, if there is one.
        best: Name of the best, if there is one.
    """

    def __init__(self, listing: Listing, now: float, went_on_from: str | None = None) -> None:
        self.best_policy: Best | None = None
        self.best: str | None = None
        self.reasons: Mapping[str, tuple[str, ...]] = {record.name: ("unknown",) for record in listing.records}
        newest = next((record for record in reversed(listing.records) if not record.foreign), None)
        options = None if newest is None else _options_in(newest.config)
        if newest is None or options is None:
            return
        max_to_keep, every, policy = options
        ledger = Ledger(stem_of(newest.name), max_to_keep, None if every is None else every.secs, policy, now)
        ledger.adopt(listing, now)
        ledger.resumed_from = went_on_from
        self.reasons = reasons_in(ledger, now, "not managed" if every is None else words(every))
        self.best_policy = ledger.best_policy
        best = None if ledger.best_policy is None else ledger.best
        self.best = None if best is None else best.name


def reasons_in(ledger: Ledger, now: float, unlisted: str) -> dict[str, tuple[str, ...]]:
    """Return why each checkpoint that a ledger knows stays, by name; nothing for one that would go.

    Args:
        ledger: With its policies.
        now: Seconds since the Epoch.
        unlisted: Why those stay that a run has saved under this name, and that are not managed any more.
    """
    keepers = ledger.keepers(now)
    newest = next(reversed(keepers), None)
    stem = "" if ledger.latest is None else stem_of(ledger.latest.name)
    found: dict[str, tuple[str, ...]] = {}
    for record in ledger.records:
        told = [words(policy) for policy in keepers.get(record.prefix, ())]
        if record.name == ledger.resumed_from:
            told.append("resumed from")
        if record.prefix == newest and not told:
            told.append("newest")
        if record.prefix not in keepers and not told:
            told.append("not managed" if record.foreign or stem_of(record.name) != stem else unlisted)
        found[record.name] = tuple(told)
    return found


def resumed_from(directory: str) -> str | None:
    """Return the name of the checkpoint that the last run in a directory went on from, None if nobody noted it."""
    for event in history.newest_first(directory):
        if event.kind in ("begun", "restored"):
            name = event.facts.get("resumed_from" if event.kind == "begun" else "name")
            return name if isinstance(name, str) else None
    return None


def stem_of(name: str) -> str:
    """Return what is before the number in a name, ``ckpt``; all of it where there is none."""
    number = split_number(name)
    return name if number is None else number[0]


def words(policy: PreservationPolicy) -> str:
    """Return a policy in a few words."""
    match policy:
        case Combined(parts):
            texts = [f"({told})" if isinstance(part, Combined) else told for part in parts for told in [words(part)]]
            return (" or " if isinstance(policy, policy.union) else " and ").join(texts)
        case Latest(n):
            return f"latest {n}"
        case Best(monitor, _, n):
            return f"best {monitor}" if n == 1 else f"best {n} by {monitor}"
        case EveryNSteps(n):
            return f"every {n} steps"
        case EveryNSecs(secs):
            return f"every {_length_text(secs)}"
        case NewerThan(secs):
            return f"newer than {_length_text(secs)}"
        case Steps():
            return "its step is listed"
        case All():
            return "all"
    return str(policy)


def with_best(policy: PreservationPolicy | None, max_to_keep: int | None, best: Best) -> PreservationPolicy:
    """Return a policy that keeps the best beside what is kept anyway: all, where nothing says otherwise."""
    kept: PreservationPolicy = All() if max_to_keep is None else Latest(max_to_keep)
    return (policy or kept) | best


def _options_in(config: Mapping[str, Any]) -> _Kept | None:
    """Return how many newest are kept, how often one is for its age, and the policy; None if nothing says it."""
    for section in ("training_checkpoint", "checkpoint_manager"):
        options = config.get(section)
        # A policy of a class of somebody's own is left out; and what was saved may come from anywhere.
        if isinstance(options, Mapping) and {"max_to_keep", "preservation_policy"} <= options.keys():
            try:
                return _options_of(options)
            except (TypeError, ValueError):
                return None
    return None


def _options_of(options: Mapping[str, Any]) -> _Kept:
    max_to_keep, text, monitor = options["max_to_keep"], options["preservation_policy"], options.get("monitor")
    hours = options.get("keep_checkpoint_every_n_hours")
    policy = None if text is None else read_policy(text, PreservationPolicy)
    if monitor is not None:
        policy = with_best(policy, max_to_keep, Best(monitor, options["mode"]))
    newest = None if max_to_keep is None else Latest(max_to_keep).n
    return newest, EveryNSecs(hours * 3600.0) if hours else None, policy


def _length_text(secs: float) -> str:
    return next(f"{secs / length:g} {unit}" for length, unit in _UNITS if secs >= length or length == 1)
