"""Power loss at any moment: what was reported committed is there, whole, and the next writer cleans up.

``power_loss.py`` builds what a file system may leave behind from the operations of real saves.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.durability import write_file
from ckptkit.errors import CheckpointError
from ckptkit.ledger import Ledger
from ckptkit.listing import META, DirectoryReader
from ckptkit.staging import StagingBuffers
from ckptkit.state_file import StateFile
from ckptkit.store import Store
from tests.disk_calls import NEW_FILE, Operation
from tests.power_loss import Disk, File, Report, crashes, materialise, recorded, state_of

KEY = "value/.ATTRIBUTES/VARIABLE_VALUE"
RUN = os.path.join("runs", "digits")
NEXT = 100  # number and value of the save after the crash
BUFFERS = StagingBuffers()


# What is done before the power fails --------------------------------------------------------------------------------


class Run:
    """A real manager at work, whose disk may refuse an operation; each save holds a number one higher."""

    def __init__(self, directory, log, size):
        import tensorflow as tf

        from ckptkit.manager import CheckpointManager

        self.refuses = lambda operation: False
        self._last = 2.0  # what ``foreign_ones`` leaves
        self._value = tf.Variable(tf.zeros(size))
        self._manager = CheckpointManager(tf.train.Checkpoint(value=self._value), directory, 1)
        enter = self._manager._ledger.add

        def enter_and_report(record):
            enter(record)  # from now on it is manager.latest_checkpoint
            log.append(Report(self._last))

        self._manager._ledger.add = enter_and_report

    def save(self, number):
        self._last += 1.0
        self._value.assign(np.full(self._value.shape, self._last, np.float32))
        self._manager.save(number)

    def save_in_vain(self, number, refuses):
        before, self.refuses = self.refuses, refuses
        with pytest.raises(CheckpointError, match="No space left on device"):
            self.save(number)
        self.refuses = before

    def close(self):
        self._manager.close()


def new_names(run):
    for number in (1, 2, 3):
        run.save(number)


def large_values(run):
    run.save(1)


def same_name(run):
    for number in (1, 1, 1):
        run.save(number)


def same_name_without_links(run):
    run.refuses = lambda operation: operation.name == "link"
    same_name(run)


def failed_saves(run):
    run.save(1)
    run.save_in_vain(2, lambda operation: operation.target.endswith("digits/ckpt-2.index"))
    run.save(2)


def failed_replacement(run):
    def to_its_final_name(operation):
        return operation.name in ("link", "open") and "digits/ckpt-1" in (operation.target or operation.path)

    run.save(1)
    run.save_in_vain(1, to_its_final_name)
    run.save(1)
    run.save(2)


def over_foreign_ones(run):
    run.save_in_vain(2, lambda operation: "replace-" in operation.target)
    run.save(2)
    run.save(3)


def foreign_ones(directory):
    """What plain TensorFlow leaves behind: checkpoints 1 and 2, with these values."""
    os.makedirs(directory)
    for number in (1, 2):
        with BundleWriter(os.path.join(directory, f"ckpt-{number}")) as writer:
            writer.add(KEY, np.full(1000, number, np.float32))
    names = ("ckpt-1", "ckpt-2")
    with open(os.path.join(directory, "checkpoint"), "w") as file:
        file.write(StateFile(names[-1], names, (1.0, 2.0)).to_text())


@pytest.fixture
def folder(tmp_path):
    """Return a folder for thousands of small files, in memory where that is possible: a disk may be busy."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Return a function that runs a script, once, and returns what was there before and the log of what it did."""

    @functools.cache
    def recording(script):
        root = tmp_path_factory.mktemp("recorded")
        if script is over_foreign_ones:
            foreign_ones(root / RUN)
        before = state_of(root)

        def fail(operation):
            if run.refuses(operation):
                raise OSError(errno.ENOSPC, "No space left on device")

        with recorded(root, fail) as log:
            log += [Report(2.0)] if before else []
            run = Run(root / RUN, log, size=300_000 if script is large_values else 1000)
            script(run)
            run.close()
        return before, log

    return recording


# What is left, and what the next writer makes of it -----------------------------------------------------------------


class Lost(Exception):
    """Something that was promised is not there."""


def restored(directory):
    """Return the value that a run would go on from, 0 if it would begin afresh; plain TensorFlow must find one, too."""
    listing = DirectoryReader(directory).scan()
    if listing.damaged:
        raise Lost(f"damaged: {listing.damaged}")
    if listing.state is None and os.path.exists(os.path.join(directory, "checkpoint")):
        raise Lost("the state file cannot be read")
    ledger = Ledger("ckpt", None, None, None, now=0.0)
    ledger.adopt(listing, now=0.0)
    newest = ledger.latest
    # While one checkpoint takes the place of another of the same name, TensorFlow sees none of that name.
    if listing.state is not None and not in_meta(directory, "replace-"):
        named = os.path.join(directory, listing.state.model_checkpoint_path)
        if newest is None or named != newest.prefix:
            value_at(named)
    if newest is None:
        return 0.0
    try:
        DirectoryReader(directory).verify(newest)
    except CheckpointError as error:
        raise Lost(str(error)) from error
    return value_at(newest.prefix)


def value_at(prefix):
    """Return the one number that all elements of a checkpoint's variable have, and read the rest."""
    try:
        with Bundle(prefix) as bundle:
            arrays = {key: bundle.read(key) for key in bundle.entries}
    except CheckpointError as error:
        raise Lost(str(error)) from error
    (value,) = set(arrays[KEY].tolist())
    return value


class Values:
    """What a snapshot holds, without TensorFlow."""

    def __init__(self, value):
        self._array = np.full(1000, value, np.float32)

    def size_bytes(self):
        return self._array.nbytes

    def release(self):
        pass

    def write(self, prefix, buffers, gather):
        from ckptkit.held import Written

        with BundleWriter(prefix, buffers) as writer:
            writer.add(KEY, self._array)
        return Written(writer.entries, 0.0)


def save_next(directory, number, *, durable=False, committed=lambda: None):
    """Save as a manager does that is opened after the crash, and keeps two."""
    from ckptkit.saving import SaveJob

    store = Store(directory, durable=durable)
    ledger = Ledger("ckpt", 2, None, None, time.time())
    facts = {"step": number, "epoch": None, "batch": None, "metrics": {}, "seconds": {"blocked": 0.0}}
    lock = store.lock()
    try:
        ledger.adopt(store.scan(), time.time())
        SaveJob(
            store,
            ledger,
            threading.RLock(),
            f"ckpt-{number}",
            Values(number),
            facts,
            BUFFERS,
            ended=lambda took: committed(),
        )()
    finally:
        lock.release()


def in_meta(directory, start):
    folder = os.path.join(directory, META)
    return [name for name in os.listdir(folder) if name.startswith(start)] if os.path.isdir(folder) else []


def litter(directory):
    """Return what belongs to no checkpoint, nor to the directory itself."""
    known = {"checkpoint", META}
    for record in DirectoryReader(directory).scan().records:
        known |= {record.name + end for end in (".index", ".data-00000-of-00001")}
        known |= set() if record.foreign else {record.name + ".manifest.json"}
    return sorted(set(os.listdir(directory)) - known) + sorted(set(in_meta(directory, "")) - {"lock", "history.jsonl"})


def outcome(state, folder, number):
    """Return the value that a state is restored to, and what is wrong with it or with the next save, if anything."""
    directory = os.path.join(folder, RUN)
    materialise(state, folder)
    try:
        value = restored(directory)
        save_next(directory, number)
        if restored(directory) != number:
            raise Lost("the next save is not the newest")
        older = [record for record in DirectoryReader(directory).scan().records if record.step != number]
        if value and (not older or value_at(older[-1].prefix) != value):
            raise Lost(f"{value} was there before the next save, and is not after it")
        if left := litter(directory):
            raise Lost(f"litter after the next save: {left}")
    except Lost as lost:
        return 0.0, str(lost)
    finally:
        shutil.rmtree(folder)
    return value, None


def losses(before, log, folder, number=NEXT, since=0):
    """Yield what is wrong with each state that a loss of power may leave."""
    outcomes = {}
    for state, reported in crashes(before, log, random.Random(1), since):
        key = frozenset(state.items())
        if key not in outcomes:
            outcomes[key] = outcome(state, os.path.join(folder, str(len(outcomes))), number)
        value, lost = outcomes[key]
        if lost is not None:
            yield lost
        elif value < reported:
            yield f"restored {value} after {reported} was reported"


# The promise --------------------------------------------------------------------------------------------------------

SCRIPTS = [
    new_names,
    large_values,
    same_name,
    same_name_without_links,
    failed_saves,
    failed_replacement,
    over_foreign_ones,
]


def each_of(scripts):
    return pytest.mark.parametrize("script", scripts, ids=lambda script: script.__name__)


@pytest.mark.slow
@each_of(SCRIPTS)
def test_power_loss_at_any_moment_leaves_what_was_reported_or_a_newer_one(recording, folder, script):
    assert list(losses(*recording(script), folder)) == []


@pytest.mark.slow
@each_of([same_name, failed_saves, failed_replacement, over_foreign_ones])
def test_power_loss_while_the_next_writer_cleans_up_loses_nothing_either(recording, folder, script):
    states = [state for state, _ in crashes(*recording(script), random.Random(2))]
    for number, state in enumerate(random.Random(3).sample(states, 2)):
        root = folder / f"crashed-{number}"
        materialise(state, root)
        with recorded(root) as log:
            log.append(Report(restored(root / RUN)))
            save_next(root / RUN, NEXT, durable=True, committed=lambda log=log: log.append(Report(NEXT)))
        assert list(losses(state, log, folder, NEXT + 1)) == []


@pytest.mark.slow
@each_of([new_names, same_name])
def test_a_manager_restores_from_what_power_loss_leaves(recording, folder, script):
    import tensorflow as tf

    from ckptkit.manager import CheckpointManager

    states = [state for state, _ in crashes(*recording(script), random.Random(4))]
    for number, state in enumerate(random.Random(5).sample(states, 10)):
        root = folder / f"crashed-{number}"
        materialise(state, root)
        value = tf.Variable(tf.zeros(1000))
        with CheckpointManager(tf.train.Checkpoint(value=value), root / RUN, 1) as manager:
            expected = restored(root / RUN)
            manager.restore_or_initialize()
            assert set(value.numpy().tolist()) == {expected}


# Every flush is needed ----------------------------------------------------------------------------------------------


def kind(path):
    """What a path is in a checkpoint directory, whatever its number or random name."""
    name = os.path.basename(path)
    kinds = {
        r"digits": "directory",
        r"runs": "parent",
        r"\.ckptkit": "meta",
        r"ckpt-\d+\.data-.*": "data",
        r"ckpt-\d+\.(index|manifest)(\.json)?": r"\1",
        r"checkpoint": "state file",
        r"(tmp|replace)-.*": r"\1",
    }
    for pattern, told in kinds.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(told)
    return name


def flushes(log):
    """Yield the place and a description of each fsync: what is flushed, and what was done there before."""
    done = {}
    for place, operation in enumerate(log):
        if isinstance(operation, Report):
            continue
        if operation.name == "fsync":
            yield place, f"{kind(operation.path)} after {done[operation.path]}"
            continue
        if operation.name == "write":
            done[operation.path], done[os.path.dirname(operation.path)] = "write", "write into it"
            continue
        told = f"{operation.name} {kind(operation.path)}"
        if operation.target:
            told += f" to {kind(operation.target)}"
            done[os.path.dirname(operation.target) or "."] = told
        done[operation.path] = done[os.path.dirname(operation.path) or "."] = told


# Each flush, and a script in which something is lost without it.
NEEDED = {
    ". after mkdir parent": new_names,
    "parent after mkdir directory": new_names,
    "directory after mkdir meta": new_names,
    "data after write": new_names,
    "index after write": new_names,
    "tmp after write": new_names,
    "tmp after write into it": over_foreign_ones,
    "tmp after rename tmp to manifest": new_names,
    "meta after rename tmp to manifest": new_names,
    "directory after rename index to index": new_names,
    "directory after rename manifest to manifest": new_names,
    "directory after rename tmp to state file": new_names,
    "tmp after rename manifest to manifest": new_names,
    "meta after mkdir tmp": new_names,
    "directory after unlink data": new_names,
    "meta after rename tmp to replace": same_name,
    "directory after link manifest to manifest": same_name,
    "meta after rename replace to tmp": same_name,
    "tmp after unlink manifest": over_foreign_ones,
    "manifest after write": same_name_without_links,
    "directory after write into it": same_name_without_links,
}


def test_every_flush_that_there_is_is_among_those_that_are_dropped_here(recording):
    assert {told for script in SCRIPTS for _, told in flushes(recording(script)[1])} == set(NEEDED)


@pytest.mark.slow
@pytest.mark.parametrize(("flush", "script"), NEEDED.items(), ids=NEEDED)
def test_a_flush_that_is_left_out_is_found_to_lose_something(recording, folder, flush, script):
    before, log = recording(script)
    dropped = {place for place, told in flushes(log) if told == flush}
    without = [operation for place, operation in enumerate(log) if place not in dropped]
    assert next(losses(before, without, folder, since=min(dropped)), None) is not None


# The model ----------------------------------------------------------------------------------------------------------


def left_by(*operations):
    """Return what a disk may hold after some operations: the content at each path, None for a folder."""
    disk = Disk({})
    for operation in operations:
        disk.do(operation)
    states = disk.states(random.Random(1))
    return [{path: file and file.content for path, file in state.items()} for state in states]


def write(path, content):
    return Operation("open", path, flags=NEW_FILE), Operation("write", path, content=content)


def flush(path):
    return Operation("fsync", path)


def test_what_was_written_may_be_there_gone_cut_or_zeros_before_it_is_flushed():
    found = [state["a"] for state in left_by(*write("a", b"1234"), flush("."))]
    assert {b"1234", b"", b"\0\0\0\0"} < set(found)
    assert any(0 < len(content) < 4 for content in found)
    assert left_by(*write("a", b"1234"), flush("."), flush("a")) == [{"a": b"1234"}]


def test_what_was_written_over_may_be_the_old_or_the_new():
    before = (*write("a", b"old"), flush("a"), flush("."))
    found = [state["a"] for state in left_by(*before, Operation("write", "a", offset=1, content=b"new"))]
    assert {b"old", b"onew"} < set(found)
    assert left_by(*before, Operation("truncate", "a", offset=1))[:2] == [{"a": b"o"}, {"a": b"old"}]


def test_a_flush_of_a_file_does_not_cover_its_name():
    assert left_by(*write("a", b"1"), flush("a")) == [{}, {"a": b"1"}]


def test_a_flush_of_a_folder_covers_the_names_in_it_and_not_its_own():
    inside = (Operation("mkdir", "x"), *write("x/a", b"1"), flush("x/a"), flush("x"))
    assert left_by(*inside) == [{}, {"x": None, "x/a": b"1"}]
    assert left_by(*inside, flush(".")) == [{"x": None, "x/a": b"1"}]


def test_a_rename_happens_whole_or_not_at_all_and_is_covered_by_the_folder_it_goes_to():
    before = (Operation("mkdir", "x"), *write("x/a", b"1"), flush("x/a"), flush("x"), flush("."))
    moved = (*before, Operation("rename", "x/a", "a"))
    both = [{"x": None, "x/a": b"1"}, {"x": None, "a": b"1"}]
    assert left_by(*moved) == left_by(*moved, flush("x")) == both
    assert left_by(*moved, flush(".")) == both[1:]


def test_a_rename_takes_the_place_of_what_was_there_in_one_step():
    before = (*write("a", b"old"), *write("b", b"new"), flush("a"), flush("b"), flush("."))
    assert left_by(*before, Operation("rename", "b", "a")) == [{"a": b"old", "b": b"new"}, {"a": b"new"}]


def test_of_two_changes_the_later_one_alone_may_be_on_the_disk():
    before = (*write("a", b"1"), *write("b", b"2"), flush("a"), flush("b"), flush("."))
    found = left_by(*before, Operation("unlink", "a"), Operation("unlink", "b"))
    assert sorted(map(sorted, found)) == [[], ["a"], ["a", "b"], ["b"]]


def test_what_is_moved_twice_is_never_in_two_places():
    moved = (*write("a", b"1"), flush("a"), flush("."), Operation("rename", "a", "b"), Operation("rename", "b", "c"))
    assert {*map(tuple, left_by(*moved))} == {("a",), ("b",), ("c",)}
    gone = (*moved, Operation("unlink", "c"))
    assert {*map(tuple, left_by(*gone))} == {("a",), ("b",), ("c",), ()}


def test_a_second_name_of_a_file_may_be_lost_and_has_its_content():
    linked = (*write("a", b"1"), flush("a"), flush("."), Operation("link", "a", "b"))
    assert left_by(*linked) == [{"a": b"1"}, {"a": b"1", "b": b"1"}]


def test_of_many_changes_none_all_and_each_alone_are_tried():
    names = [f"file-{number}" for number in range(20)]
    found = [set(state) for state in left_by(*(Operation("mkdir", name) for name in names))]
    assert {frozenset(), frozenset(names)} | {frozenset([name]) for name in names} <= set(map(frozenset, found))
    assert len(found) < 100


def test_a_recording_holds_what_was_done_and_nothing_is_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("flushed"))
    with recorded(tmp_path) as log:
        write_file(str(tmp_path / "a"), b"1", temporary=str(tmp_path / "t"))
        os.mkdir(tmp_path / "x")
        shutil.rmtree(tmp_path / "x")
    assert log == [
        Operation("open", "t", flags=NEW_FILE),
        Operation("write", "t", content=b"1"),
        flush("t"),
        Operation("rename", "t", "a"),
        flush("."),
        Operation("mkdir", "x"),
        Operation("rmdir", "x"),
    ]


def test_a_recording_refuses_what_it_does_not_understand(tmp_path):
    with recorded(tmp_path), pytest.raises(NotImplementedError, match="is opened as 'a'"):
        (tmp_path / "a").open("a")


def test_a_state_of_a_disk_becomes_files_of_that_age_and_back(tmp_path):
    state = {"x": None, "x/b": File(1, 1, b"older"), "a": File(2, 2, b"newer")}
    materialise(state, tmp_path / "disk")
    assert {path: file and file.content for path, file in state_of(tmp_path / "disk").items()} == {
        "x": None,
        "x/b": b"older",
        "a": b"newer",
    }
    assert (tmp_path / "disk/x/b").stat().st_mtime < (tmp_path / "disk/a").stat().st_mtime
