"""Reading a directory: what it costs, and that looking at the heads of the manifests sees what reading them whole does.

What a listing says of each state of a directory is in test_store.py.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import sys
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptkit.checksums import crc32c
from ckptkit.errors import CheckpointDamagedError
from ckptkit.ledger import Ledger
from ckptkit.listing import DirectoryReader
from ckptkit.records import Manifest, TensorInfo
from ckptkit.state_file import StateFile
from ckptkit.store import Store

pytestmark = pytest.mark.core

TENSORS = tuple(TensorInfo(f"layer{i}/kernel", "float32", (64, 10), 2560) for i in range(100))


def write(folder, name, content):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def read(folder, name):
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def read_path(path):
    descriptor = os.open(path, os.O_RDONLY)  # where open() is another one
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def put(folder, step, *, manifest=True, tensors=TENSORS):
    """A checkpoint as it lies in a directory, of TensorFlow's if it has no manifest."""
    name = f"ckpt-{step}"
    files = {f"{name}.data-00000-of-00001": b"data", f"{name}.index": b"index"}
    for file, content in files.items():
        write(folder, file, content)
    if manifest:
        facts = {"created_at": float(step), "index_crc32c": 1, "run_id": "run", "metrics": {"loss": 1 / step}}
        sizes = {file: len(content) for file, content in files.items()}
        whole = Manifest(name=name, step=step, sequence=step, files=sizes, tensors=tensors, **facts)
        write(folder, f"{name}.manifest.json", whole.to_json().encode())


def put_state(folder, steps):
    names = tuple(f"ckpt-{step}" for step in steps)
    state = StateFile(names[-1], names, tuple(float(step) for step in steps), 0.5)
    write(folder, "checkpoint", state.to_text().encode())


def read_whole(file):
    return dataclasses.replace(Manifest.from_json(file.read()), tensors=())


# Heads and wholes --------------------------------------------------------------------------------------------------


@st.composite
def damage(draw):
    """Cut a file short, fill its end with zeros, or change a byte in its first part, which holds no table."""
    kind, at = draw(st.sampled_from(["cut", "zeros", "change"])), draw(st.floats(0, 1, exclude_max=True))

    def spoil(content, head):
        if kind == "change":
            place = int(at * head)
            return content[:place] + draw_byte + content[place + 1 :]
        place = int(at * len(content))
        return content[:place] + (b"" if kind == "cut" else b"\0" * (len(content) - place))

    draw_byte = draw(st.binary(min_size=1, max_size=1))
    return spoil


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(1, 4), damage()), st.sets(st.integers(1, 6), min_size=1))
def test_a_listing_by_heads_is_the_listing_by_whole_manifests_whatever_is_cut_off_or_spoilt_before_the_table(
    tmp_path_factory, spoilt, listed
):
    folder = str(tmp_path_factory.mktemp("run"))
    for step in range(1, 5):
        put(folder, step)
    put(folder, 5, manifest=False)
    put_state(folder, sorted(listed))
    for step, spoil in spoilt.items():
        name = f"ckpt-{step}.manifest.json"
        content = read(folder, name)
        write(folder, name, spoil(content, content.index(b'"tensors"')))
    by_heads = Store(folder).scan()
    with mock.patch.object(Manifest, "read_head", read_whole):
        assert by_heads == Store(folder).scan()


@pytest.mark.parametrize("cut", [1, 2, 8, 9, 40, 3000])
def test_a_manifest_that_was_cut_short_is_damage_at_a_look(tmp_path, cut):
    put(tmp_path, 1)
    put(tmp_path, 2)
    write(tmp_path, "ckpt-2.manifest.json", read(tmp_path, "ckpt-2.manifest.json")[:-cut])
    listing = Store(str(tmp_path)).scan()
    whole = cut == 1  # the last character is an end of line, which JSON does not need
    assert [record.step for record in listing.records] == ([1, 2] if whole else [1])
    assert list(listing.damaged) == ([] if whole else ["ckpt-2"])


def test_a_manifest_that_is_spoilt_inside_its_table_is_found_when_it_is_verified(tmp_path):
    put(tmp_path, 1)
    content = read(tmp_path, "ckpt-1.manifest.json")
    write(tmp_path, "ckpt-1.manifest.json", content.replace(b'["layer50/', b"\0" * 10))
    store = Store(str(tmp_path))
    (record,) = store.scan().records
    with pytest.raises(CheckpointDamagedError, match=r"manifest of .*ckpt-1 is damaged: not JSON"):
        store.verify(record)


# What it costs -----------------------------------------------------------------------------------------------------


def calls_of(action):
    """The number of Python functions that an action calls: the work, where time is noisy."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def committed(folder, count):
    for step in range(1, count + 1):
        put(folder, step, tensors=())
    put_state(folder, range(1, count + 1))


def foreign(folder, count):
    for step in range(1, count + 1):
        put(folder, step, manifest=False)
    put_state(folder, range(1, count + 1))


def spoilt(folder, count):
    committed(folder, count)
    for step in range(1, count + 1):
        write(folder, f"ckpt-{step}.manifest.json", b"{")


def open_and_save(folder):
    """What a manager does with a directory, but for writing the tensors: look, commit, rewrite, delete."""
    store, ledger = Store(folder, durable=False), Ledger("ckpt", 3, None, None, now=1e6)
    ledger.adopt(store.scan(), now=1e6)
    put(folder, 10**6)
    ledger.adopt(store.scan(), now=1e6)
    store.write_state(ledger.state_file())
    store.delete(*ledger.take_out_superfluous(1e6))
    store.write_state(ledger.state_file())


@pytest.mark.parametrize("action", [lambda folder: Store(folder).scan(), open_and_save], ids=["scan", "save"])
@pytest.mark.parametrize("fill", [committed, foreign, spoilt])
def test_a_directory_of_twice_as_many_checkpoints_costs_no_more_than_twice_as_much(tmp_path, fill, action):
    work = []
    for count in (100, 200):
        folder = tmp_path / str(count)
        (folder / ".ckptkit").mkdir(parents=True)
        fill(str(folder), count)
        work.append(calls_of(lambda: action(str(folder))))  # noqa: B023  it is called at once
    assert work[1] < 2.1 * work[0]


def test_the_work_of_a_listing_does_not_hang_on_the_tensors_of_its_checkpoints(tmp_path):
    work = []
    for count in (1, 5000):
        folder = tmp_path / str(count)
        folder.mkdir()
        put(folder, 1, tensors=TENSORS[:1] * count)
        work.append(calls_of(lambda: Store(str(folder)).scan()))  # noqa: B023  it is called at once
    assert work[1] <= work[0]


@pytest.mark.parametrize("count", [1, 20])
def test_checkpoints_that_are_deleted_together_are_looked_for_once(tmp_path, monkeypatch, count):
    foreign(str(tmp_path), count)
    (tmp_path / ".ckptkit").mkdir()
    store = Store(str(tmp_path), durable=False)
    records = store.scan().records
    looks = []
    list_files = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: looks.append(folder) or list_files(folder))
    store.delete(*records)
    assert looks.count(str(tmp_path)) == 1
    assert sorted(list_files(tmp_path)) == [".ckptkit", "checkpoint"]


# Order -------------------------------------------------------------------------------------------------------------


def test_a_state_file_that_names_a_foreign_checkpoint_twice_lists_it_once(tmp_path):
    for step in (1, 3):
        put(tmp_path, step)
    put(tmp_path, 2, manifest=False)
    put_state(tmp_path, [1, 2, 2, 3, 1, 2])
    assert [record.step for record in Store(str(tmp_path)).scan().records] == [1, 2, 3]


# While somebody writes ---------------------------------------------------------------------------------------------


def meanwhile(monkeypatch, method, *actions):
    """Do something else each time, and before, a reader comes to a point of its way."""
    real, left = getattr(Store, method), list(actions)

    def overtaken(self, *arguments):
        if left:
            left.pop(0)()
        return real(self, *arguments)

    monkeypatch.setattr(Store, method, overtaken)


def remove(folder, step):
    for end in ("manifest.json", "index", "data-00000-of-00001"):
        os.unlink(os.path.join(folder, f"ckpt-{step}.{end}"))


@pytest.mark.parametrize("method", ["_read_state", "_committed", "_passing"])
def test_a_writer_that_keeps_one_checkpoint_never_leaves_a_reader_without_any(tmp_path, monkeypatch, method):
    def save(step):
        put(tmp_path, step)
        put_state(tmp_path, [step])
        remove(tmp_path, step - 1)

    put(tmp_path, 1)
    put_state(tmp_path, [1])
    meanwhile(monkeypatch, method, *(lambda step=step: save(step) for step in range(2, 8)))
    listing = Store(str(tmp_path)).scan()
    assert listing.damaged == {}
    (record,) = listing.records
    assert not record.foreign
    assert (tmp_path / f"{record.name}.index").exists() or method == "_passing"


def test_a_commit_that_a_reader_sees_half_of_is_neither_damage_nor_one_of_tensorflow(tmp_path, monkeypatch):
    put(tmp_path, 1)
    put_state(tmp_path, [1])
    write(tmp_path, "ckpt-2.data-00000-of-00001", b"data")  # moved already, and the rest follows

    def commit():
        put(tmp_path, 2)
        put_state(tmp_path, [1, 2])

    meanwhile(monkeypatch, "_read_state", commit)
    listing = Store(str(tmp_path)).scan()
    assert listing.damaged == {}
    assert [(record.step, record.foreign) for record in listing.records] == [(1, False), (2, False)]


def test_a_foreign_checkpoint_that_goes_while_it_is_listed_does_not_stop_the_listing(tmp_path, monkeypatch):
    put(tmp_path, 1, manifest=False)
    put(tmp_path, 2, manifest=False)
    meanwhile(monkeypatch, "_foreign", lambda: os.unlink(tmp_path / "ckpt-1.index"))
    assert [record.step for record in Store(str(tmp_path)).scan().records] == [2]


def test_a_reader_in_a_directory_that_never_comes_to_rest_comes_to_an_end(tmp_path, monkeypatch):
    put(tmp_path, 1, manifest=False)
    looks = []

    def grow():
        looks.append(1)
        write(tmp_path, "log", b"x" * len(looks))

    meanwhile(monkeypatch, "_passing", *[grow] * 1000)
    assert [record.step for record in Store(str(tmp_path)).scan().records] == [1]
    assert len(looks) == 20


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O error")])
def test_a_file_that_cannot_be_read_is_told_as_damage(tmp_path, monkeypatch, error):
    put(tmp_path, 1)
    store = Store(str(tmp_path))
    (record,) = store.scan().records

    def refuse(path, *arguments, **named):
        raise error

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointDamagedError, match=rf"^manifest of .*ckpt-1 cannot be read: .*{error.strerror}"):
        store.verify(record)
    manifest = Manifest.read_head(io.BytesIO(read_path(tmp_path / "ckpt-1.manifest.json")))
    monkeypatch.setattr(store, "manifest", lambda record: manifest)
    with pytest.raises(CheckpointDamagedError, match=rf"^checkpoint .*ckpt-1 cannot be read: .*{error.strerror}"):
        store.verify(record)


def test_a_large_index_is_checked_a_part_at_a_time(tmp_path, monkeypatch):
    put(tmp_path, 1)
    content = b"index" * 500_000
    write(tmp_path, "ckpt-1.index", content)
    manifest = Manifest.from_json(read(tmp_path, "ckpt-1.manifest.json"))
    files = {**manifest.files, "ckpt-1.index": len(content)}
    whole = dataclasses.replace(manifest, files=files, index_crc32c=crc32c(content))
    write(tmp_path, "ckpt-1.manifest.json", whole.to_json().encode())
    store = Store(str(tmp_path))
    (record,) = store.scan().records
    store.verify(record)
    os.truncate(tmp_path / "ckpt-1.index", len(content) - 1)
    os.truncate(tmp_path / "ckpt-1.index", len(content))
    with pytest.raises(CheckpointDamagedError, match=r"ckpt-1\.index has checksum"):
        store.verify(record)


# On the way out ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_whose_deletion_has_begun_is_not_taken_for_one_of_tensorflow(tmp_path):
    for step in (1, 2):
        put(tmp_path, step)
    put_state(tmp_path, [1, 2])
    going = tmp_path / ".ckptkit" / "tmp-1"
    going.mkdir(parents=True)
    os.rename(tmp_path / "ckpt-1.manifest.json", going / "ckpt-1.manifest.json")
    assert [record.step for record in Store(str(tmp_path)).scan().records] == [2]


def test_of_a_foreign_checkpoint_the_index_goes_first_for_without_it_tensorflow_sees_nothing(tmp_path, monkeypatch):
    put(tmp_path, 1, manifest=False)
    put_state(tmp_path, [1])
    store = Store(str(tmp_path), durable=False)
    gone, unlink = [], os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: gone.append(os.path.basename(path)) or unlink(path))
    store.delete(*store.scan().records)
    assert [file for file in gone if "manifest" not in file] == ["ckpt-1.index", "ckpt-1.data-00000-of-00001"]


# What no list has --------------------------------------------------------------------------------------------------


def unlisted(folder):
    reader = DirectoryReader(str(folder))
    found = reader.unlisted(reader.scan())
    return [(record.name, record.foreign) for record in found.records], dict(found.damaged)


def test_a_whole_checkpoint_that_no_list_has_is_told_from_what_is_left_of_others(tmp_path):
    put(tmp_path, 1)
    for step in (2, 3, 4):
        put(tmp_path, step, manifest=False)
    put(tmp_path, 5)
    os.unlink(tmp_path / "ckpt-3.index")
    os.unlink(tmp_path / "ckpt-4.data-00000-of-00001")
    for end in ("index", "data-00000-of-00001"):
        os.unlink(tmp_path / f"ckpt-5.{end}")
    put_state(tmp_path, [1])
    left = {
        "ckpt-3": "ckpt-3.index is missing",
        "ckpt-4": "0 of its shards are there",
        "ckpt-5": "ckpt-5.index is missing",
    }
    assert unlisted(tmp_path) == ([("ckpt-2", True)], left)


def test_what_a_listing_has_or_a_writer_has_under_way_is_not_told_again(tmp_path):
    put(tmp_path, 1)
    put(tmp_path, 2, manifest=False)
    put(tmp_path, 3)
    os.unlink(tmp_path / "ckpt-3.index")
    put_state(tmp_path, [1, 2])
    put(tmp_path, 4)
    os.makedirs(tmp_path / ".ckptkit" / "tmp-0")
    os.rename(tmp_path / "ckpt-4.manifest.json", tmp_path / ".ckptkit" / "tmp-0" / "ckpt-4.manifest.json")
    assert unlisted(tmp_path) == ([], {})


def test_a_checkpoint_that_was_committed_after_the_listing_is_no_foreign_one(tmp_path):
    put(tmp_path, 1)
    reader = DirectoryReader(str(tmp_path))
    before = reader.scan()
    put(tmp_path, 2)
    found = reader.unlisted(before)
    assert (found.records, found.damaged) == ((), {})


@pytest.mark.parametrize(
    ("file", "empty"),
    [
        ("notes.txt", True),
        ("my.checkpoint", True),
        ("checkpoint", False),
        ("a.index", False),
        ("a.data-00000-of-00001", False),
        ("a.manifest.json", False),
        (".ckptkit/lock", False),
    ],
)
def test_a_directory_is_empty_where_nothing_is_a_checkpoints(tmp_path, file, empty):
    assert DirectoryReader(str(tmp_path / "none")).is_empty()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert DirectoryReader(str(tmp_path)).is_empty() is empty


def test_a_check_returns_the_manifest_that_it_was_made_against(tmp_path):
    put(tmp_path, 1, manifest=False)
    put(tmp_path, 2)
    put_state(tmp_path, [1, 2])
    manifest = Manifest.from_json(read(tmp_path, "ckpt-2.manifest.json"))
    content = dataclasses.replace(manifest, index_crc32c=crc32c(b"index")).to_json().encode()
    write(tmp_path, "ckpt-2.manifest.json", content)
    reader = DirectoryReader(str(tmp_path))
    foreign, ours = reader.scan().records
    assert reader.verify(foreign) is None
    assert reader.verify(ours) == Manifest.from_json(content)
    write(tmp_path, "ckpt-2.data-00000-of-00001", b"DATA")
    write(tmp_path, "ckpt-2.index", b"INDEX")
    os.utime(tmp_path / "ckpt-2.manifest.json", (1e9, 1e9))
    assert reader.verify(ours) is None
