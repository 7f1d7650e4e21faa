"""A directory from anywhere runs no code, leads nowhere else, keeps nobody waiting, and what is good in it is found.

What TensorFlow's own readers would make of hostile files is in test_rot.py.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptkit import cli
from ckptkit.checksums import crc32c
from ckptkit.errors import CheckpointError
from ckptkit.listing import DirectoryReader
from ckptkit.records import Manifest
from ckptkit.state_file import StateFile
from ckptkit.store import Store
from tests.test_architecture import SOURCES

# Code ----------------------------------------------------------------------------------------------------------------

_RUN_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "codeop", "runpy"}
_CALLS = {"eval", "exec", "compile", "__import__"}
_UNSAFE_YAML = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
_SWITCHES = {"enable_unsafe_deserialization"}


def ways_to_code(source):
    """Where a source could run what stands in a file: ``line: what``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names if alias.name.partition(".")[0] in _RUN_CODE]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _RUN_CODE:
            names = [node.module]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            if called in _CALLS or name in _SWITCHES or (owner == "yaml" and name in _UNSAFE_YAML):
                names = [called]
            names += [f"{called}(allow_pickle=…)" for word in node.keywords if _allows_pickle(word)]
        found += [f"{node.lineno}: {name}" for name in names]
    return found


def _allows_pickle(word):
    return word.arg == "allow_pickle" and ast.unparse(word.value) != "False"


@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module or "ckptkit")
def test_no_module_runs_what_stands_in_a_file(module):
    assert ways_to_code(SOURCES[module]) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["1: pickle"]),
        ("import numpy, cloudpickle.x", ["1: cloudpickle"]),
        ("from marshal import loads", ["1: marshal"]),
        ("def f():\n    eval(text)", ["2: eval"]),
        ("exec(text)", ["1: exec"]),
        ("yaml.load(text, Loader=yaml.Loader)", ["1: yaml.load"]),
        ("yaml.unsafe_load(text)", ["1: yaml.unsafe_load"]),
        ("np.load(file, allow_pickle=True)", ["1: np.load(allow_pickle=…)"]),
        ("np.load(file, allow_pickle=anything)", ["1: np.load(allow_pickle=…)"]),
        ("keras.config.enable_unsafe_deserialization()", ["1: keras.config.enable_unsafe_deserialization"]),
        ("re.compile(text), yaml.safe_load(text), np.load(file), np.savez(file, allow_pickle=False)", []),
    ],
)
def test_the_check_finds_what_was_planted_and_nothing_else(source, found):
    assert ways_to_code(source) == found


# Directories ---------------------------------------------------------------------------------------------------------


class WaitsForEver(BaseException):
    """No error that anybody handles."""


@pytest.fixture(autouse=True)
def nobody_waits():
    """End a test that hangs, as on a pipe that nobody writes to."""

    def hang(number, frame):
        raise WaitsForEver

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def directory(tmp_path):
    """A directory with ckpt-1 and ckpt-2."""
    path = tmp_path / "run"
    (path / ".ckptkit").mkdir(parents=True)
    for step in (1, 2):
        put(path, step)
    put_state(path)
    return path


def put(folder, step, *, name=None, named=None, shards=1):
    """Write a committed checkpoint straight into a folder."""
    name = name or f"ckpt-{step}"
    files = {f"{name}.data-{n:05d}-of-{shards:05d}": b"data %d" % step for n in range(shards)}
    files[f"{name}.index"] = b"index %d" % step
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / f"{named or name}.manifest.json").write_text(manifest_of(name, step, files).to_json())


def manifest_of(name, step, files):
    sizes = {file: len(content) for file, content in files.items()}
    return Manifest(name, step, step, float(step), sizes, crc32c(b"index %d" % step), "run", metrics={"loss": 1 / step})


def put_state(folder):
    names = ("ckpt-1", "ckpt-2")
    (folder / "checkpoint").write_text(StateFile(names[-1], names, (1.0, 2.0), 0.5).to_text())


def save(directory, name, step):
    """Save a checkpoint as a manager does, and rewrite the state file."""
    store = Store(str(directory), durable=False)
    lock = store.lock()
    try:
        pending = store.begin(name)
        files = {f"{name}.data-00000-of-00001": b"data %d" % step, f"{name}.index": b"index %d" % step}
        for file, content in files.items():
            with open(os.path.join(pending.folder, file), "wb") as opened:
                opened.write(content)
        try:
            store.commit(pending, manifest_of(name, step, files))
        except BaseException:
            store.discard(pending)
            raise
        store.write_state(StateFile(name))
    finally:
        lock.release()


def why_not_saved(directory, step):
    try:
        save(directory, f"ckpt-{step}", step)
    except OSError as error:
        return str(error)
    return None


def delete_all(directory):
    store = Store(str(directory), durable=False)
    lock = store.lock()
    try:
        store.delete(*store.scan().records)
    finally:
        lock.release()


def verified(directory):
    """The steps of what is listed, each of them verified."""
    reader = DirectoryReader(str(directory))
    records = reader.scan().records
    for record in records:
        reader.verify(record)
    return [record.step for record in records]


def everything_below(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


# Out of the directory ------------------------------------------------------------------------------------------------


def link_the_folder_of_saves(directory, outside):
    shutil.rmtree(directory / ".ckptkit")
    os.symlink(outside, directory / ".ckptkit")


def link_a_save_under_way(directory, outside):
    os.symlink(outside, directory / ".ckptkit" / "tmp-1")


def link_a_file_of_one(directory, outside):
    (directory / ".ckptkit" / "tmp-1").mkdir()
    for file in os.listdir(outside):
        os.symlink(outside / file, directory / ".ckptkit" / "tmp-1" / file)


def link_a_replacement(directory, outside):
    os.symlink(outside, directory / ".ckptkit" / "replace-1")


def link_the_lock(directory, outside):
    os.symlink(outside / "precious", directory / ".ckptkit" / "lock")


def link_the_state_file(directory, outside):
    os.unlink(directory / "checkpoint")
    os.symlink(outside / "precious", directory / "checkpoint")


def link_the_files_of_a_checkpoint(directory, outside):
    for end in ("index", "data-00000-of-00001", "manifest.json"):
        os.unlink(directory / f"ckpt-2.{end}")
        os.symlink(outside / f"ckpt-2.{end}", directory / f"ckpt-2.{end}")


def link_what_a_replacement_takes_the_place_of(directory, outside):
    # ckpt-2 has one shard by its manifest: nobody deletes the links before the two of the replacement are put there.
    (directory / ".ckptkit" / "replace-1").mkdir()
    put(directory / ".ckptkit" / "replace-1", 2, shards=2)
    for shard in range(2):
        os.symlink(outside / "precious", directory / f"ckpt-2.data-{shard:05d}-of-00002")


def name_files_elsewhere(directory, outside):
    (directory / ".ckptkit" / "tmp-1").mkdir()
    text = (directory / "ckpt-2.manifest.json").read_text().replace("ckpt-2", "../outside/ckpt-2")
    (directory / ".ckptkit" / "tmp-1" / "ckpt-2.manifest.json").write_text(text)


def list_checkpoints_elsewhere(directory, outside):
    state = StateFile(str(outside / "ckpt-2"), (str(outside / "ckpt-2"), "../outside/ckpt-2"), (1.0, 2.0))
    (directory / "checkpoint").write_text(state.to_text())


def no_hard_links(source, target):
    raise OSError("no hard links here")


OUT = [
    link_the_folder_of_saves,
    link_a_save_under_way,
    link_a_file_of_one,
    link_a_replacement,
    link_the_lock,
    link_the_state_file,
    link_the_files_of_a_checkpoint,
    link_what_a_replacement_takes_the_place_of,
    name_files_elsewhere,
    list_checkpoints_elsewhere,
]


@pytest.mark.parametrize("hard_links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("lead_out", OUT, ids=lambda lead: lead.__name__)
def test_nothing_is_written_or_deleted_outside_of_the_directory(directory, tmp_path, lead_out, hard_links, monkeypatch):
    outside = tmp_path / "outside"
    (outside / "tmp-1").mkdir(parents=True)
    for file in ("precious", "tmp-1/precious", "lock", "tmp-2"):
        (outside / file).write_bytes(b"precious")
    put(outside, 2)
    lead_out(directory, outside)
    if not hard_links:
        monkeypatch.setattr(os, "link", no_hard_links)
    before = everything_below(outside)
    assert 1 in verified(directory)
    for name in ("ckpt-2", "ckpt-3"):
        with contextlib.suppress(OSError):
            save(directory, name, 7)
            delete_all(directory)
    assert everything_below(outside) == before


def test_a_link_in_the_place_of_the_folder_of_saves_is_refused_and_the_checkpoints_are_read(directory, tmp_path):
    (tmp_path / "outside").mkdir()
    link_the_folder_of_saves(directory, tmp_path / "outside")
    with pytest.raises(OSError, match=r"Is a symbolic link, remove it: '.*\.ckptkit'$"):
        save(directory, "ckpt-3", 3)
    assert verified(directory) == [1, 2]


@pytest.mark.parametrize("link", [".ckptkit", ".ckptkit/replace-1"])
def test_a_link_does_not_bring_in_what_lies_elsewhere(directory, tmp_path, link):
    (tmp_path / "outside" / "replace-1").mkdir(parents=True)
    for folder in (tmp_path / "outside", tmp_path / "outside" / "replace-1"):
        put(folder, 9)
    shutil.rmtree(directory / ".ckptkit")
    if link != ".ckptkit":
        (directory / ".ckptkit").mkdir()
    os.symlink(tmp_path / "outside", directory / link)
    assert verified(directory) == [1, 2]
    assert (why_not_saved(directory, 3) is None) is (link != ".ckptkit")
    assert 9 not in verified(directory)


def test_a_pipe_in_the_place_of_a_manifest_keeps_no_recovery_waiting(directory):
    (directory / ".ckptkit" / "tmp-1").mkdir()
    os.rename(directory / "ckpt-2.manifest.json", directory / ".ckptkit" / "tmp-1" / "ckpt-2.manifest.json")
    os.mkfifo(directory / "ckpt-2.manifest.json")
    save(directory, "ckpt-3", 3)
    assert {1, 3} <= set(verified(directory))


def test_a_folder_in_the_place_of_a_file_that_was_to_be_swept_is_left_as_it_is(directory):
    (directory / ".ckptkit" / "tmp-1").mkdir()
    (directory / ".ckptkit" / "tmp-1" / "ckpt-5.manifest.json").write_text(
        manifest_of("ckpt-5", 5, {"ckpt-5.index": b"index 5"}).to_json()
    )
    (directory / "ckpt-5.index").mkdir()
    save(directory, "ckpt-3", 3)
    assert verified(directory) == [1, 2, 3]
    assert (directory / "ckpt-5.index").is_dir()


def test_a_folder_in_the_place_of_a_file_is_left_as_it_is_by_a_replacement_that_is_finished(directory):
    (directory / ".ckptkit" / "replace-1").mkdir()
    put(directory / ".ckptkit" / "replace-1", 5)
    (directory / "ckpt-5.manifest.json" / "precious").mkdir(parents=True)
    told = why_not_saved(directory, 3)
    assert told is not None
    assert f"Is a directory: '{directory / 'ckpt-5.manifest.json'}'" in told
    assert (directory / "ckpt-5.manifest.json" / "precious").is_dir()
    assert verified(directory) == [1, 2, 5]


def test_a_replacement_that_calls_itself_otherwise_is_left_alone(directory):
    (directory / ".ckptkit" / "replace-1").mkdir()
    put(directory / ".ckptkit" / "replace-1", 2, name="ckpt-2", named="another")
    save(directory, "ckpt-3", 3)
    assert verified(directory) == [1, 2, 3]
    assert (directory / ".ckptkit" / "replace-1" / "ckpt-2.index").exists()


# What is no file -----------------------------------------------------------------------------------------------------

THINGS = {
    "a folder": lambda path: (path / "deeper").mkdir(parents=True),
    "a pipe": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a link to itself": lambda path: os.symlink(path.name, path),
    "a link to nowhere": lambda path: os.symlink("nowhere", path),
    "a link to a folder": lambda path: os.symlink("/usr", path),
    "a link to a device": lambda path: os.symlink("/dev/zero", path),
    "a file of 8 TB": lambda path: (path.touch(), os.truncate(path, 1 << 43)),
}
PLACES = [
    "ckpt-2.index",
    "ckpt-2.data-00000-of-00001",
    "ckpt-2.manifest.json",
    "checkpoint",
    ".ckptkit",
    ".ckptkit/lock",
    ".ckptkit/tmp-1",
    ".ckptkit/replace-1",
    "ckpt-5.index",
    "ckpt-5.manifest.json",
    "another",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("thing", THINGS)
def test_whatever_stands_in_the_place_of_a_file_hides_no_other_checkpoint_and_keeps_nobody_waiting(
    directory, thing, place, capsys
):
    path = directory / place
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    THINGS[thing](path)
    is_hit = place.startswith("ckpt-2") and not place.endswith("json")
    assert verified(directory) in ([[1]] if is_hit else [[1, 2], [1]])
    assert cli.main(["ls", str(directory)]) in (0, 1)
    assert cli.main(["ls", "--json", str(directory)]) in (0, 1)
    for step in (2, 3, 5):
        told = why_not_saved(directory, step)
        assert told is None or str(path) in told
        assert 1 in verified(directory)
        DirectoryReader(str(directory)).scan()


@pytest.mark.parametrize("place", ["ckpt-5.index", "ckpt-5.data-00000-of-00001", "ckpt-5.manifest.json"])
def test_a_folder_in_the_place_of_a_file_is_left_as_it_is_and_the_save_is_refused(directory, place):
    (directory / place).mkdir()
    (directory / place / "precious").touch()
    with pytest.raises(IsADirectoryError, match=f"Is a directory: '{directory / place}'"):
        save(directory, "ckpt-5", 5)
    assert (directory / place / "precious").exists()
    assert verified(directory) == [1, 2]
    save(directory, "ckpt-6", 6)
    assert verified(directory) == [1, 2, 6]


def test_a_link_to_itself_in_the_place_of_the_directory_is_said(tmp_path, capsys):
    os.symlink("run", tmp_path / "run")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        DirectoryReader(str(tmp_path / "run")).scan()
    assert cli.main(["ls", str(tmp_path / "run")]) == 2
    assert "Too many levels of symbolic links" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"Too many levels of symbolic links|File exists"):
        save(tmp_path / "run", "ckpt-1", 1)


def test_files_of_others_with_names_of_all_kinds_are_left_alone(directory, capsys):
    names = [b"a\nb", b"[bold]x.index", b"\x1b[31mred.manifest.json", b"\xff\xfe.index", b"\xff.manifest.json"]
    names += [b"ckpt-9.index", b"ckpt-9.data-00000-of-00002", b"ckpt-.index", b".index", b".manifest.json", b"-1.index"]
    names += [b"x" * 255, b"ckpt-" + b"9" * 200 + b".index", "ckpt-٣.data-٠٠٠٠٠-of-٠٠٠٠١".encode()]
    for name in names:
        with open(os.path.join(os.fsencode(directory), name), "wb") as file:
            file.write(b"theirs")
    assert verified(directory) == [1, 2]
    assert cli.main(["ls", str(directory)]) == 1
    printed = "".join(capsys.readouterr())
    assert "\\x1b[31mred is damaged" in printed
    assert "\x1b" not in printed
    save(directory, "ckpt-3", 3)
    assert verified(directory) == [1, 2, 3]
    assert set(names) <= set(os.listdir(os.fsencode(directory)))


# Any bytes -----------------------------------------------------------------------------------------------------------

FILES = ["checkpoint", "ckpt-2.manifest.json", "ckpt-2.index", ".ckptkit/tmp-1/ckpt-2.manifest.json", ".ckptkit/tmp-2"]
FILES += [".ckptkit/replace-1/ckpt-2.manifest.json", ".ckptkit/lock"]


@st.composite
def nearly(draw, text):
    """A good content with a few bytes changed, removed or put in."""
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.binary(max_size=4)) + text[at + draw(st.integers(0, 9)) :]


_GOOD = manifest_of("ckpt-2", 2, {"ckpt-2.data-00000-of-00001": b"data 2", "ckpt-2.index": b"index 2"}).to_json()
contents = st.binary(max_size=60) | nearly(_GOOD.encode()) | nearly(StateFile("ckpt-2", ("ckpt-1",)).to_text().encode())


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(FILES), contents, min_size=1))
@example({"checkpoint": b'model_checkpoint_path: "ckpt-' + b"7" * 5000 + b'"'})
@example({"checkpoint": b'model_checkpoint_path: "ckpt-2"\nall_model_checkpoint_timestamps: nan'})
@example({".ckptkit/tmp-1/ckpt-2.manifest.json": _GOOD.replace("ckpt-2", "x" * 240).encode()})
@example({".ckptkit/tmp-1/ckpt-2.manifest.json": _GOOD.replace("ckpt-2", "\\ud800").encode()})
@example({".ckptkit/replace-1/ckpt-2.manifest.json": b"[" * 100_000})
@example({".ckptkit/lock": b"[" * 100_000})
def test_whatever_bytes_its_files_hold_a_directory_is_read_and_written(spoilt):
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / ".ckptkit" / "tmp-1").mkdir(parents=True)
        (directory / ".ckptkit" / "replace-1").mkdir()
        for step in (1, 2):
            put(directory, step)
        put_state(directory)
        for file, content in spoilt.items():
            (directory / file).write_bytes(content)
        reader = DirectoryReader(folder)
        records = reader.scan().records
        assert "ckpt-1" in {record.name for record in records}
        for record in records:
            with contextlib.suppress(CheckpointError):
                reader.verify(record)
        save(directory, "ckpt-3", 3)
        assert {1, 3} <= {record.step for record in reader.scan().records}
