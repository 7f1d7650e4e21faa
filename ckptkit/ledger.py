"""What a manager knows of its directory: which checkpoints are there, which are managed, and which may go.

    ledger = Ledger("ckpt", max_to_keep=3)
    ledger.adopt(store.scan(), now=time.time())
    ledger.add(record)                               # after a commit
    for record in ledger.take_out_superfluous(now):  # what no policy keeps
        store.delete(record)

Pure bookkeeping: no file is touched here.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ckptkit.combinators import alternatives, leaves
from ckptkit.listing import Listing
from ckptkit.preservation import All, Best, EveryNSecs, KeepContext, Latest, PreservationPolicy
from ckptkit.ranking import best_record, best_values
from ckptkit.records import CheckpointRecord, split_number
from ckptkit.state_file import StateFile

__all__ = ["Ledger"]

_ROOM = 1 << 20  # commits


class Ledger:
    """The checkpoints of one directory under one name, and the policy that keeps them.

    Args:
        name: Stem of the names that are managed; other checkpoints in the directory are seen and left alone.
        max_to_keep: Number of newest to keep, None for all or for whatever ``policy`` says.
        keep_every_secs: Also keep one every so many seconds, and take it off the list as TensorFlow's manager does.
        policy: What to keep beside the newest.
        now: Seconds since the Epoch.
        modes: How the metrics rank whose best values are to be known, ``"min"`` or ``"max"`` by name.

    Attributes:
        best_values: The best value so far of each of these metrics, of this run and not only of what is still there.
    """

    def __init__(
        self,
        name: str,
        max_to_keep: int | None,
        keep_every_secs: float | None,
        policy: PreservationPolicy | None,
        now: float,
        modes: Mapping[str, str] | None = None,
    ) -> None:
        self.best_policy = next((leaf for leaf in leaves(policy) if isinstance(leaf, Best)), None)
        self.best_values: dict[str, float] = {}
        self.damaged: dict[str, str] = {}
        self.is_stale = False  # an operation failed half way: only the directory knows what there is
        self.run_id = uuid.uuid4().hex
        # By name: while one is being replaced its prefix is another.
        self.resumed_from: str | None = None
        self.being_read: list[str] = []  # each as often as it is
        self._name = name
        self._newest = None if max_to_keep is None else Latest(max_to_keep)
        self._every = EveryNSecs(keep_every_secs) if keep_every_secs else None
        self._policy = policy
        self._modes = modes or {}
        # By name and sequence: what was read and was not what was written, in this process or in one before it.
        self._doubted: set[tuple[str, int]] = set()
        self._records: dict[str, CheckpointRecord] = {}
        self._active: dict[str, float] = {}
        self._state: StateFile | None = None  # as it was read or written last
        self._others: dict[str, float] = {}  # state file entries under other names, carried through
        # Set back slightly, so that a manager made again at once sees its first checkpoint as newer.
        self._preserved_at = now - 1.0

    @property
    def records(self) -> tuple[CheckpointRecord, ...]:
        """Every checkpoint, oldest first."""
        return tuple(self._records.values())

    @property
    def active(self) -> list[str]:
        """Prefixes of the managed ones, oldest first."""
        return list(self._active)

    @property
    def latest(self) -> CheckpointRecord | None:
        """The newest under our name; where there is none, the newest under any."""
        newest_first = self.records[::-1]  # a copy: another thread may be entering a commit
        own = (record for record in newest_first if self._is_own(record.name))
        return next(own, None) or next(iter(newest_first), None)

    @property
    def best(self) -> CheckpointRecord | None:
        """The best by the ``Best`` policy's metric of those that are not known to be damaged."""
        return self._best_of(self._sound(self.records))

    @property
    def best_of_all(self) -> CheckpointRecord | None:
        """The best, be it damaged."""
        return self._best_of(self.records)

    @property
    def found_damaged(self) -> dict[str, int]:
        """What the next commit has to tell those who come after: sequences of the damaged, by name."""
        # No listing shows it, and they will not read what is not the newest any more. Every younger manifest tells it:
        # where all of these are gone, the damaged one is the newest again, and is read again.
        return {r.name: r.sequence for r in self.records if (r.name, r.sequence) in self._doubted}

    @property
    def next_sequence(self) -> int:
        """The number of the next commit."""
        # What cannot be read now may be read again, and may be newer than all that can.
        unread = self.damaged.keys() - {record.name for record in self.records}
        return (_ROOM if unread else 1) + max((record.sequence for record in self.records), default=0)

    def best_with(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return :attr:`best_values` as they are with what was measured now."""
        return best_values(self.best_values, metrics, modes=self._modes)

    def newest_first(self) -> list[CheckpointRecord]:
        """Return the order in which a run would want to go on from them."""
        own = [record for record in self.records if self._is_own(record.name)]
        return (own or list(self.records))[::-1]

    def adopt(self, listing: Listing, now: float) -> None:
        """Take over what a directory holds, and from its state file which of it is managed."""
        self.is_stale = False
        known = {(r.name, r.sequence): self.damaged[r.name] for r in self.records if r.name in self.damaged}
        self._records = {record.prefix: record for record in listing.records}
        # What a restore has found inside the data no listing tells.
        self.damaged = {r.name: known[r.name, r.sequence] for r in self.records if (r.name, r.sequence) in known}
        self.damaged.update(listing.damaged)
        self._doubted.update(told for record in self.records for told in record.found_damaged.items())
        self._find_best_values()
        self.run_id = next((record.run_id for record in reversed(self.records) if record.run_id), self.run_id)
        if listing.state is not None and listing.state == self._state:
            # Seen before, or our own: what is managed was decided then, by the clock of then.
            there = {record.name: record.prefix for record in self.records}  # another one while it is being replaced
            names = {os.path.basename(prefix): at for prefix, at in self._active.items()}
            self._active = {there[name]: at for name, at in names.items() if name in there}
            return
        self._state = listing.state
        if listing.state is None:
            # What is foreign nobody has listed: it may be restored, and is not ours to delete.
            own = [record for record in self.records if self._is_own(record.name) and not record.foreign]
            self._active = {record.prefix: record.created_at for record in own}
            return
        self._preserved_at = min(listing.state.last_preserved_timestamp, now)  # the clock may have gone back
        listed = dict(_times(listing.state))
        newest_listed = max((r.sequence for r in self.records if r.name in listed), default=0)
        self._active = {}
        for record in self.records:
            at = min(listed.get(record.name, record.created_at), now)
            # Committed after the state file was written last: a crash came in between.
            unlisted = record.name not in listed and not record.foreign and record.sequence > newest_listed
            # TensorFlow's manager takes what is older than the last one kept for its age as kept, too.
            managed = record.name in listed and (self._policy is not None or at > self._preserved_at)
            if self._is_own(record.name) and (unlisted or managed):
                self._active[record.prefix] = at
        self._others = {name: at for name, at in listed.items() if not self._is_own(name)}

    def add(self, record: CheckpointRecord) -> None:
        """Enter a checkpoint that was committed; one that was saved again goes to the end."""
        for known in (self._records, self._active):
            known.pop(record.prefix, None)
        self._records[record.prefix] = record
        self._active[record.prefix] = record.created_at
        self.damaged.pop(record.name, None)
        self._find_best_values()

    def doubt(self, record: CheckpointRecord) -> None:
        """Enter that a checkpoint was read and is damaged: from now on no sound one is deleted in its favour.

        It is still what it is called, the newest or the best, for somebody may bring its files back.
        """
        if record.prefix in self._records:  # else it is of another directory
            self._doubted.add((record.name, record.sequence))
        self._find_best_values()

    def take_out_superfluous(self, now: float) -> list[CheckpointRecord]:
        """Take out of the ledger, and return, what nothing keeps; oldest first."""
        gone = []
        for record in self._not_newest(now):
            if self._every is not None and self._is_preserved(record, now):
                self._preserved_at = self._active[record.prefix]  # kept for its age: it leaves the list, not the disk
            elif record.name == self.resumed_from or record.name in self.being_read:
                continue
            else:
                gone.append(record)
                del self._records[record.prefix]
            del self._active[record.prefix]
        return gone

    def keepers(self, now: float) -> dict[str, list[PreservationPolicy]]:
        """Return the policies that keep each managed checkpoint, oldest first; the newest stays without any."""
        policies = [] if self._policy is None else alternatives(self._policy)
        if self._newest is not None and self._newest not in policies:
            policies.append(self._newest)
        records = [self._records[prefix] for prefix in self._active]
        # A damaged one stays as if it were not; but it takes nobody's place, least of all that of the best.
        contexts = [KeepContext(each, now) for each in (records, self._undoubted(records))]
        keepers: dict[str, list[PreservationPolicy]] = {prefix: [] for prefix in self._active}
        for policy in policies or [All()]:
            for prefix in frozenset().union(*map(policy.keep, contexts)):
                keepers[prefix].append(policy)
        return keepers

    def state_file(self) -> StateFile:
        """Return TensorFlow's state file for what is known now."""
        listed = {**self._others, **{os.path.basename(prefix): at for prefix, at in self._active.items()}}
        latest = self.latest
        assert latest is not None
        self._state = StateFile(latest.name, tuple(listed), tuple(listed.values()), self._preserved_at)
        return self._state

    def _not_newest(self, now: float) -> list[CheckpointRecord]:
        """Return the managed ones that neither count nor policy keep; the newest is never among them."""
        keepers = self.keepers(now)
        return [self._records[prefix] for prefix in list(keepers)[:-1] if not keepers[prefix]]

    def _is_preserved(self, record: CheckpointRecord, now: float) -> bool:
        assert self._every is not None
        # By the time in the list: the clock may have gone back since the record was made.
        record = replace(record, created_at=self._active[record.prefix])
        return bool(self._every.keep(KeepContext([record], now, self._preserved_at)))

    def _sound(self, records: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
        return [record for record in records if record.name not in self.damaged]

    def _undoubted(self, records: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
        return [each for each in self._sound(records) if (each.name, each.sequence) not in self._doubted]

    def _best_of(self, records: Iterable[CheckpointRecord]) -> CheckpointRecord | None:
        assert self.best_policy is not None
        return best_record(records, self.best_policy.monitor, self.best_policy.mode)

    def _find_best_values(self) -> None:
        # Those of a checkpoint that was pruned live on in the manifests of later ones. But where one is damaged nobody
        # knows whose they are: then what is still there counts alone, and a save too many is better than none.
        measured = [record.metrics for record in self._undoubted(self.records)]
        remembered = [] if self.damaged or self.found_damaged else [record.best for record in self.records]
        self.best_values = best_values(*measured, *remembered, modes=self._modes)

    def _is_own(self, name: str) -> bool:
        number = split_number(name)
        return number is not None and number[0] == self._name


def _times(state: StateFile) -> Iterable[tuple[str, float]]:
    # Without times TensorFlow takes all of them for as old as the last one preserved: known, not managed.
    times = state.all_model_checkpoint_timestamps or [state.last_preserved_timestamp] * len(
        state.all_model_checkpoint_paths
    )
    return zip(map(os.path.basename, state.all_model_checkpoint_paths), times)
