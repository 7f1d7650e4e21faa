"""A directory pruned by a policy that a person gives: what would go and what stays and why, and doing it.

    pruning = prune(Store("runs/digits"), Latest(3) | Best("val_loss", "min"), now=time.time())      # what it would do
    pruning = prune(store, policy, now=time.time(), apply=True)       # does it, as the directory's only writer

The rules are a run's own: the ledger decides, the newest stays and the one that a run went on from, a damaged one
takes nobody's place, and what is not on TensorFlow's list is left alone. A pruning that was killed is done again: at
every moment the state file names what is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from ckptkit.combinators import alternatives
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError
from ckptkit.keeping import reasons_in, stem_of, words
from ckptkit.ledger import Ledger
from ckptkit.preservation import KeepContext, Latest, PreservationPolicy
from ckptkit.records import CheckpointRecord
from ckptkit.store import Store

__all__ = ["Pruning", "prune"]


@dataclass(frozen=True)
class Pruning:
    """What was pruned, or would be.

    Attributes:
        records: What was there, oldest first.
        gone: What of it goes.
        reasons: Why each stays, by name; nothing for one that goes.
        damaged: What is damaged and stays as it is, by name.
    """

    records: tuple[CheckpointRecord, ...]
    gone: tuple[CheckpointRecord, ...]
    reasons: Mapping[str, tuple[str, ...]]
    damaged: Mapping[str, str]


def prune(
    store: Store,
    policy: PreservationPolicy,
    *,
    now: float,
    foreign: bool = False,
    resumed_from: str | None = None,
    apply: bool = False,
) -> Pruning:
    """Delete the checkpoints of a directory that a policy does not keep, or say which these are.

    Args:
        store: The directory.
        policy: What to keep.
        now: Seconds since the Epoch.
        foreign: Whether those that plain TensorFlow wrote may go as well; else they stay, and take nobody's place.
        resumed_from: Name of the checkpoint that the last run went on from, which stays.
        apply: Do it.

    Raises:
        CheckpointNotFoundError: There is nothing in the directory.
        DirectoryLockedError: A run is writing to the directory.
    """
    if store.is_empty():  # not to leave a lock wherever somebody types
        raise CheckpointNotFoundError(f"no checkpoints in {store.directory}.")
    if not apply:
        return _Plan(store, policy, now, foreign, resumed_from).pruning
    with store.locked_to("prune"):
        plan = _Plan(store, policy, now, foreign, resumed_from)
        if plan.pruning.gone:
            # As after a save: what is still to be deleted stays listed, or after a crash nothing would manage it.
            store.write_state(plan.before)
            store.delete(*plan.pruning.gone)
            store.history.remark("pruned", names=[record.name for record in plan.pruning.gone])
        if plan.pruning.gone or plan.is_stale:
            store.write_state(plan.after)
        return plan.pruning


class _Plan:
    """What is to be done to a directory.

    Attributes:
        pruning: What goes and what stays.
        before: TensorFlow's state file while something is deleted.
        after: The one of what is left.
        is_stale: Whether the one that is there names what is gone: a pruning or a save died before it was rewritten.
    """

    def __init__(
        self, store: Store, policy: PreservationPolicy, now: float, foreign: bool, resumed_from: str | None
    ) -> None:
        listing = store.scan()
        if not listing.records:
            told = "".join(f"\n{name} is damaged: {reason}." for name, reason in listing.damaged.items())
            raise CheckpointNotFoundError(f"no checkpoints in {store.directory}.{told}")
        own = [record for record in listing.records if not record.foreign] or listing.records
        # Where there is no list, all are to be on it: what is older than the last one kept for its age nobody manages.
        began = now if listing.state is not None else min(record.created_at for record in listing.records)
        ledger = Ledger(stem_of(own[-1].name), None, None, _whole(policy, foreign=foreign), began)
        ledger.adopt(listing, now)
        ledger.resumed_from = resumed_from
        damaged = {**listing.damaged, **_found_damaged(store, ledger)}
        reasons = reasons_in(ledger, now, "not on TensorFlow's list")
        self.before = ledger.state_file()
        self.pruning = Pruning(listing.records, tuple(ledger.take_out_superfluous(now)), reasons, damaged)
        self.after = ledger.state_file()
        there = {record.name for record in listing.records} | damaged.keys()
        listed = () if listing.state is None else listing.state.all_model_checkpoint_paths
        self.is_stale = any(os.path.basename(path) not in there for path in listed)


def _whole(policy: PreservationPolicy, *, foreign: bool) -> PreservationPolicy:
    """Return a policy with what is kept in any case: the newest that is sound, and what is not to be looked at."""
    parts = alternatives(policy)
    if not any(isinstance(part, Latest) for part in parts):
        parts.append(Latest(1))
    if not foreign:
        parts = [*map(_OfOurs, parts), _Foreign()]
    return reduce(or_, parts)


def _found_damaged(store: Store, ledger: Ledger) -> dict[str, str]:
    """Look at the checkpoints, and let none of those that are damaged take the place of a sound one."""
    found = {}
    for record in ledger.records:
        try:
            store.verify(record)
        except CheckpointDamagedError as error:
            found[record.name] = str(error).removesuffix(".")
            ledger.doubt(record)
        except CheckpointNotFoundError:
            pass  # a run has deleted it meanwhile
    return found


@dataclass(frozen=True)
class _OfOurs(PreservationPolicy):
    """Keep what a policy keeps of those that have a manifest."""

    policy: PreservationPolicy

    def __str__(self) -> str:
        return words(self.policy)

    def keep(self, context: KeepContext) -> frozenset[str]:
        return self.policy.keep(replace(context, records=[r for r in context.records if not r.foreign]))


@dataclass(frozen=True)
class _Foreign(PreservationPolicy):
    """Keep what plain TensorFlow wrote."""

    def __str__(self) -> str:
        return "of plain TensorFlow"

    def keep(self, context: KeepContext) -> frozenset[str]:
        return frozenset(record.prefix for record in context.records if record.foreign)
