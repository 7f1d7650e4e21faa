"""The directory of checkpoints: in whole or not at all, whatever dies on the way, and told from litter and damage.

Death is played by a machine that stops: from one call to the disk on, every call raises. What is on the disk then is
what a SIGKILL at that point would have left.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
import os
import pathlib
import shutil
from contextlib import contextmanager

import pytest

from ckptkit import store as store_module
from ckptkit.checksums import crc32c
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError
from ckptkit.lock import DirectoryLock
from ckptkit.records import Manifest
from ckptkit.state_file import StateFile
from ckptkit.store import Store

pytestmark = pytest.mark.core

CALLS = ("fsync", "rename", "replace", "link", "unlink", "rmdir")


def held_below(folder):
    """Locks on directories below a folder; a manager of another test may still hold one elsewhere."""
    return [path for path in DirectoryLock._held if path.startswith(os.path.realpath(folder))]


@pytest.fixture(autouse=True)
def no_lock_left(tmp_path):
    yield
    assert held_below(tmp_path) == []


@pytest.fixture(autouse=True)
def no_waiting_for_a_busy_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@contextmanager
def writing(store):
    """Be the directory's writer."""
    lock = store.lock()
    try:
        yield
    finally:
        lock.release()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"), durable=False)


class Died(BaseException):
    """The process is gone; nothing it would do afterwards is done."""


@contextmanager
def death_at(monkeypatch, index):
    """Raise :class:`Died` in the ``index``-th call to the disk and in every later one."""
    calls = itertools.count()

    def deadly(name, real):
        def call(*arguments, **keywords):
            if next(calls) >= index:
                raise Died(f"{name}{arguments}")
            return real(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, deadly(name, getattr(os, name)))
        yield


def die_everywhere(monkeypatch, root, prepare, action):
    """Prepare a directory of its own for every call that ``action`` makes, and die in that one; yields stores."""
    for index in itertools.count():
        directory = str(root / f"death-{index}")
        store = Store(directory)
        prepared = prepare(store)
        if not dies(monkeypatch, index, lambda: action(store, prepared)):  # noqa: B023  it is called at once
            assert index > 3, "hardly anything was done, so hardly anything was tested"
            return
        yield Store(directory)


def recover_dying(monkeypatch, store):
    """Die in the first call of a recovery, in the second of the next, until one gets through; yields after each."""
    for index in itertools.count():
        died = dies(monkeypatch, index, lambda: recover(store))
        yield
        if not died:
            return


def dies(monkeypatch, index, action):
    """Run an action with death at a call; say whether it came to that."""
    with death_at(monkeypatch, index):
        try:
            action()
        except Died:
            return True
    return False


def full(*arguments, **keywords):
    """Stand in for a function that writes to a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def write(store, name="ckpt-1", *, sequence=1, content=b"1", shards=1, **facts):
    """Begin a save and write its files; returns what commit takes."""
    pending = store.begin(name)
    files = {f"{name}.data-{i:05d}-of-{shards:05d}": content * (i + 1) for i in range(shards)}
    files[f"{name}.index"] = b"index of " + content
    for file, data in files.items():
        with open(os.path.join(pending.folder, file), "wb") as opened:
            opened.write(data)
    step = int(name.rpartition("-")[2])
    facts = {"step": step, "created_at": 100.0 + sequence, "run_id": "run", **facts}
    index = crc32c(files[f"{name}.index"])
    return pending, Manifest(name=name, sequence=sequence, files=store.sizes(pending), index_crc32c=index, **facts)


def save(store, name="ckpt-1", **facts):
    with writing(store):
        return store.commit(*write(store, name, **facts))


def save_foreign(directory, name, content=b"tf", shards=1):
    """What plain TensorFlow leaves under a name."""
    os.makedirs(directory, exist_ok=True)
    for i in range(shards):
        with open(os.path.join(directory, f"{name}.data-{i:05d}-of-{shards:05d}"), "wb") as file:
            file.write(content)
    with open(os.path.join(directory, f"{name}.index"), "wb") as file:
        file.write(b"index of " + content)


def recover(store):
    store.lock().release()


def readable(store):
    """Name and content of every checkpoint that is listed; each of them must be whole and undamaged."""
    listing = store.scan()
    assert listing.damaged == {}
    found = {}
    for record in listing.records:
        store.verify(record)
        folder = os.path.dirname(record.prefix)
        shards = sorted(f for f in os.listdir(folder) if f.startswith(record.name + ".data-"))
        contents = []
        for file in shards:
            with open(os.path.join(folder, file), "rb") as opened:
                contents.append(opened.read())
        with open(record.prefix + ".index", "rb") as opened:
            assert opened.read() == b"index of " + contents[0]
        assert contents == [contents[0] * (i + 1) for i in range(len(contents))]
        if not record.foreign:
            assert set(shards) < set(store.manifest(record).files)
        found[record.name] = contents[0]
    return found


def files_in(directory):
    return sorted(
        os.path.relpath(os.path.join(folder, file), directory)
        for folder, folders, files in os.walk(directory)
        for file in [*files, *(f for f in folders if not os.listdir(os.path.join(folder, f)))]
    )


def litter(store):
    """Everything in the directory that belongs neither to a listed checkpoint nor to the directory itself."""
    known = {"checkpoint", os.path.join(".ckptkit", "lock")}
    for record in store.scan().records:
        if not record.foreign:
            known |= {*store.manifest(record).files, record.name + ".manifest.json"}
    return [file for file in files_in(store.directory) if file not in known]


def change(store, file, content):
    with open(os.path.join(store.directory, file), "wb") as opened:
        opened.write(content)


def names(store):
    return [record.name for record in store.scan().records]


# A checkpoint that was committed -----------------------------------------------------------------------------------


def test_a_committed_checkpoint_is_listed_as_its_manifest_says(store):
    record = save(store, "ckpt-7", sequence=3, epoch=1, batch=2, metrics={"loss": 0.5}, shards=2)
    assert store.scan().records == (record,)
    assert record.prefix == os.path.join(store.directory, "ckpt-7")
    assert (record.step, record.sequence, record.epoch, record.batch) == (7, 3, 1, 2)
    assert record.size_bytes == 1 + 2 + len(b"index of 1")
    assert not record.foreign
    assert store.manifest(record).metrics == record.metrics == {"loss": 0.5}
    assert readable(store) == {"ckpt-7": b"1"}
    assert litter(store) == []


def test_nothing_is_listed_before_it_is_committed(store):
    with writing(store):
        pending, manifest = write(store)
        assert names(store) == []
        assert store.sizes(pending) == {"ckpt-1.data-00000-of-00001": 1, "ckpt-1.index": 10}
        store.commit(pending, manifest)
    assert names(store) == ["ckpt-1"]


def test_checkpoints_are_listed_in_the_order_of_their_commits(store):
    for sequence, name in enumerate(["ckpt-30", "ckpt-4", "other-5"], start=1):
        save(store, name, sequence=sequence, created_at=1.0)
    assert names(store) == ["ckpt-30", "ckpt-4", "other-5"]


def test_every_line_of_a_save_is_durable_before_the_next(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "run"))
    with writing(store):
        pending, manifest = write(store, shards=2)
        log = []

        def watch(name, real, path_of):
            def call(*arguments, **keywords):
                log.append((name, os.path.basename(path_of(*arguments))))
                return real(*arguments, **keywords)

            monkeypatch.setattr(os, name, call)

        watch("fsync", lambda descriptor: None, lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
        watch("rename", os.rename, lambda source, target: target)
        watch("replace", os.replace, lambda source, target: target)
        store.commit(pending, manifest)
        store.write_state(StateFile("ckpt-1"))
    told = [(name, "temporary" if path.startswith("tmp-") else path) for name, path in log]
    files = sorted(manifest.files)
    assert sorted(told[:3]) == [("fsync", file) for file in files]
    assert told[3:] == [
        ("fsync", "temporary"),
        ("replace", "ckpt-1.manifest.json"),
        ("fsync", "temporary"),
        ("fsync", ".ckptkit"),
        ("rename", "ckpt-1.data-00000-of-00002"),
        ("rename", "ckpt-1.data-00001-of-00002"),
        ("rename", "ckpt-1.index"),
        ("fsync", "run"),
        ("rename", "ckpt-1.manifest.json"),
        ("fsync", "run"),
        ("fsync", "temporary"),
        ("replace", "checkpoint"),
        ("fsync", "run"),
    ]


def test_a_new_directory_is_flushed_into_its_parent_before_its_first_checkpoint_is_committed(tmp_path, monkeypatch):
    flushed = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.readlink(f"/proc/self/fd/{descriptor}")))
    save(Store(str(tmp_path / "run")))
    assert os.path.realpath(tmp_path) in flushed


def test_nothing_is_flushed_in_a_directory_that_need_not_be_durable(store, monkeypatch):
    def refuse(descriptor):
        raise AssertionError("flushed")

    monkeypatch.setattr(os, "fsync", refuse)
    save(store, content=b"1")
    save(store, content=b"2", sequence=2)
    with writing(store):
        store.write_state(StateFile("ckpt-1"))
    assert readable(store) == {"ckpt-1": b"2"}


def test_a_directory_that_was_moved_or_copied_works_as_before(store, tmp_path):
    save(store, "ckpt-1", content=b"1")
    save_foreign(store.directory, "ckpt-2", content=b"2")
    save_foreign(store.directory, "ckpt-3", content=b"3")
    absolute = tuple(os.path.join(store.directory, name) for name in ("ckpt-2", "ckpt-3"))
    with writing(store):
        store.write_state(StateFile(absolute[-1], absolute, (5.0, 6.0)))
    shutil.copytree(store.directory, tmp_path / "copy")
    os.rename(store.directory, tmp_path / "moved")
    for place in ("copy", "moved"):
        elsewhere = Store(str(tmp_path / place))
        assert readable(elsewhere) == {"ckpt-1": b"1", "ckpt-2": b"2", "ckpt-3": b"3"}
        assert [r.created_at for r in elsewhere.scan().records if r.foreign] == [5.0, 6.0]
        assert {os.path.dirname(r.prefix) for r in elsewhere.scan().records} == {elsewhere.directory}


def test_reading_changes_nothing_on_the_disk(store):
    record = save(store)
    shutil.rmtree(os.path.join(store.directory, ".ckptkit"))
    before = files_in(store.directory)
    store.scan()
    store.verify(record)
    assert files_in(store.directory) == before


def test_a_directory_that_is_not_there_holds_nothing(store):
    listing = store.scan()
    assert (listing.records, listing.damaged, listing.state) == ((), {}, None)
    assert not os.path.exists(store.directory)


# A new checkpoint, and death on the way ----------------------------------------------------------------------------


def prepare_new(store):
    save(store, "ckpt-1", content=b"older", shards=2)
    with writing(store):
        store.write_state(StateFile("ckpt-1", ("ckpt-1",), (101.0,)))


def commit_new(store, _):
    with writing(store):
        store.commit(*write(store, "ckpt-2", content=b"newer", sequence=2, shards=2))
        store.write_state(StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (101.0, 102.0)))


def test_death_at_any_moment_of_a_save_leaves_the_older_checkpoint_undamaged(tmp_path, monkeypatch):
    seen = set()
    for store in die_everywhere(monkeypatch, tmp_path, prepare_new, commit_new):
        found = readable(store)
        seen.add(tuple(found))
        assert found["ckpt-1"] == b"older"
        assert found.get("ckpt-2", b"newer") == b"newer"
        assert store.scan().state is not None
    assert seen == {("ckpt-1",), ("ckpt-1", "ckpt-2")}


def test_what_death_in_a_save_leaves_behind_is_swept_by_the_next_writer(tmp_path, monkeypatch):
    had_litter = 0
    for store in die_everywhere(monkeypatch, tmp_path, prepare_new, commit_new):
        before = readable(store)
        had_litter += bool(litter(store))
        recover(store)
        assert readable(store) == before
        assert litter(store) == []
    assert had_litter > 3


def test_death_in_the_very_first_save_leaves_nothing_or_a_whole_checkpoint(tmp_path, monkeypatch):
    def first(store, _):
        save(store, "ckpt-1", content=b"1", shards=2)

    seen = set()
    for store in die_everywhere(monkeypatch, tmp_path, lambda store: None, first):
        before = readable(store)
        seen |= set(before.values()) or {None}
        recover(store)
        assert readable(store) == before
        assert litter(store) == []
    assert seen == {None, b"1"}


def test_death_while_sweeping_is_swept_as_well(tmp_path, monkeypatch):
    for store in die_everywhere(monkeypatch, tmp_path, prepare_new, commit_new):
        before = readable(store)
        for _ in recover_dying(monkeypatch, store):
            assert readable(store) == before
        assert litter(store) == []


@pytest.mark.parametrize("name", ["fsync", "rename", "replace"])
def test_a_save_that_fails_can_be_undone_at_once_and_leaves_the_older_checkpoint_alone(tmp_path, monkeypatch, name):
    real, failed = getattr(os, name), None
    for index in itertools.count():
        store = Store(str(tmp_path / str(index)))
        prepare_new(store)
        before, calls = files_in(store.directory), itertools.count()

        def fails_once(*arguments, calls=calls, index=index):
            return full() if next(calls) == index else real(*arguments)

        with writing(store):
            pending, manifest = write(store, "ckpt-2", content=b"newer", sequence=2, shards=2)
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fails_once)
                try:
                    store.commit(pending, manifest)
                    break
                except OSError as error:
                    failed = error
            store.discard(pending)
        assert readable(store)["ckpt-1"] == b"older"
        assert files_in(store.directory) == before or readable(store)["ckpt-2"] == b"newer"
        assert litter(store) == []
    assert failed.errno == errno.ENOSPC
    assert index == {"fsync": 8, "rename": 4, "replace": 1}[name]


def test_a_save_that_fails_says_why(store, monkeypatch):
    with writing(store):
        pending, manifest = write(store)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            with pytest.raises(OSError, match="No space left on device"):
                store.commit(pending, manifest)
        store.discard(pending)
    assert names(store) == []


def test_discarding_a_save_that_was_hardly_begun_leaves_nothing(store):
    with writing(store):
        before = files_in(store.directory)
        pending = store.begin("ckpt-1")
        store.discard(pending)
        store.discard(pending)
    assert files_in(store.directory) == before


# A checkpoint over an older one of the same name -------------------------------------------------------------------


def prepare_same(store):
    save(store, "ckpt-1", content=b"other", sequence=1)
    save(store, "ckpt-2", content=b"older", sequence=2, shards=3)
    with writing(store):
        store.write_state(StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (101.0, 102.0)))


def commit_same(store, _):
    save(store, "ckpt-2", content=b"newer", sequence=3, shards=2)


def prepare_foreign(store):
    save_foreign(store.directory, "ckpt-1", content=b"other")
    save_foreign(store.directory, "ckpt-2", content=b"older")
    change(store, "checkpoint", StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (101.0, 102.0)).to_text().encode())


replacing = pytest.mark.parametrize("prepare", [prepare_same, prepare_foreign], ids=["own", "foreign"])


@replacing
def test_a_checkpoint_takes_the_place_of_an_older_one_whole(tmp_path, prepare):
    store = Store(str(tmp_path))
    prepare(store)
    commit_same(store, None)
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"newer"}
    assert [file for file in files_in(store.directory) if file.startswith("ckpt-2.data")] == [
        "ckpt-2.data-00000-of-00002",
        "ckpt-2.data-00001-of-00002",
    ]


@replacing
def test_death_at_any_moment_of_replacing_leaves_the_old_or_the_new_one_readable(tmp_path, monkeypatch, prepare):
    seen = set()
    for store in die_everywhere(monkeypatch, tmp_path, prepare, commit_same):
        found = readable(store)
        assert found.keys() == {"ckpt-1", "ckpt-2"}
        assert found["ckpt-1"] == b"other"
        seen.add(found["ckpt-2"])
    assert seen == {b"older", b"newer"}


@replacing
def test_what_death_in_replacing_leaves_behind_is_finished_or_swept_by_the_next_writer(tmp_path, monkeypatch, prepare):
    for store in die_everywhere(monkeypatch, tmp_path, prepare, commit_same):
        before = readable(store)
        recover(store)
        assert readable(store) == before
        for record in store.scan().records:
            assert os.path.dirname(record.prefix) == store.directory
        assert [f for f in litter(store) if not (prepare is prepare_foreign and f.count("ckpt-"))] == []


@replacing
def test_death_while_finishing_a_replacement_is_mended_as_well(tmp_path, monkeypatch, prepare):
    for store in die_everywhere(monkeypatch, tmp_path, prepare, commit_same):
        before = readable(store)
        for _ in recover_dying(monkeypatch, store):
            assert readable(store) == before


def test_death_in_the_middle_of_sweeping_a_replacement_that_never_was_spares_the_foreign_one(store, monkeypatch):
    # The folder of a save that was to replace a foreign checkpoint, killed before it did: the manifest is still in it
    # when some of its other files are gone already.
    prepare_foreign(store)
    with writing(store):
        pending, manifest = write(store, "ckpt-2", content=b"newer", sequence=3)
        with death_at(monkeypatch, 1), pytest.raises(Died, match="rename"):
            store.commit(pending, manifest)

    def dies_at_the_last_file(folder, **keywords):
        for file in sorted(os.listdir(folder), key=lambda file: file.endswith(".manifest.json")):
            if file.endswith(".manifest.json"):
                raise Died("in the middle")
            os.unlink(os.path.join(folder, file))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies_at_the_last_file)
        dies(monkeypatch, 10**9, lambda: recover(store))
    recover(store)
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"older"}


def fail_in_replacing(store, monkeypatch, content, sequence):
    """Save ``ckpt-2`` over an older one and fail, as on a full disk, when the folder has become the commit."""
    pending, manifest = write(store, "ckpt-2", content=content, sequence=sequence)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        patch.setattr(shutil, "copy2", full)
        with pytest.raises(OSError, match="No space left on device"):
            store.commit(pending, manifest)
    store.discard(pending)


def test_a_replacement_that_failed_half_way_can_be_read_and_is_finished_by_the_next_writer(store, monkeypatch):
    prepare_same(store)
    with writing(store):
        fail_in_replacing(store, monkeypatch, b"newer", sequence=3)
    (record,) = [r for r in store.scan().records if r.name == "ckpt-2"]
    assert record.sequence == 3
    assert os.path.dirname(record.prefix) != store.directory
    assert store.manifest(record).name == "ckpt-2"
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"newer"}
    recover(store)
    (record,) = [r for r in store.scan().records if r.name == "ckpt-2"]
    assert os.path.dirname(record.prefix) == store.directory
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"newer"}
    assert litter(store) == []


@pytest.mark.parametrize("sequence", [3, 4], ids=["the same sequence again", "the next sequence"])
def test_a_replacement_that_failed_does_not_come_back_over_a_later_one(store, monkeypatch, sequence):
    prepare_same(store)
    with writing(store):
        fail_in_replacing(store, monkeypatch, b"failed", sequence=3)
        store.commit(*write(store, "ckpt-2", content=b"later", sequence=sequence))
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"later"}
    recover(store)
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"later"}
    assert litter(store) == []


@pytest.mark.parametrize("sequence", [3, 4], ids=["the same sequence again", "the next sequence"])
@pytest.mark.parametrize("lost", [True, False], ids=["the older one was lost", "the older one is there"])
@pytest.mark.slow
def test_death_in_the_save_after_a_replacement_that_failed_never_goes_back_to_it(tmp_path, monkeypatch, sequence, lost):
    def prepare(store):
        prepare_same(store)
        with writing(store):
            fail_in_replacing(store, monkeypatch, b"failed", sequence=3)
        if not lost:
            save_foreign(store.directory, "ckpt-2", content=b"older")

    def commit_later(store, _):
        pending, manifest = write(store, "ckpt-2", content=b"later", sequence=sequence, created_at=200.0)
        lock = DirectoryLock(store.directory, os.path.join(store.directory, ".ckptkit", "lock"))
        try:  # without a recovery, which would finish the replacement that failed
            store.commit(pending, manifest)
        finally:
            lock.release()

    seen = set()
    for store in die_everywhere(monkeypatch, tmp_path, prepare, commit_later):
        before = readable(store)
        seen.add(before["ckpt-2"])
        for _ in recover_dying(monkeypatch, store):
            assert readable(store) == before
        assert litter(store) == []
    assert seen == {b"failed", b"later"}


def test_a_replacement_that_failed_and_could_not_be_dropped_does_not_come_back_over_a_later_one(store, monkeypatch):
    prepare_same(store)
    with writing(store):
        fail_in_replacing(store, monkeypatch, b"failed", sequence=3)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_drop_journals", lambda *_, **__: None)
            store.commit(*write(store, "ckpt-2", content=b"later", sequence=4))
    assert len(store.folders("replace-")) == 1
    recover(store)
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"later"}
    assert litter(store) == []


def test_a_replacement_that_failed_does_not_come_back_after_its_successor_was_deleted(store, monkeypatch):
    prepare_same(store)
    with writing(store):
        fail_in_replacing(store, monkeypatch, b"failed", sequence=3)
        store.delete(store.commit(*write(store, "ckpt-2", content=b"later", sequence=4)))
    assert names(store) == ["ckpt-1"]
    recover(store)
    assert names(store) == ["ckpt-1"]


def test_a_replacement_that_is_not_whole_is_left_for_a_person_to_look_at(store, monkeypatch, caplog):
    prepare_same(store)
    journal = os.path.join(store.directory, ".ckptkit", "replace-0")
    pending, manifest = write(store, "ckpt-2", content=b"newer", sequence=3)
    with death_at(monkeypatch, 1), pytest.raises(Died, match="rename"):
        store.commit(pending, manifest)
    os.rename(pending.folder, journal)
    change(store, os.path.join(journal, "ckpt-2.data-00000-of-00001"), b"cut")
    with caplog.at_level(logging.WARNING, logger="ckptkit"):
        recover(store)
    assert [r.getMessage() for r in caplog.records] == [
        f"{journal} holds a replacement that is not whole; it is left for a person to look at."
    ]
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"older"}
    assert len(os.listdir(journal)) == 3


# The writer --------------------------------------------------------------------------------------------------------


def test_becoming_the_writer_makes_the_directory(store):
    recover(store)
    assert files_in(store.directory) == [os.path.join(".ckptkit", "lock")]


def test_a_second_writer_in_the_same_process_leaves_a_save_under_way_alone(store):
    with writing(store):
        pending, manifest = write(store, content=b"under way")
        with writing(Store(store.directory, durable=False)):
            store.commit(pending, manifest)
    assert readable(store) == {"ckpt-1": b"under way"}


def test_a_recovery_that_fails_is_told_frees_the_lock_and_can_be_tried_again(store, monkeypatch):
    prepare_same(store)
    with writing(store):
        fail_in_replacing(store, monkeypatch, b"newer", sequence=3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        patch.setattr(shutil, "copy2", full)
        with pytest.raises(OSError, match="No space left on device"):
            store.lock()
    assert held_below(store.directory) == []
    recover(store)
    assert readable(store) == {"ckpt-1": b"other", "ckpt-2": b"newer"}


# Deleting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", [False, True], ids=["own", "foreign"])
def test_deleting_a_checkpoint_removes_its_files_and_no_others(store, foreign):
    save(store, "ckpt-1", content=b"1")
    save(store, "ckpt-22", content=b"22", sequence=2)
    if foreign:
        save_foreign(store.directory, "ckpt-2", shards=2)
    else:
        save(store, "ckpt-2", sequence=3, shards=2)
    with writing(store):
        store.write_state(StateFile("ckpt-2", ("ckpt-2",), (1.0,)))
        (record,) = [r for r in store.scan().records if r.name == "ckpt-2"]
        assert record.foreign is foreign
        store.delete(record)
    assert readable(store) == {"ckpt-1": b"1", "ckpt-22": b"22"}
    assert litter(store) == []


@pytest.mark.parametrize(
    "removed", ["", ".manifest.json", ".index", ".data-00000-of-00001"], ids=lambda end: end or "all"
)
def test_deleting_a_checkpoint_that_somebody_removed_by_hand_is_no_error(store, removed):
    save(store, "ckpt-1", content=b"1")
    record = save(store, "ckpt-2", sequence=2)
    with writing(store):
        for file in os.listdir(store.directory):
            if file.startswith("ckpt-2") and file.endswith(removed):
                os.unlink(os.path.join(store.directory, file))
        store.delete(record)
    assert readable(store) == {"ckpt-1": b"1"}
    recover(store)
    assert litter(store) == []


def test_death_at_any_moment_of_deleting_a_foreign_checkpoint_leaves_it_whole_or_gone(tmp_path, monkeypatch):
    def prepare(store):
        prepare_foreign(store)
        return store.scan().records[-1]

    def delete(store, record):
        with writing(store):
            store.delete(record)

    seen = set()
    for store in die_everywhere(monkeypatch, tmp_path, prepare, delete):
        before = readable(store)
        seen.add(tuple(before))
        recover(store)
        assert readable(store) == before
        assert [file for file in litter(store) if not file.startswith("ckpt-1")] == [
            file for file in ("ckpt-2.data-00000-of-00001", "ckpt-2.index") if "ckpt-2" in before
        ]
    assert seen == {("ckpt-1", "ckpt-2"), ("ckpt-1",)}


@pytest.mark.parametrize("listed", [("ckpt-1",), ("ckpt-1", "ckpt-2")], ids=["off the state file", "still listed"])
def test_death_at_any_moment_of_deleting_leaves_the_checkpoint_whole_or_gone(tmp_path, monkeypatch, listed):
    def prepare(store):
        prepare_same(store)
        with writing(store):
            store.write_state(StateFile(listed[-1], listed, (101.0,) * len(listed)))
        return store.scan().records[-1]

    def delete(store, record):
        with writing(store):
            store.delete(record)

    seen = set()
    for store in die_everywhere(monkeypatch, tmp_path, prepare, delete):
        listing = store.scan()
        # What a state file still lists is foreign while its files are there, and damaged while some are.
        assert set(listing.damaged) <= {"ckpt-2"} & set(listed)
        committed = {r.name for r in listing.records if not r.foreign}
        assert "ckpt-1" in committed
        seen.add(len(committed))
        recover(store)
        assert readable(store).keys() == committed
        assert litter(store) == []
    assert seen == {1, 2}


# Setting aside -----------------------------------------------------------------------------------------------------


def aside(store, folder):
    """Name and content of what was moved to a folder."""
    path = pathlib.Path(store.directory, ".ckptkit", folder)
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def test_what_is_set_aside_is_no_checkpoint_any_more_and_is_there_still(store):
    save(store, "ckpt-1", content=b"1")
    save(store, "ckpt-11", content=b"11", sequence=2)
    with writing(store):
        assert store.files_of("ckpt-1") == ["ckpt-1.data-00000-of-00001", "ckpt-1.index", "ckpt-1.manifest.json"]
        store.set_aside("ckpt-1")
        assert store.files_of("ckpt-1") == []
    assert readable(store) == {"ckpt-11": b"11"}
    there = aside(store, "damaged-ckpt-1")
    assert there.pop("ckpt-1.manifest.json").startswith(b"{")
    assert there == {"ckpt-1.data-00000-of-00001": b"1", "ckpt-1.index": b"index of 1"}


def test_death_at_any_moment_of_setting_aside_leaves_damage_and_no_foreign_checkpoint(tmp_path, monkeypatch):
    def prepare(store):
        prepare_same(store)
        with writing(store):
            store.write_state(StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (101.0, 102.0)))

    def set_aside(store, _):
        with writing(store):
            store.set_aside("ckpt-2")

    for store in die_everywhere(monkeypatch, tmp_path, prepare, set_aside):
        listing = store.scan()
        assert listing.records[0].name == "ckpt-1"
        assert not any(record.foreign for record in listing.records)
        with writing(store):
            store.set_aside("ckpt-2")
        assert len(aside(store, "damaged-ckpt-2")) == 5
        assert names(store) == ["ckpt-1"]


def test_a_second_checkpoint_of_a_name_is_set_aside_elsewhere(store):
    for content in (b"1", b"2", b"3"):
        save(store, "ckpt-1", content=content)
        with writing(store):
            store.set_aside("ckpt-1")
    for content, folder in ((b"1", "damaged-ckpt-1"), (b"2", "damaged-ckpt-1.2"), (b"3", "damaged-ckpt-1.3")):
        assert aside(store, folder)["ckpt-1.data-00000-of-00001"] == content


def test_what_is_set_aside_is_flushed_to_the_disk(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "run"))
    save(store)
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda at: flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{at}"))))
    with writing(store):
        store.set_aside("ckpt-1")
    assert flushed == [".ckptkit", "damaged-ckpt-1", "run"]


def test_a_replacement_is_set_aside_as_a_whole_and_what_it_was_to_replace_stays(store, monkeypatch):
    prepare_same(store)
    with writing(store):
        fail_in_replacing(store, monkeypatch, b"newer", sequence=3)
    with_it = readable(store)
    lock = store.lock(recover=False)
    (journal,) = store.folders("replace-")
    files = sorted(os.listdir(journal))
    store.set_journal_aside(journal)
    lock.release()
    assert with_it["ckpt-2"] == b"newer"
    assert list(aside(store, f"damaged-{os.path.basename(journal)}")) == files
    assert os.path.basename(store.aside_of_journal(journal)) == f"damaged-{os.path.basename(journal)}"


# Damage ------------------------------------------------------------------------------------------------------------


def cut_short(store):
    change(store, "ckpt-2.data-00000-of-00001", b"")


def lose_a_shard(store):
    os.unlink(os.path.join(store.directory, "ckpt-2.data-00000-of-00001"))


def lose_the_index(store):
    os.unlink(os.path.join(store.directory, "ckpt-2.index"))


def spoil_the_manifest(store):
    change(store, "ckpt-2.manifest.json", b"\0" * 100)


def swap_the_manifest(store):
    shutil.copy(
        os.path.join(store.directory, "ckpt-1.manifest.json"), os.path.join(store.directory, "ckpt-2.manifest.json")
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_short, "ckpt-2.data-00000-of-00001 has 0 bytes, manifest says 3"),
        (lose_a_shard, "ckpt-2.data-00000-of-00001 is missing"),
        (lose_the_index, "ckpt-2.index is missing"),
        (spoil_the_manifest, "its manifest cannot be read: not JSON: "),
        (swap_the_manifest, "its manifest is another's"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_checkpoint_is_told_apart_and_the_others_stand(store, damage, reason):
    save(store, "ckpt-1", content=b"one")
    save(store, "ckpt-2", content=b"two", sequence=2)
    damage(store)
    listing = store.scan()
    assert [r.name for r in listing.records] == ["ckpt-1"]
    assert list(listing.damaged) == ["ckpt-2"]
    assert listing.damaged["ckpt-2"].startswith(reason)


def test_a_damaged_checkpoint_is_not_taken_for_a_foreign_one(store):
    save(store, "ckpt-2")
    spoil_the_manifest(store)
    change(store, "checkpoint", StateFile("ckpt-2", ("ckpt-2",), (1.0,)).to_text().encode())
    assert store.scan().records == ()


def test_a_manifest_that_cannot_be_opened_is_damage(store, monkeypatch):
    save(store, "ckpt-1")
    real = open

    def refuse(path, *arguments, **keywords):
        if str(path).endswith(".manifest.json"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in store.scan().damaged["ckpt-1"]


def test_an_undamaged_checkpoint_passes_its_check(store):
    store.verify(save(store, shards=3))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ckpt-2.data-00000-of-00001", b"four", "ckpt-2.data-00000-of-00001 has 4 bytes, manifest says 3"),
        ("ckpt-2.index", b"index of twO", "ckpt-2.index has checksum 0x[0-9a-f]{8}, manifest says 0x[0-9a-f]{8}"),
        ("ckpt-2.index", b"", "ckpt-2.index has 0 bytes, manifest says 12"),
    ],
)
def test_a_check_names_the_checkpoint_the_file_and_both_sides(store, file, content, message):
    record = save(store, "ckpt-2", content=b"two")
    change(store, file, content)
    with pytest.raises(CheckpointDamagedError, match=f"^checkpoint {record.prefix} is damaged: {message}.$"):
        store.verify(record)


def test_a_check_of_a_checkpoint_that_lost_a_file_names_it(store):
    record = save(store, "ckpt-2")
    lose_the_index(store)
    with pytest.raises(CheckpointDamagedError, match=r"ckpt-2 is damaged: ckpt-2\.index is missing"):
        store.verify(record)


def test_a_manifest_that_is_gone_or_spoilt_is_told_with_its_prefix(store):
    record = save(store, "ckpt-2")
    spoil_the_manifest(store)
    with pytest.raises(CheckpointDamagedError, match=f"^manifest of {record.prefix} is damaged: not JSON: "):
        store.manifest(record)
    os.unlink(record.prefix + ".manifest.json")
    with pytest.raises(CheckpointNotFoundError, match=f"^no checkpoint {record.prefix}: it has no manifest.$"):
        store.verify(record)


def test_saving_again_under_the_name_of_a_damaged_checkpoint_mends_it(store):
    save(store, "ckpt-2", content=b"two")
    lose_a_shard(store)
    save(store, "ckpt-2", content=b"again", sequence=2)
    assert readable(store) == {"ckpt-2": b"again"}
    assert litter(store) == []


@pytest.mark.parametrize("damage", [spoil_the_manifest, swap_the_manifest], ids=lambda damage: damage.__name__)
def test_saving_again_under_a_name_whose_manifest_is_spoilt_mends_it(store, damage):
    save(store, "ckpt-1", content=b"one")
    save(store, "ckpt-2", content=b"two", sequence=2)
    damage(store)
    save(store, "ckpt-2", content=b"again", sequence=3)
    assert readable(store) == {"ckpt-1": b"one", "ckpt-2": b"again"}
    assert litter(store) == []


# What plain TensorFlow wrote ---------------------------------------------------------------------------------------


def test_a_checkpoint_that_only_the_state_file_lists_is_foreign_and_usable(store):
    save_foreign(store.directory, "ckpt-3", content=b"tf", shards=2)
    change(store, "checkpoint", StateFile("ckpt-3", ("ckpt-3",), (77.5,)).to_text().encode())
    (record,) = store.scan().records
    assert record.foreign
    assert (record.name, record.step, record.created_at, record.sequence, record.run_id) == ("ckpt-3", 3, 77.5, 0, "")
    assert record.size_bytes == 2 + 2 + len(b"index of tf")
    store.verify(record)


def test_a_foreign_checkpoint_without_a_time_or_number_has_the_files_time_and_step_zero(store):
    save_foreign(store.directory, "weights")
    os.utime(os.path.join(store.directory, "weights.index"), (5.0, 6.0))
    change(store, "checkpoint", b'model_checkpoint_path: "weights"\n')
    (record,) = store.scan().records
    assert (record.step, record.created_at) == (0, 6.0)


def test_the_newest_of_a_state_file_is_seen_though_its_list_does_not_name_it(store):
    save_foreign(store.directory, "ckpt-1")
    save_foreign(store.directory, "ckpt-2")
    change(store, "checkpoint", StateFile("ckpt-2", ("ckpt-1",), (1.0,)).to_text().encode())
    assert names(store) == ["ckpt-1", "ckpt-2"]


def test_foreign_checkpoints_stand_where_the_state_file_has_them(store):
    for sequence, name in enumerate(["ckpt-1", "ckpt-5"], start=1):
        save(store, name, sequence=sequence)
    for name in ("ckpt-2", "ckpt-3", "ckpt-9"):
        save_foreign(store.directory, name)
    listed = ("ckpt-9", "ckpt-1", "ckpt-2", "ckpt-3", "ckpt-5")
    change(store, "checkpoint", StateFile("ckpt-5", listed, (1.0,) * 5).to_text().encode())
    assert names(store) == ["ckpt-9", "ckpt-1", "ckpt-2", "ckpt-3", "ckpt-5"]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (".index", "ckpt-3.index is missing"),
        (".data-00001-of-00002", "1 of 2 shards are there"),
        ("-of-00002", "0 of its shards are there"),
    ],
)
def test_a_foreign_checkpoint_that_lacks_a_file_is_damaged(store, lost, reason):
    save(store, "ckpt-1")
    save_foreign(store.directory, "ckpt-3", shards=2)
    change(store, "checkpoint", StateFile("ckpt-3", ("ckpt-1", "ckpt-3"), (1.0, 3.0)).to_text().encode())
    for file in os.listdir(store.directory):
        if file.startswith("ckpt-3") and file.endswith(lost):
            os.unlink(os.path.join(store.directory, file))
    assert names(store) == ["ckpt-1"]
    assert store.scan().damaged == {"ckpt-3": reason}


def test_an_entry_of_a_state_file_of_which_no_file_is_left_is_nothing(store):
    # Deleted by hand, or by a manager that died before it rewrote the state file.
    save(store, "ckpt-22")
    change(store, "checkpoint", StateFile("ckpt-22", ("ckpt-2", "ckpt-22"), (1.0, 2.0)).to_text().encode())
    assert names(store) == ["ckpt-22"]
    assert store.scan().damaged == {}


def test_where_nothing_is_left_of_what_a_state_file_names_the_files_are_the_truth(store):
    save_foreign(store.directory, "ckpt-10")
    save_foreign(store.directory, "ckpt-9")
    change(store, "checkpoint", StateFile("old-2", ("old-1", "old-2"), (1.0, 2.0)).to_text().encode())
    assert names(store) == ["ckpt-9", "ckpt-10"]
    assert store.scan().damaged == {}


def test_where_nothing_is_left_at_all_what_a_state_file_names_is_told_to_be_missing(store):
    os.makedirs(store.directory)
    change(store, "checkpoint", StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (1.0, 2.0)).to_text().encode())
    assert names(store) == []
    assert store.scan().damaged == {"ckpt-1": "ckpt-1.index is missing", "ckpt-2": "ckpt-2.index is missing"}


def test_a_checkpoint_that_nothing_lists_is_no_checkpoint_beside_committed_ones(store):
    save(store, "ckpt-1")
    save_foreign(store.directory, "ckpt-2")
    change(store, "checkpoint", StateFile("ckpt-1", ("ckpt-1",), (1.0,)).to_text().encode())
    assert names(store) == ["ckpt-1"]


@pytest.mark.parametrize("path", ["../other/ckpt-1", "/tmp/ckpt-1", "..", "/", ""], ids=repr)
def test_a_state_file_that_names_something_elsewhere_does_not_lead_out_of_the_directory(store, tmp_path, path):
    save_foreign(str(tmp_path / "other"), "ckpt-1")
    save(store, "ckpt-2")
    change(store, "checkpoint", StateFile(path, (path,), (1.0,)).to_text().encode())
    assert names(store) == ["ckpt-2"]
    assert store.scan().damaged == {}


@pytest.mark.parametrize("content", [None, b"", b"\0\0\0", b"\xff", b'model_checkpoint_path: "ckpt'], ids=repr)
def test_without_a_state_file_that_can_be_read_the_files_are_the_truth(store, caplog, content):
    for name in ("ckpt-10", "ckpt-9", "weights"):
        save_foreign(store.directory, name)
    if content is not None:
        change(store, "checkpoint", content)
    with caplog.at_level(logging.WARNING, logger="ckptkit"):
        assert names(store) == ["weights", "ckpt-9", "ckpt-10"]
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == (content is not None)
    assert all(message.startswith(f"{store.directory}/checkpoint cannot be read (") for message in told)


def test_without_a_state_file_what_is_not_committed_is_litter_beside_what_is(store):
    save(store, "ckpt-1")
    save_foreign(store.directory, "ckpt-2")
    assert names(store) == ["ckpt-1"]


# Somebody else at work ---------------------------------------------------------------------------------------------


def vanish_while_listing(monkeypatch, *victims):
    """Delete files between the moment their names are listed and the moment they are looked at."""
    real = os.scandir

    def scandir(path):
        with real(path) as entries:
            found = list(entries)
        for entry in found:
            if entry.name in victims:
                os.unlink(entry.path)
        return iter(found)

    monkeypatch.setattr(store_module.os, "scandir", scandir)


def test_a_checkpoint_that_goes_while_the_directory_is_read_does_not_hide_the_others(store, monkeypatch):
    save(store, "ckpt-1", content=b"goes")
    save(store, "ckpt-2", content=b"stays", sequence=2)
    with monkeypatch.context() as patch:
        vanish_while_listing(patch, "ckpt-1.manifest.json", "ckpt-1.index", "ckpt-1.data-00000-of-00001")
        found = names(store)
    assert found == ["ckpt-2"]


def test_a_manifest_that_goes_before_it_is_read_is_no_damage(store, monkeypatch):
    save(store, "ckpt-1")
    save(store, "ckpt-2", sequence=2)
    real = open

    def too_late(path, *arguments, **keywords):
        if str(path).endswith("ckpt-1.manifest.json"):
            os.unlink(path)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", too_late)
    listing = store.scan()
    assert [r.name for r in listing.records] == ["ckpt-2"]
    assert listing.damaged == {}


# Small things ------------------------------------------------------------------------------------------------------


def test_a_listing_and_a_pending_save_cannot_be_changed(store):
    with writing(store):
        pending = store.begin("ckpt-1")
    assert pending.prefix == os.path.join(pending.folder, "ckpt-1")
    for value, name in ((pending, "name"), (store.scan(), "records")):
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
            setattr(value, name, "other")


def test_what_plain_tensorflow_pruned_is_gone_and_no_damage(store):
    save(store, "ckpt-1", content=b"1")
    save(store, "ckpt-2", content=b"2", sequence=2)
    for end in (".index", ".data-00000-of-00001"):
        os.unlink(os.path.join(store.directory, "ckpt-1" + end))
    assert readable(store) == {"ckpt-2": b"2"}


@pytest.mark.parametrize("content", [b"longer than before", b"1"], ids=["other size", "same size"])
def test_what_plain_tensorflow_wrote_over_ours_is_usable_and_no_damage(store, content):
    record = save(store, "ckpt-1", content=b"0")
    os.utime(record.prefix + ".manifest.json", (1.0, 1.0))
    for end in (".index", ".data-00000-of-00001"):
        change(store, "ckpt-1" + end, content)
    change(store, "checkpoint", StateFile("ckpt-1", ("ckpt-1",), (9.0,)).to_text().encode())
    listing = store.scan()
    assert (len(listing.records), listing.damaged) == (1, {})
    store.verify(listing.records[0])


def test_what_is_under_way_can_be_seen_to_grow(store, tmp_path):
    assert store.written_so_far() == 0
    pending = store.begin("ckpt-1")
    with open(pending.prefix + ".index", "wb") as file:
        file.write(bytes(7))
    with open(os.path.join(os.path.dirname(pending.folder), "tmp-file"), "wb") as file:
        file.write(bytes(100))
    assert store.written_so_far() == 7
