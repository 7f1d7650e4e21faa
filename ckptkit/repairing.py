"""A directory of checkpoints brought back in order: what there is to do, and doing it. Nothing that verifies goes.

    repair(Store("runs/digits"), now=time.time())                   # what it would do
    repair(Store("runs/digits"), now=time.time(), apply=True)       # does it, as the directory's only writer

What a writer that died had under way is finished or swept, as the next save would do it; the state file is rewritten
where plain TensorFlow does not find by it what is there; what is damaged is moved to ``.ckptkit/damaged-<name>/``.
Where no checkpoint verifies all stay in their place: an empty directory would be taken for a fresh start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ckptkit.errors import CheckpointNotFoundError
from ckptkit.ledger import Ledger
from ckptkit.listing import MANIFEST, Listing, manifest_in, sizes_in, why_damaged
from ckptkit.preservation import All
from ckptkit.records import CheckpointRecord, split_number
from ckptkit.state_file import StateFile
from ckptkit.store import Store
from ckptkit.verifying import Verification, is_for_others

__all__ = ["Action", "Repair", "repair"]

Verb: TypeAlias = Literal["finish", "move", "rewrite", "sweep"]

_SETTLED_SECS = 60.0  # TensorFlow's own saves take no lock: what is younger may be one under way


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        verb: ``finish`` a checkpoint's way over an older one, ``sweep`` what is left of a save that died, ``rewrite``
            the state file, ``move`` aside what is damaged.
        what: A checkpoint's name, or a path from the directory on.
        why: The reason.
        to: Where it goes, from the directory on; "" where it goes nowhere.
    """

    verb: Verb
    what: str
    why: str
    to: str = ""


@dataclass(frozen=True)
class Repair:
    """What was done to a directory, or would be, and what is wrong with it still."""

    actions: tuple[Action, ...]
    left: tuple[str, ...]


def repair(store: Store, *, now: float, deep: bool = False, apply: bool = False) -> Repair:
    """Bring a directory back in order, or say what there is to do. A repair that was killed is done again.

    Args:
        store: The directory.
        now: Seconds since the Epoch.
        deep: Read every tensor, to find what is damaged inside.
        apply: Do it.

    Raises:
        CheckpointNotFoundError: There is nothing in the directory.
        DirectoryLockedError: A run is writing to the directory.
    """
    if store.is_empty():  # not to leave a lock wherever somebody types
        raise CheckpointNotFoundError(f"no checkpoints in {store.directory}.")
    if not apply:
        return _Repairer(store, now, deep, apply).run()
    with store.locked_to("repair", recover=False):  # looked at first: a damaged replacement must not be finished
        return _Repairer(store, now, deep, apply).run()


class _Repairer:
    """One repair of one directory."""

    def __init__(self, store: Store, now: float, deep: bool, apply: bool) -> None:
        self._store = store
        self._now = now
        self._deep = deep
        self._apply = apply
        self._actions: list[Action] = []
        self._left: list[str] = []
        self._going: set[str] = set()  # replacements that will be moved aside, or are already

    def run(self) -> Repair:
        self._settle_what_is_under_way()
        if not self._left:
            self._settle_checkpoints()
        return Repair(tuple(self._actions), tuple(self._left))

    def _settle_what_is_under_way(self) -> None:
        for journal in self._store.journals():
            self._settle_journal(journal)
        for path in self._store.folders("tmp-"):
            self._actions.append(Action("sweep", self._from_directory(path), "a save that died left it"))
        if self._apply:
            self._store.recover()

    def _settle_journal(self, journal: str) -> None:
        what = self._from_directory(journal)
        if any(is_for_others(os.path.join(journal, file)) for file in sizes_in(journal) if file.endswith(MANIFEST)):
            self._left.append(f"{what} has a manifest that only a newer ckptkit, or another user, can read")
            return
        manifest = manifest_in(journal)
        why = "it has no manifest that can be read"
        if manifest is not None:
            why = why_damaged(manifest, sizes_in(journal)) or self._why_rotten(CheckpointRecord.of(manifest, journal))
        if manifest is not None and not why:
            self._actions.append(Action("finish", what, f"{manifest.name} is on its way over one of the same name"))
            return
        to = self._from_directory(self._store.aside_of_journal(journal))
        if self._apply:
            self._store.set_journal_aside(journal)
        self._going.add(journal)
        self._actions.append(Action("move", what, why, to))

    def _why_rotten(self, record: CheckpointRecord) -> str:
        verdict = self._verification().verdict_on(record)
        return verdict.reason if verdict.state == "damaged" else ""

    def _settle_checkpoints(self) -> None:
        verification = self._verification()
        verdicts = list(verification.verdicts())
        bad = {v.name: f"{v.name} is {v.state}: {v.reason}" for v in verdicts if v.state in ("damaged", "unreadable")}
        good = [v.record for v in verdicts if v.record is not None and v.name not in bad]
        going = {v.name: v.reason for v in verdicts if v.state == "damaged"} | dict(verification.unlisted.damaged)
        reason = None
        if any(v.state == "unreadable" for v in verdicts):
            reason = "what cannot be read here may be sound elsewhere, so nothing is moved."
        elif bad and not good:
            reason = (
                "no checkpoint verifies, so nothing is moved: an empty directory would be taken for a fresh start. "
                "Bring back the files from a copy, or choose another directory."
            )
        elif young := [name for name in going if self._is_young(name)]:
            reason = f"plain TensorFlow may be writing {young[0]}, so nothing is moved. Try again in a minute."
        if reason is not None:
            self._left += [*bad.values(), reason]
            return
        if good:
            self._settle_state(verification.listing, good)
        for name, why in going.items():
            self._move(name, why)

    def _settle_state(self, listing: Listing, good: Sequence[CheckpointRecord]) -> None:
        """Rewrite the state file before anything is moved: at no time does it name only what is gone."""
        known = {record.name for record in listing.records}
        records = [record for record in good if record.name in known] or good
        state = _state_of(listing.state, records, self._now)
        why = self._why_wrong(listing.state, state, {record.name for record in good})
        if why is None:
            return
        if self._apply:
            self._store.write_state(state)
        self._actions.append(Action("rewrite", "checkpoint", why))

    def _why_wrong(self, old: StateFile | None, new: StateFile, good: set[str]) -> str | None:
        if old is None:
            there = os.path.lexists(os.path.join(self._store.directory, "checkpoint"))
            return "it cannot be read" if there else "it is missing"
        paths = [*old.all_model_checkpoint_paths, old.model_checkpoint_path]
        for path in paths:
            at, name = os.path.split(os.path.join(self._store.directory, path))
            if name not in good:
                return f"it names {name or path}, which is {'damaged' if self._store.files_of(name) else 'gone'}"
            if os.path.realpath(at) != os.path.realpath(self._store.directory):
                return f"it names {path}, which is elsewhere"
        before = set(map(os.path.basename, paths))
        added = [name for name in new.all_model_checkpoint_paths if name not in before]
        return f"it does not name {added[-1]}, which was committed after it was written" if added else None

    def _move(self, name: str, why: str) -> None:
        to = self._from_directory(self._store.aside_of(name))
        if self._apply:
            self._store.set_aside(name)
        self._actions.append(Action("move", name, why, to))

    def _is_young(self, name: str) -> bool:
        """Say whether files that no manifest describes were written just now."""
        files = self._store.files_of(name)
        times = [os.lstat(os.path.join(self._store.directory, file)).st_mtime for file in files]
        return name + MANIFEST not in files and any(abs(self._now - time) < _SETTLED_SECS for time in times)

    def _verification(self) -> Verification:
        return Verification(self._store, deep=self._deep, ignoring=self._going)

    def _from_directory(self, path: str) -> str:
        return os.path.relpath(path, self._store.directory)


def _state_of(old: StateFile | None, records: Sequence[CheckpointRecord], now: float) -> StateFile:
    """Return the state file for some checkpoints, oldest first, as the next save would write it."""
    there = {record.name: record.created_at for record in records}
    names = [] if old is None else [*old.all_model_checkpoint_paths, old.model_checkpoint_path]
    listed = [name for name in dict.fromkeys(map(os.path.basename, names)) if name in there]
    if old is None or not listed:
        # What is no younger than the last one kept for its age no manager deletes: plain TensorFlow's, of which nothing
        # else says whether a manager may.
        kept = max((r.created_at for r in records if r.foreign), default=min(there.values()) - 1.0)
        old, listed = StateFile(records[-1].name, last_preserved_timestamp=kept), list(there)
    times = dict(zip(map(os.path.basename, old.all_model_checkpoint_paths), old.all_model_checkpoint_timestamps))
    state = replace(
        old,
        all_model_checkpoint_paths=tuple(listed),
        all_model_checkpoint_timestamps=tuple(times.get(name, there[name]) for name in listed),
    )
    number = split_number(os.path.basename(old.model_checkpoint_path))
    ledger = Ledger("" if number is None else number[0], None, None, All(), now)
    ledger.adopt(Listing(tuple(records), {}, state), now)
    return ledger.state_file()
