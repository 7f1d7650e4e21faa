"""Our directory is a TensorFlow checkpoint directory and the other way round; nothing starts afresh in silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import ckptkit
from ckptkit import CheckpointManager
from tests.plain_tf import digest, make_checkpoint, make_model, tracked_digest, train

pytestmark = pytest.mark.slow  # plain TensorFlow has processes of its own

ROOT = Path(__file__).parents[1]


def ask_plain_tensorflow(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run cases in one child process; starting TensorFlow takes seconds."""
    child = subprocess.run(
        [sys.executable, "-I", str(ROOT / "tests" / "plain_tf.py")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4000:]
    return json.loads(child.stdout)


def save_some(
    directory: Path, saves: int = 2, *, max_to_keep: int | None = None, async_save: bool = False
) -> list[str]:
    """Train and save a new model, and return the digest of each checkpoint."""
    model = make_model()
    digests = []
    with CheckpointManager(make_checkpoint(model), directory, max_to_keep, async_save=async_save) as manager:
        for number in range(saves):
            train(model, number)
            manager.save(number + 1)
            digests.append(tracked_digest(model))
        train(model, 99)  # whatever comes after a save is not in it
    return digests


def names(paths: list[str]) -> list[str]:
    return [os.path.basename(path) for path in paths]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What plain TensorFlow said and did, all in one child process: results by case, ``root`` and our digests."""
    root = tmp_path_factory.mktemp("plain")
    told: dict[str, Any] = {"root": root}
    told["ours"] = {
        "sync": save_some(root / "sync"),
        "async": save_some(root / "async", 3, async_save=True),
        "pruned": save_some(root / "pruned", 4, max_to_keep=2),
        "moved": save_some(root / "before"),
        "continued": save_some(root / "continued", max_to_keep=3),
    }
    os.rename(root / "before", root / "moved")
    cases = {name: {"do": "restore", "directory": str(root / name)} for name in ("sync", "async", "pruned", "moved")}
    cases["continued"] = {"do": "go_on", "directory": str(root / "continued"), "saves": 2, "max_to_keep": 3}
    cases["by_manager"] = {"do": "go_on", "directory": str(root / "by_manager"), "saves": 3, "max_to_keep": 3}
    cases["by_checkpoint"] = {"do": "save_without_manager", "directory": str(root / "by_checkpoint"), "saves": 3}
    cases["seen_by_manager"] = {"do": "look", "directory": str(root / "by_manager")}
    cases["seen_by_checkpoint"] = {"do": "look", "directory": str(root / "by_checkpoint")}
    told.update(ask_plain_tensorflow(cases))
    return told


# What we wrote, read by plain TensorFlow -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sync", "async", "pruned", "moved"])
def test_plain_tensorflow_restores_our_latest_with_every_assertion(plain: dict[str, Any], name: str) -> None:
    assert plain[name]["digest"] == plain["ours"][name][-1]


@pytest.mark.parametrize(("name", "latest"), [("sync", "ckpt-2"), ("async", "ckpt-3"), ("pruned", "ckpt-4")])
def test_plain_tensorflow_finds_our_latest(plain: dict[str, Any], name: str, latest: str) -> None:
    assert plain[name]["latest"] == latest


@pytest.mark.parametrize(("name", "latest"), [("sync", "ckpt-2"), ("async", "ckpt-3"), ("pruned", "ckpt-4")])
def test_plain_tensorflows_iterator_comes_to_our_latest(plain: dict[str, Any], name: str, latest: str) -> None:
    assert plain[name]["iterated"] == [latest]


@pytest.mark.parametrize("name", ["sync", "async"])
def test_plain_tensorflow_lists_all_that_its_own_checkpoint_has(plain: dict[str, Any], name: str) -> None:
    own = {key for key, _ in tf.train.list_variables(str(plain["root"] / "by_checkpoint"))}
    assert len(own) > 20
    assert own <= set(plain[name]["variables"])


# What plain TensorFlow wrote, continued by us ------------------------------------------------------------------------


@pytest.fixture(params=["by_manager", "by_checkpoint"])
def foreign(plain: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a directory with ckpt-1 to ckpt-3 that plain TensorFlow wrote, and what it said of it."""
    shutil.copytree(plain["root"] / request.param, tmp_path / "run")
    return tmp_path / "run", {**plain[request.param], "seen": plain[f"seen_{request.param}"]}


def test_a_foreign_directory_looks_as_it_does_to_tensorflows_manager(foreign: tuple[Path, dict[str, Any]]) -> None:
    directory, told = foreign
    manager = CheckpointManager(make_checkpoint(make_model()), directory, 3)
    latest = manager.latest_checkpoint
    assert latest is not None
    assert {"latest": os.path.basename(latest), "checkpoints": names(manager.checkpoints)} == told["seen"]


def test_foreign_checkpoints_are_said_to_be_foreign(foreign: tuple[Path, dict[str, Any]]) -> None:
    manager = CheckpointManager(make_checkpoint(make_model()), foreign[0], 3)
    assert {record.foreign for record in manager.records()} == {True}


def test_the_newest_foreign_checkpoint_is_restored(foreign: tuple[Path, dict[str, Any]]) -> None:
    directory, told = foreign
    model = make_model()
    manager = CheckpointManager(make_checkpoint(model), directory, 3)
    assert manager.restore_or_initialize() == str(directory / "ckpt-3")
    assert tracked_digest(model) == told["digests"][-1]


def test_any_listed_foreign_checkpoint_is_restored_by_its_step(foreign: tuple[Path, dict[str, Any]]) -> None:
    directory, told = foreign
    model = make_model()
    manager = CheckpointManager(make_checkpoint(model), directory, 3)
    for record in manager.records():
        manager.restore(record.step)
        assert tracked_digest(model) == told["digests"][record.step - 1]


def test_our_save_follows_the_foreign_ones(foreign: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = foreign
    manager = CheckpointManager(make_checkpoint(make_model()), directory, 3)
    manager.restore_or_initialize()
    assert manager.save() == str(directory / "ckpt-4")
    assert tf.train.latest_checkpoint(str(directory)) == str(directory / "ckpt-4")


def test_foreign_checkpoints_are_pruned_but_the_one_resumed_from(plain: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(plain["root"] / "by_manager", tmp_path / "run")
    manager = CheckpointManager(make_checkpoint(make_model()), tmp_path / "run", 2)
    manager.restore_or_initialize()
    for number in (4, 5, 6):
        manager.save(number)
    assert names(manager.checkpoints) == ["ckpt-3", "ckpt-5", "ckpt-6"]
    assert {path.name for path in (tmp_path / "run").glob("*.index")} == {
        "ckpt-3.index",
        "ckpt-5.index",
        "ckpt-6.index",
    }


def test_ours_continued_by_plain_tensorflow_gave_it_our_values(plain: dict[str, Any]) -> None:
    assert plain["continued"]["restored"] == "ckpt-2"
    assert plain["continued"]["digests"][0] == plain["ours"]["continued"][-1]


def test_we_come_back_to_what_plain_tensorflow_saved_after_us(plain: dict[str, Any]) -> None:
    directory = plain["root"] / "continued"
    model = make_model()
    manager = CheckpointManager(make_checkpoint(model), directory, 3)
    assert names(manager.checkpoints) == plain["continued"]["checkpoints"]
    assert manager.restore_or_initialize() == str(directory / plain["continued"]["latest"])
    assert tracked_digest(model) == plain["continued"]["digests"][-1]


def test_what_we_wrote_before_plain_tensorflow_came_is_still_restored(plain: dict[str, Any]) -> None:
    model = make_model()
    CheckpointManager(make_checkpoint(model), plain["root"] / "continued", 3).restore(2)
    assert tracked_digest(model) == plain["ours"]["continued"][1]


# Moved and copied ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [os.rename, shutil.copytree], ids=["renamed", "copied"])
def test_a_directory_resumes_in_another_place(move: Callable[[Path, Path], Any], tmp_path: Path) -> None:
    digests = save_some(tmp_path / "old", 3, max_to_keep=2)
    move(tmp_path / "old", tmp_path / "new")
    model = make_model()
    manager = CheckpointManager(make_checkpoint(model), tmp_path / "new", 2)
    assert names(manager.checkpoints) == ["ckpt-2", "ckpt-3"]
    assert manager.restore_or_initialize() == str(tmp_path / "new" / "ckpt-3")
    assert tracked_digest(model) == digests[-1]


def test_a_copy_goes_on_without_touching_the_original(tmp_path: Path) -> None:
    save_some(tmp_path / "old", 2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir() if path.is_file()}
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    manager = CheckpointManager(make_checkpoint(make_model()), tmp_path / "new", 1)
    manager.restore_or_initialize()
    manager.save(3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir() if path.is_file()} == before


# Two writers ---------------------------------------------------------------------------------------------------------

_HOLD = (
    "import sys; from ckptkit.store import Store; lock = Store(sys.argv[1]).lock(); print('held', flush=True); input()"
)
_TRY = "import sys; from ckptkit.store import Store; Store(sys.argv[1]).lock()"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the directory."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def simple_checkpoint() -> tf.train.Checkpoint:
    return tf.train.Checkpoint(x=tf.Variable([1.0, 2.0]))


def test_a_second_writer_is_refused_and_told_who_the_first_is(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    manager = CheckpointManager(simple_checkpoint(), tmp_path, 1)
    with pytest.raises(
        ckptkit.DirectoryLockedError, match=rf"to {tmp_path}: process {holder.pid} on .* is writing there"
    ):
        manager.save()
    assert list(tmp_path.glob("*.index")) == []


def test_a_refused_save_does_not_count(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    manager = CheckpointManager(simple_checkpoint(), tmp_path, 1)
    with pytest.raises(ckptkit.DirectoryLockedError, match="is writing there"):
        manager.save()
    holder.kill()
    holder.wait()
    assert manager.save() == str(tmp_path / "ckpt-1")


def test_our_lock_keeps_another_process_out_and_names_us(tmp_path: Path) -> None:
    manager = CheckpointManager(simple_checkpoint(), tmp_path, 1)
    manager.save()
    child = subprocess.run(
        [sys.executable, "-c", _TRY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert f"DirectoryLockedError: cannot write checkpoints to {tmp_path}: process {os.getpid()} on " in child.stderr


def test_a_closed_manager_lets_another_process_write(tmp_path: Path) -> None:
    manager = CheckpointManager(simple_checkpoint(), tmp_path, 1)
    manager.save()
    manager.close()
    child = subprocess.run([sys.executable, "-c", _TRY, str(tmp_path)], cwd=ROOT, capture_output=True, check=False)
    assert child.returncode == 0


def test_reading_needs_no_lock(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    tf.train.CheckpointManager(simple_checkpoint(), str(tmp_path), 1).save()
    checkpoint = simple_checkpoint()
    checkpoint.x.assign([0.0, 0.0])
    CheckpointManager(checkpoint, tmp_path, 1).restore()
    assert checkpoint.x.numpy().tolist() == [1.0, 2.0]


# State files that say nothing ----------------------------------------------------------------------------------------


def make_numbered(directory: Path, make: Any = CheckpointManager, saves: int = 3) -> None:
    """Save x = 1, 2, 3 … as ckpt-1, ckpt-2, ckpt-3 …"""
    checkpoint = simple_checkpoint()
    manager = make(checkpoint, str(directory), None)
    for number in range(1, saves + 1):
        checkpoint.x.assign([number, number])
        manager.save()


def restored_x(directory: Path, which: Any = None) -> float:
    """Restore into new objects and return x."""
    checkpoint = simple_checkpoint()
    checkpoint.x.assign([-1.0, -1.0])
    manager = CheckpointManager(checkpoint, directory, None, init_fn=lambda: pytest.fail("started afresh"))
    assert manager.restore_or_initialize() is not None
    return float(checkpoint.x[0])


STATE_FILES: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "zeros": b"\0" * 100,
    "garbage": b"\xff\xfe\x00garbage",
    "text": b"hello\n",
    "cut_short": b'model_checkpoint_path: "ckpt-',
    "names_none": b'all_model_checkpoint_paths: "ckpt-1"\n',
    "names_one_that_is_gone": b'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-9"\n',
}


@pytest.fixture(params=STATE_FILES, ids=STATE_FILES)
def state_file(request: pytest.FixtureRequest) -> bytes | None:
    return STATE_FILES[request.param]


def put_state_file(directory: Path, content: bytes | None) -> None:
    (directory / "checkpoint").unlink()
    if content is not None:
        (directory / "checkpoint").write_bytes(content)


def test_an_unreadable_state_file_does_not_lose_our_checkpoints(state_file: bytes | None, tmp_path: Path) -> None:
    make_numbered(tmp_path)
    put_state_file(tmp_path, state_file)
    assert restored_x(tmp_path) == 3.0


def test_an_unreadable_state_file_does_not_lose_foreign_checkpoints(state_file: bytes | None, tmp_path: Path) -> None:
    make_numbered(tmp_path, tf.train.CheckpointManager)
    put_state_file(tmp_path, state_file)
    assert restored_x(tmp_path) == 3.0


def test_the_next_save_mends_an_unreadable_state_file(state_file: bytes | None, tmp_path: Path) -> None:
    make_numbered(tmp_path)
    put_state_file(tmp_path, state_file)
    CheckpointManager(simple_checkpoint(), tmp_path, None).save(4)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-4")
    manager = tf.train.CheckpointManager(simple_checkpoint(), str(tmp_path), None)
    assert names(manager.checkpoints) == ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4"]


def test_an_unreadable_state_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_numbered(tmp_path)
    put_state_file(tmp_path, b"hello\n")
    CheckpointManager(simple_checkpoint(), tmp_path, None)
    assert "/checkpoint cannot be read (not a CheckpointState: 'hello" in caplog.text
    assert "going by the files instead" in caplog.text


# Damage --------------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "data_cut_short": lambda prefix: os.truncate(f"{prefix}.data-00000-of-00001", 3),
    "data_missing": lambda prefix: os.unlink(f"{prefix}.data-00000-of-00001"),
    "data_altered": lambda prefix: flip(Path(f"{prefix}.data-00000-of-00001"), 0),
    "index_cut_short": lambda prefix: os.truncate(f"{prefix}.index", 20),
    "index_missing": lambda prefix: os.unlink(f"{prefix}.index"),
    "index_altered": lambda prefix: flip(Path(f"{prefix}.index"), 20),
}
OUR_DAMAGES: dict[str, Callable[[Path], Any]] = {
    **DAMAGES,
    "manifest_cut_short": lambda prefix: os.truncate(f"{prefix}.manifest.json", 30),
    "manifest_empty": lambda prefix: os.truncate(f"{prefix}.manifest.json", 0),
    "manifest_altered": lambda prefix: Path(f"{prefix}.manifest.json").write_text('{"format": 1}'),
}


@pytest.fixture(params=OUR_DAMAGES)
def damage(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return OUR_DAMAGES[request.param]


@pytest.fixture(params=DAMAGES)
def foreign_damage(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return DAMAGES[request.param]


def test_a_damaged_latest_falls_back_to_the_one_before(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    make_numbered(tmp_path)
    damage(tmp_path / "ckpt-3")
    assert restored_x(tmp_path) == 2.0


def test_the_fallback_is_loud(damage: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_numbered(tmp_path)
    damage(tmp_path / "ckpt-3")
    restored_x(tmp_path)
    warned = [r.message for r in caplog.records if r.name == "ckptkit" and r.levelname == "WARNING"]
    assert any("ckpt-3" in message and "damaged" in message for message in warned)


@pytest.mark.parametrize("which", ["step", "prefix"])
def test_a_damaged_checkpoint_that_was_named_is_an_error(
    damage: Callable[[Path], Any], which: str, tmp_path: Path
) -> None:
    make_numbered(tmp_path)
    damage(tmp_path / "ckpt-3")
    manager = CheckpointManager(simple_checkpoint(), tmp_path, None)
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"ckpt-3.* is damaged: |ckpt-3 cannot be read: "):
        manager.restore(3 if which == "step" else tmp_path / "ckpt-3")


def test_a_save_takes_the_place_of_a_damaged_checkpoint(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    make_numbered(tmp_path)
    damage(tmp_path / "ckpt-3")
    checkpoint = simple_checkpoint()
    manager = CheckpointManager(checkpoint, tmp_path, None)
    manager.restore()
    checkpoint.x.assign([33.0, 33.0])
    manager.save(3)
    assert restored_x(tmp_path) == 33.0


def test_nothing_but_damaged_checkpoints_is_an_error_and_no_fresh_start(
    damage: Callable[[Path], Any], tmp_path: Path
) -> None:
    make_numbered(tmp_path)
    for number in (1, 2, 3):
        damage(tmp_path / f"ckpt-{number}")
    manager = CheckpointManager(simple_checkpoint(), tmp_path, None, init_fn=lambda: pytest.fail("started afresh"))
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"but none of them can be restored:\n.*ckpt-"):
        manager.restore_or_initialize()


def test_nothing_but_damaged_foreign_checkpoints_is_an_error_and_no_fresh_start(
    foreign_damage: Callable[[Path], Any], tmp_path: Path
) -> None:
    make_numbered(tmp_path, tf.train.CheckpointManager)
    for number in (1, 2, 3):
        foreign_damage(tmp_path / f"ckpt-{number}")
    manager = CheckpointManager(simple_checkpoint(), tmp_path, None, init_fn=lambda: pytest.fail("started afresh"))
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"but none of them can be restored:\n.*ckpt-"):
        manager.restore_or_initialize()


def test_a_damaged_foreign_latest_falls_back_loudly(
    foreign_damage: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_numbered(tmp_path, tf.train.CheckpointManager)
    foreign_damage(tmp_path / "ckpt-3")
    assert restored_x(tmp_path) == 2.0
    assert "ckpt-3" in caplog.text


def test_a_state_file_alone_is_no_fresh_start(tmp_path: Path) -> None:
    # TensorFlow's manager raises NotFoundError here.
    make_numbered(tmp_path, tf.train.CheckpointManager)
    for path in tmp_path.glob("ckpt-*"):
        path.unlink()
    manager = CheckpointManager(simple_checkpoint(), tmp_path, None, init_fn=lambda: pytest.fail("started afresh"))
    with pytest.raises(ckptkit.CheckpointDamagedError, match="but none of them can be restored"):
        manager.restore_or_initialize()


def test_an_empty_directory_is_a_fresh_start(tmp_path: Path) -> None:
    called = []
    manager = CheckpointManager(simple_checkpoint(), tmp_path, None, init_fn=lambda: called.append(1))
    assert manager.restore_or_initialize() is None
    assert called == [1]


def all_of(model: Any) -> list[Any]:
    return [*model.variables, *model.metrics_variables, *model.optimizer.variables]


def whole_digest(model: Any) -> str:
    """Hash every variable there is, seeds and metrics, too."""
    return digest(all_of(model))


@pytest.mark.parametrize("which", ["latest", 1])
def test_a_restore_that_fails_at_the_last_byte_leaves_every_variable_alone(which: Any, tmp_path: Path) -> None:
    save_some(tmp_path, 1)
    data = tmp_path / "ckpt-1.data-00000-of-00001"
    flip(data, data.stat().st_size - 1)
    model = make_model()
    manager = CheckpointManager(make_checkpoint(model), tmp_path, None)
    before = whole_digest(model)
    with pytest.raises(ckptkit.CheckpointDamagedError, match="ckpt-1"):
        manager.restore(which)
    assert whole_digest(model) == before


def error_of(function: Callable[[], Any]) -> Exception | None:
    try:
        function()
    except Exception as error:  # whatever it is, the caller asserts on it
        return error
    return None


@pytest.mark.parametrize("which", ["latest", 1])
def test_wherever_the_data_is_altered_all_is_restored_or_nothing_is_touched(which: Any, tmp_path: Path) -> None:
    save_some(tmp_path, 1)
    data = tmp_path / "ckpt-1.data-00000-of-00001"
    model = make_model()
    manager = CheckpointManager(make_checkpoint(model), tmp_path, None)
    train(model, 7)
    other = make_model()
    CheckpointManager(make_checkpoint(other), tmp_path, None, read_only=True).restore()
    before, saved = whole_digest(model), whole_digest(other)
    trained = [(variable, variable.numpy()) for variable in all_of(model)]
    errors = []
    for at in range(0, data.stat().st_size, 101):
        flip(data, at)
        error = error_of(lambda: manager.restore(which))
        # No error is fine only where the byte is not needed: ckptkit reads its own object graph, not TensorFlow's.
        assert whole_digest(model) == (saved if error is None else before), at
        if error is None:
            for variable, value in trained:
                variable.assign(value)
        errors.append(error)
        flip(data, at)
    assert {type(error) for error in errors} == {type(None), ckptkit.CheckpointDamagedError}
    assert sum(error is not None for error in errors) > 10


def test_a_restore_into_another_model_leaves_every_variable_alone(tmp_path: Path) -> None:
    save_some(tmp_path, 1)
    model = make_model(outputs=3)
    before = whole_digest(model)
    manager = CheckpointManager(make_checkpoint(model), tmp_path, None)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"\(4, 2\) float32 .*\(4, 3\) float32"):
        manager.restore()
    assert whole_digest(model) == before
