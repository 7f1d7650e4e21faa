"""A verdict on each checkpoint: damage is seen, what is not known is said, and what lies beside them is no damage."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import threading
import tracemalloc
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from ckptkit import bundle_index, verifying
from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.errors import CheckpointDamagedError
from ckptkit.listing import DirectoryReader
from ckptkit.records import Manifest
from ckptkit.verifying import Verification
from tests.checkpoint_dirs import begin, files_in, flip, put_state, read, save, save_foreign, write

pytestmark = pytest.mark.core

SHARD, INDEX, MANIFEST = "ckpt-2.data-00000-of-00001", "ckpt-2.index", "ckpt-2.manifest.json"
FOREIGN = "written by plain TensorFlow: no manifest says which tensors belong in it"


@pytest.fixture
def directory(tmp_path):
    """Two checkpoints of ours, the second of which is to be damaged."""
    directory = str(tmp_path / "run")
    save(directory, 1, shards=2)
    save(directory, 2)
    put_state(directory, ["ckpt-1", "ckpt-2"])
    return directory


@pytest.fixture
def foreign(tmp_path):
    """Two of plain TensorFlow's."""
    directory = str(tmp_path / "plain")
    save_foreign(directory, "ckpt-1", seed=1, shards=2)
    save_foreign(directory, "ckpt-2", seed=2)
    put_state(directory, ["ckpt-1", "ckpt-2"])
    return directory


def look(directory, *, deep=False, only=None):
    return list(Verification(DirectoryReader(directory), deep=deep).verdicts(only))


def states(directory, **options):
    return {verdict.name: verdict.state for verdict in look(directory, **options)}


def reason(directory, **options):
    """Why the second checkpoint is damaged."""
    verdicts = {verdict.name: verdict for verdict in look(directory, **options)}
    assert verdicts["ckpt-1"].state == "ok"
    assert verdicts["ckpt-2"].state == "damaged"
    return verdicts["ckpt-2"].reason


def notes(directory):
    return Verification(DirectoryReader(directory)).notes()


def change_manifest(directory, **facts):
    """Replace facts of the second checkpoint's manifest."""
    manifest = Manifest.from_json(read(directory, MANIFEST))
    write(directory, MANIFEST, dataclasses.replace(manifest, **facts).to_json().encode())


# What is sound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True], ids=["quick", "deep"])
def test_what_is_as_it_was_written_is_fine_and_there_is_nothing_to_say(directory, deep):
    assert [(v.name, v.state, v.reason) for v in look(directory, deep=deep)] == [
        ("ckpt-1", "ok", ""),
        ("ckpt-2", "ok", ""),
    ]
    assert notes(directory) == []


def test_a_deep_look_reads_every_byte_and_a_quick_one_the_manifest_and_the_index(directory):
    sizes = {file: len(read(directory, file)) for file in (SHARD, INDEX, MANIFEST)}
    quick, deep = (look(directory, deep=deep, only="ckpt-2")[0] for deep in (False, True))
    assert quick.bytes_read == sizes[INDEX] + sizes[MANIFEST]
    assert deep.bytes_read == sum(sizes.values())


def test_one_checkpoint_is_looked_at_alone(directory):
    flip(directory, SHARD, 0)
    assert states(directory, deep=True, only="ckpt-1") == {"ckpt-1": "ok"}
    assert states(directory, deep=True, only="ckpt-2") == {"ckpt-2": "damaged"}
    write(directory, INDEX, b"")
    assert states(directory, only="ckpt-2") == {"ckpt-2": "damaged"}
    assert states(directory, only="ckpt-3") == {}


def test_a_look_changes_nothing(directory):
    before = files_in(directory)
    look(directory, deep=True)
    notes(directory)
    assert files_in(directory) == before


def test_a_tensor_takes_no_memory_of_its_size(tmp_path):
    directory = str(tmp_path)
    with BundleWriter(os.path.join(directory, "ckpt-1")) as writer:
        writer.add("large", np.ones(1 << 25, np.uint8))
    tracemalloc.start()
    try:
        assert states(directory, deep=True) == {"ckpt-1": "ok"}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 24


# Damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "foreign"])
def test_a_flipped_bit_anywhere_in_a_shard_is_seen_by_a_deep_look_alone(request, kind):
    directory = request.getfixturevalue(kind)
    size = len(read(directory, SHARD))
    for at in {*range(0, size, 11), size - 1}:
        flip(directory, SHARD, at, at % 8)
        assert "is damaged: tensor " in reason(directory, deep=True)
        flip(directory, SHARD, at, at % 8)
    flip(directory, SHARD, 0)
    assert set(states(directory).values()) == {"ok"}


def test_a_flipped_bit_anywhere_in_the_index_is_seen_at_a_look(directory):
    for at in range(0, len(read(directory, INDEX)), 3):
        flip(directory, INDEX, at, at % 8)
        assert reason(directory).startswith(f"{INDEX} has checksum 0x")
        flip(directory, INDEX, at, at % 8)


def test_a_damaged_tensor_is_named_with_its_file_and_the_others_are_counted(directory):
    entries = {entry.key: entry for entry in Bundle(os.path.join(directory, "ckpt-2")).entries.values()}
    flip(directory, SHARD, entries["kernel"].offset)
    told = reason(directory, deep=True)
    assert told.startswith(f"{SHARD} is damaged: tensor 'kernel' has checksum 0x")
    assert "more" not in told
    flip(directory, SHARD, entries["bias"].offset)
    flip(directory, SHARD, entries["parts"].slices[1].entry.offset)
    told = reason(directory, deep=True)
    assert told.startswith(f"{SHARD} is damaged: tensor 'bias' has checksum 0x")
    assert told.endswith("; 2 more are damaged")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda at: write(at, SHARD, read(at, SHARD)[:-1]), rf"{SHARD} has \d+ bytes, manifest says \d+"),
        (lambda at: os.unlink(os.path.join(at, SHARD)), f"{SHARD} is missing"),
        (lambda at: os.unlink(os.path.join(at, INDEX)), f"{INDEX} is missing"),
        (lambda at: write(at, MANIFEST, b""), "its manifest cannot be read: not JSON: .*"),
        (lambda at: write(at, MANIFEST, read(at, "ckpt-1.manifest.json")), "its manifest is another's"),
        (
            lambda at: write(at, MANIFEST, read(at, MANIFEST).replace(b'["kernel"', b'["kernel')),
            "manifest of .* is damaged: not JSON: .*",
        ),
    ],
    ids=["shard cut short", "shard gone", "index gone", "manifest empty", "another's manifest", "table spoilt"],
)
def test_damage_is_seen_at_a_look_and_told(directory, damage, told):
    damage(directory)
    assert re.fullmatch(told, reason(directory))
    assert re.fullmatch(told, reason(directory, deep=True))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda at: write(at, SHARD, read(at, SHARD)[:-1]),
            rf"{SHARD} is damaged: tensor '.*' ends at byte \d+ of \d+",
        ),
        (lambda at: os.unlink(os.path.join(at, SHARD)), "0 of its shards are there"),
        (lambda at: os.unlink(os.path.join(at, INDEX)), f"{INDEX} is missing"),
        (lambda at: flip(at, INDEX, 9), f"{INDEX} is damaged: the block at byte 0 has checksum .*"),
        (lambda at: write(at, INDEX, b""), f"{INDEX} is damaged: 0 bytes are too few for a table"),
    ],
    ids=["shard cut short", "shard gone", "index gone", "index altered", "index empty"],
)
def test_damage_of_what_plain_tensorflow_wrote_is_seen_at_a_look_too(foreign, damage, told):
    damage(foreign)
    assert re.fullmatch(told, reason(foreign))


def test_a_manifest_whose_table_is_not_the_indexs_is_damage_and_both_sides_are_told(directory):
    rows = Manifest.from_json(read(directory, MANIFEST)).tensors
    kernel = next(row for row in rows if row.key == "kernel")
    others = tuple(row for row in rows if row != kernel)
    change_manifest(directory, tensors=(*others, dataclasses.replace(kernel, shape=(8, 16))))
    assert states(directory)["ckpt-2"] == "ok"
    assert reason(directory, deep=True) == (
        "manifest and index have different tensors: 'kernel' is float32 (8, 16), 512 bytes in the manifest, "
        "float32 (16, 8), 512 bytes in the index"
    )
    change_manifest(directory, tensors=(*others, dataclasses.replace(kernel, key="colonel")))
    assert reason(directory, deep=True) == (
        "manifest and index have different tensors: 'colonel' is float32 (16, 8), 512 bytes in the manifest, not there "
        "in the index; 'kernel' is not there in the manifest, float32 (16, 8), 512 bytes in the index"
    )
    change_manifest(directory, tensors=(*rows, kernel))
    assert reason(directory, deep=True) == "manifest and index have different tensors: one twice"
    change_manifest(directory, tensors=())
    assert reason(directory, deep=True).endswith("; … and 1 more")


def test_a_disk_that_cannot_read_is_damage(directory, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    verdicts = look(directory, deep=True)
    assert [verdict.state for verdict in verdicts] == ["damaged"] * 2
    assert all("tensor 'bias' cannot be read: [Errno 5] Input/output error" in verdict.reason for verdict in verdicts)


def test_a_check_that_fails_keeps_the_other_threads_from_going_on(directory, monkeypatch):
    checked, cleared = [], threading.Event()

    class Todo(deque):
        def clear(self):
            super().clear()
            cleared.set()

    def check(bundle, entry, told):
        checked.append(entry)
        if len(checked) == 1:
            raise RuntimeError("stop")
        cleared.wait(5)

    monkeypatch.setattr(Bundle, "check", check)
    monkeypatch.setattr(verifying, "deque", Todo)
    monkeypatch.setattr(verifying, "_THREADS", 2)
    with pytest.raises(RuntimeError, match=r"^stop$"):
        look(directory, deep=True)
    assert len(checked) <= 2


# What is not known -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("deep", "more"), [(False, "; none was read"), (True, "")], ids=["quick", "deep"])
def test_of_what_plain_tensorflow_wrote_it_is_said_what_is_not_known(foreign, deep, more):
    assert [(v.name, v.state, v.reason) for v in look(foreign, deep=deep)] == [
        ("ckpt-1", "ok", FOREIGN + more),
        ("ckpt-2", "ok", FOREIGN + more),
    ]


def test_what_plain_tensorflow_wrote_over_ours_is_its_own(directory):
    save_foreign(directory, "ckpt-2", seed=99)
    for file in (SHARD, INDEX):
        os.utime(os.path.join(directory, file))
    os.utime(os.path.join(directory, MANIFEST), (1e9, 1e9))
    for deep in (False, True):
        ours, theirs = look(directory, deep=deep)
        assert (ours.reason, theirs.state) == ("", "ok")
        assert theirs.reason.startswith(FOREIGN)


def test_a_checkpoint_that_is_on_no_list_is_looked_at_as_well(foreign):
    put_state(foreign, ["ckpt-2"])
    verdicts = {verdict.name: verdict for verdict in look(foreign, deep=True)}
    assert verdicts["ckpt-2"].reason == FOREIGN
    assert verdicts["ckpt-1"].reason == FOREIGN.replace(":", ", and on no list:")
    flip(foreign, "ckpt-1.data-00001-of-00002", 0)
    assert states(foreign, deep=True) == {"ckpt-2": "ok", "ckpt-1": "damaged"}


def test_what_only_tensorflow_reads_is_not_checked_and_no_damage(foreign, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(bundle_index, "_ENDIANNESS", 1 - bundle_index._ENDIANNESS)
        save_foreign(foreign, "ckpt-2")
    for deep in (False, True):
        sound, other = look(foreign, deep=deep)
        assert (sound.state, other.state) == ("ok", "not checked")
        assert other.reason.startswith("cannot read ")
        assert "TensorFlow reads it" in other.reason


def test_a_manifest_of_a_newer_format_cannot_be_read_and_may_be_sound(directory):
    write(directory, MANIFEST, json.dumps({"format": 2, "name": "ckpt-2"}).encode())
    assert [(v.name, v.state, v.reason) for v in look(directory)][1:] == [
        (
            "ckpt-2",
            "unreadable",
            "its manifest cannot be read: written by a newer ckptkit in format 2, and this one reads format 1: "
            "upgrade ckptkit to use it. A newer ckptkit may read it, or another user",
        )
    ]


@pytest.mark.parametrize("file", [MANIFEST, INDEX])
def test_what_another_user_may_read_is_no_damage(directory, monkeypatch, file):
    real = builtins.open

    def refuse(path, *arguments, **keywords):
        if os.path.basename(path) == file:
            raise PermissionError(errno.EACCES, "Permission denied", file)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", refuse)
    _, other = look(directory)
    assert other.state == "unreadable"
    assert f"{file}" in other.reason
    assert "Permission denied" in other.reason


# A run that goes on meanwhile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "foreign"])
def test_a_checkpoint_that_a_run_deletes_meanwhile_is_left_out(request, monkeypatch, kind):
    directory, verify = request.getfixturevalue(kind), DirectoryReader.verify

    def late(reader, record):
        if record.name == "ckpt-2":
            for file in (MANIFEST, INDEX, SHARD):
                if os.path.exists(os.path.join(directory, file)):
                    os.unlink(os.path.join(directory, file))
        return verify(reader, record)

    monkeypatch.setattr(DirectoryReader, "verify", late)
    assert states(directory) == {"ckpt-1": "ok"}


def test_a_checkpoint_that_comes_to_its_place_meanwhile_is_looked_at_there(directory, monkeypatch):
    pending, manifest = begin(directory, 2, seed=3, sequence=3)
    journal = os.path.join(directory, ".ckptkit", "replace-0")
    write(pending.folder, MANIFEST, manifest.to_json().encode())
    os.rename(pending.folder, journal)
    verify = DirectoryReader.verify

    def late(reader, record):
        if record.prefix.startswith(journal):
            shutil.copytree(journal, directory, dirs_exist_ok=True)
            shutil.rmtree(journal)
        return verify(reader, record)

    assert "a checkpoint on its way over one of the same name" in notes(directory)[0]
    monkeypatch.setattr(DirectoryReader, "verify", late)
    _, moved = look(directory)
    assert (moved.state, moved.record.prefix) == ("ok", os.path.join(directory, "ckpt-2"))


def test_a_checkpoint_that_another_replaces_meanwhile_is_looked_at_again(directory, monkeypatch):
    read_all = Bundle.check

    def late(bundle, entry, told):
        if bundle.prefix.endswith("ckpt-2") and not replaced:
            replaced.append(True)
            save(directory, 2, seed=3, sequence=3)
            raise CheckpointDamagedError("of two checkpoints, a part each")
        return read_all(bundle, entry, told)

    replaced = []
    monkeypatch.setattr(Bundle, "check", late)
    _, other = look(directory, deep=True)
    assert (other.state, other.record.sequence, replaced) == ("ok", 3, [True])


def test_a_look_at_many_checkpoints_reads_the_directory_no_more_often_than_one_at_few(directory, monkeypatch):
    def reads():
        calls = []
        with monkeypatch.context() as patch:
            scandir = os.scandir
            patch.setattr(os, "scandir", lambda path: calls.append(path) or scandir(path))
            assert set(states(directory).values()) == {"ok"}
        return len(calls)

    few = reads()
    for step in range(3, 20):
        save(directory, step)
    assert reads() == few


def test_a_save_under_way_is_a_note_and_no_checkpoint(directory):
    begin(directory, 3)
    assert states(directory) == {"ckpt-1": "ok", "ckpt-2": "ok"}
    (note,) = notes(directory)
    assert note.startswith(".ckptkit/tmp-")
    assert note.endswith(" is a save under way, or what is left of one")


@pytest.mark.parametrize(
    ("left", "note"),
    [
        (["ckpt-3.data-00000-of-00001"], "ckpt-3 is no checkpoint: ckpt-3.index is missing"),
        (["ckpt-3.index"], "ckpt-3 is no checkpoint: 0 of its shards are there"),
        (["ckpt-3.index", "ckpt-3.data-00001-of-00002"], "ckpt-3 is no checkpoint: 1 of 2 shards are there"),
        (["ckpt-3.manifest.json"], "ckpt-3 is no checkpoint: ckpt-3.index is missing"),
        ([".ckptkit/damaged-ckpt-3"], ".ckptkit/damaged-ckpt-3 is what was damaged and moved aside"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_left_of_something_is_a_note_and_no_damage(directory, left, note):
    for file in left:
        content = b"left"
        if file.endswith(".json"):
            told = json.loads(read(directory, MANIFEST).replace(b"ckpt-2", b"ckpt-3"))
            told = {key: value for key, value in told.items() if key not in ("crc32c", "tensors_crc32c")}
            content = json.dumps(told).encode()
        write(directory, file, content)
    assert states(directory) == {"ckpt-1": "ok", "ckpt-2": "ok"}
    assert notes(directory) == [note]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda at: os.unlink(os.path.join(at, "checkpoint")), "is missing or cannot be read"),
        (lambda at: write(at, "checkpoint", b"\0"), "is missing or cannot be read"),
        (lambda at: put_state(at, ["ckpt-1", "ckpt-2", "ckpt-9"]), "names ckpt-9, which is gone"),
    ],
    ids=["missing", "garbage", "names what is gone"],
)
def test_a_state_file_by_which_tensorflow_finds_nothing_is_a_note(directory, spoil, why):
    spoil(directory)
    assert set(states(directory).values()) == {"ok"}
    assert notes(directory) == [f"plain TensorFlow may not find what is here: the file 'checkpoint' {why}"]


def test_a_directory_with_nothing_in_it_has_no_verdicts_and_no_notes(tmp_path):
    assert look(str(tmp_path / "none")) == []
    assert notes(str(tmp_path / "none")) == []


# Somebody looks on -------------------------------------------------------------------------------------------------


def test_who_looks_on_is_told_of_every_byte_of_tensors_and_of_nothing_at_a_quick_look(directory, monkeypatch):
    told = {}

    @contextmanager
    def progress(doing, done, *, size_bytes):
        told[doing] = [size_bytes]
        yield SimpleNamespace(advance=told[doing].append)

    monkeypatch.setattr(verifying, "progress", progress)
    list(Verification(DirectoryReader(directory)).verdicts())
    assert told == {}
    list(Verification(DirectoryReader(directory), deep=True).verdicts())
    assert list(told) == ["verifying ckpt-1", "verifying ckpt-2"]
    size, *pieces = told["verifying ckpt-2"]
    assert size == len(read(directory, SHARD)) + len(read(directory, INDEX))
    assert sum(pieces) == len(read(directory, SHARD))


def test_each_checkpoint_that_was_read_and_is_sound_has_a_line_in_the_log(directory, caplog):
    caplog.set_level(logging.INFO, "ckptkit")
    flip(directory, SHARD, 50)
    verdicts = list(Verification(DirectoryReader(directory), deep=True).verdicts())
    assert [verdict.state for verdict in verdicts] == ["ok", "damaged"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf"verified {directory}/ckpt-1: [0-9.]+ kB in [0-9.]+ m?s", line)
