"""The same seeded random life of a run on TensorFlow's manager and on ours, compared after every step.

Two documented differences (DESIGN.md 2, FIELD.md): ours never deletes the checkpoint that the run was resumed from, and
a retry after a failed save saves. All else has to be equal: return values, properties, files, state file, values.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import CheckpointManager
from ckptkit.policies import EverySteps
from ckptkit.preservation import Best, Latest
from ckptkit.snapshot import Held
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core

SEEDS = range(300)
HOUR = 3600.0
START = 1_700_000_000.0


class Clock:
    """What ``time.time()`` returns, moved by the test alone."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


class Side:
    """One of the two: a manager, its objects and its directory."""

    def __init__(self, make: Callable[..., Any], directory: str, **own: Any) -> None:
        self.make = make
        self.own = own
        self.directory = directory
        self.inits = 0
        self.manager: Any = None

    def open(self, arguments: dict[str, Any]) -> None:
        """Make new objects and a new manager, as a script that is started again does."""
        if self.manager is not None and hasattr(self.manager, "close"):
            self.manager.close()
        self.x = tf.Variable([0.0, 0.0])
        self.step = tf.Variable(0, dtype=tf.int64)
        self.number = tf.Variable(7, dtype=tf.int64)  # used as checkpoint_number, not saved
        self.checkpoint = tf.train.Checkpoint(x=self.x, step=self.step)
        arguments = dict(arguments)
        if arguments.get("checkpoint_interval") is not None:
            arguments["step_counter"] = self.step
        if arguments.pop("has_init_fn", False):
            arguments["init_fn"] = self.initialize
        directory = self.directory + os.sep if arguments.pop("trailing_slash", False) else self.directory
        self.manager = self.make(self.checkpoint, directory, **arguments, **self.own)

    def initialize(self) -> None:
        self.inits += 1
        self.x.assign([-1.0, -1.0])

    def wait(self) -> None:
        """Wait for background saves; the other side has none."""
        self.manager.sync()

    def relative(self, path: Any) -> Any:
        """Return a path as it is seen from the directory; None stays None."""
        if path is None:
            return None
        assert path.startswith(self.directory), path
        return path.removeprefix(self.directory).lstrip(os.sep)

    def perform(self, name: str, *values: Any) -> Any:
        """Do one operation and return what a caller would see of it."""
        if name == "save":
            kind, number, check_interval = values
            self.number.assign(number)
            numbers = {"counter": None, "int": number, "numpy": np.int64(number), "variable": self.number}
            of_keras = tf.Variable if IS_LEGACY else keras.Variable
            numbers["tensor"], numbers["keras"] = tf.constant(number, tf.int32), of_keras(number, dtype="int64")
            return self.relative(self.manager.save(numbers[kind], check_interval))
        if name == "train":
            value, steps = values
            self.x.assign([value, value / 2])
            self.step.assign_add(steps)
            return None
        if name == "restore_or_initialize":
            return self.relative(self.manager.restore_or_initialize())
        if name == "plain_restore":
            latest = self.manager.latest_checkpoint
            status = self.checkpoint.restore(latest)
            if latest is not None:
                status.assert_consumed()
            return type(status).__name__
        raise AssertionError(name)

    def values(self, has_counter: bool) -> dict[str, Any]:
        # Asking for the counter makes it, and the first save or restore has to do without that.
        counter = int(self.checkpoint.save_counter) if has_counter else None
        return {"x": self.x.numpy().tolist(), "step": int(self.step), "save_counter": counter, "inits": self.inits}

    def names(self) -> list[str]:
        return [self.relative(path) for path in self.manager.checkpoints]

    def properties(self) -> dict[str, Any]:
        return {
            "latest_checkpoint": self.relative(self.manager.latest_checkpoint),
            "directory": self.relative(self.manager.directory),
            "checkpoint_interval": self.manager.checkpoint_interval,
            "checkpoint": self.manager.checkpoint is self.checkpoint,
            "tf.train.latest_checkpoint": self.relative(tf.train.latest_checkpoint(self.directory)),
        }

    def files(self) -> dict[str, set[str]]:
        """Return the ends of the files' names by checkpoint."""
        files: dict[str, set[str]] = {}
        for file in os.listdir(self.directory) if os.path.isdir(self.directory) else ():
            stem, dot, end = file.rpartition(".")
            if dot and (end == "index" or end.startswith("data-")):
                files.setdefault(stem, set()).add(end)
        return files

    def state(self) -> dict[str, Any]:
        """Return TensorFlow's reading of the state file."""
        state = tf.train.get_checkpoint_state(self.directory)
        if state is None:
            return {"latest": None, "preserved": None, "listed": {}}
        paths = [self.relative(path) for path in state.all_model_checkpoint_paths]
        assert len(paths) == len(state.all_model_checkpoint_timestamps)
        return {
            "latest": self.relative(state.model_checkpoint_path),
            "preserved": state.last_preserved_timestamp,
            "listed": dict(zip(paths, state.all_model_checkpoint_timestamps)),
        }

    def contents(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """Read every variable of some checkpoints, as plain TensorFlow does."""
        return {
            name: {
                key: tf.train.load_variable(os.path.join(self.directory, name), key).tolist()
                for key, _ in tf.train.list_variables(os.path.join(self.directory, name))
                if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
            }
            for name in names
        }


class Pair:
    """Both sides in lockstep, and what ours may have beyond TensorFlow's: the checkpoint it was resumed from."""

    def __init__(self, theirs: Side, ours: Side) -> None:
        self.theirs = theirs
        self.ours = ours
        self.resumed: str | None = None
        self.extra: set[str] = set()  # on our disk only
        self.apart = False
        self.told: list[Any] = []  # the story so far, for the message of a failing comparison

    def open(self, arguments: dict[str, Any]) -> None:
        self.told.append(("open", arguments))
        self.resumed = None
        self.has_counter = False
        self.max_to_keep = arguments["max_to_keep"] or 0  # of a list, [-0:] is all
        self.theirs.open(arguments)
        self.ours.open(arguments)
        self.compare()

    def perform(self, *operation: Any) -> None:
        self.told.append(operation)
        had, listed = set(self.theirs.files()), set(self.ours.names())
        result = self.theirs.perform(*operation)
        assert self.ours.perform(*operation) == result, self.story()
        self.ours.wait()
        self.has_counter |= operation[0] != "train" and result not in (None, "InitializationOnlyStatus")
        if operation[0] == "save" and result is not None:
            gone = had - set(self.theirs.files())
            # Kept for being resumed from; later, in a new manager, for as long as there is room for it on the list, or
            # for good once it has left the list.
            newest = set(self.ours.names()[-self.max_to_keep :])
            may_stay = {name for name in self.extra if name in newest or name not in listed}
            had_extra, self.extra = self.extra, ((self.extra | gone) & {self.resumed} | may_stay) - {result}
            # What TensorFlow deleted long ago may now be old enough to be kept for good; the hours count from there.
            self.apart = any(name in listed and name in self.ours.files() for name in had_extra - self.extra)
        if operation[0] == "restore_or_initialize" and result is not None:
            self.resumed = result
        if not self.apart:
            self.compare()

    def story(self) -> str:
        return "\n" + "\n".join(f"{number:3} {told}" for number, told in enumerate(self.told))

    def compare(self) -> None:
        theirs, ours = self.theirs, self.ours
        assert ours.values(self.has_counter) == theirs.values(self.has_counter), self.story()
        assert ours.properties() == theirs.properties(), self.story()
        files = ours.files()
        assert {name: ends for name, ends in files.items() if name not in self.extra} == theirs.files(), self.story()
        assert self.extra <= set(files), self.story()
        assert [name for name in ours.names() if name not in self.extra] == theirs.names(), self.story()
        their_state, our_state = theirs.state(), ours.state()
        for name in self.extra & set(our_state["listed"]):
            del our_state["listed"][name]
        assert our_state == their_state, self.story()

    def compare_contents(self) -> None:
        names = set(self.theirs.files())
        assert self.ours.contents(names) == self.theirs.contents(names), self.story()


def make_pair(at: str | Path, **ours: Any) -> Pair:
    theirs = Side(tf.train.CheckpointManager, os.path.join(at, "theirs"))
    return Pair(theirs, Side(CheckpointManager, os.path.join(at, "ours"), **ours))


def constructor_arguments(rng: random.Random, name: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "max_to_keep": rng.choice([None, 1, 2, 3, 5]),
        "checkpoint_name": name,
    }
    if rng.random() < 0.4:
        arguments["has_init_fn"] = True
    if rng.random() < 0.1:
        arguments["trailing_slash"] = True
    if rng.random() < 0.5:
        arguments["keep_checkpoint_every_n_hours"] = rng.choice([0, 0.5, 1, 2])
    if rng.random() < 0.4:
        arguments["checkpoint_interval"] = rng.choice([1, 2, 3])
    if rng.random() < 0.2 and "last_checkpoint_step" in inspect.signature(tf.train.CheckpointManager).parameters:
        arguments["last_checkpoint_step"] = rng.choice([0, 2])
    return arguments


def operation(rng: random.Random) -> tuple[Any, ...]:
    name = rng.choices(["save", "train", "restore_or_initialize", "plain_restore"], [10, 5, 1, 1])[0]
    if name == "save":
        kind = rng.choices(["counter", "int", "numpy", "variable", "tensor", "keras"], [10, 2, 1, 2, 1, 1])[0]
        return name, kind, rng.randint(0, 6), rng.random() < 0.8
    if name == "train":
        return name, float(rng.randint(0, 1000)), rng.randint(0, 3)
    return (name,)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.slow
def test_a_random_life_of_a_run_is_the_same_on_both_managers(
    seed: int, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.chdir(tmp_path)
    at = "" if seed % 4 == 0 else str(tmp_path)  # relative directories, too
    ours = {"durable": seed % 10 == 0, "async_save": seed % 5 == 1}
    pair = make_pair(at, **ours)
    name = rng.choice(["ckpt", "ckpt", "model.v2", "ckpt-7"])
    pair.open(constructor_arguments(rng, name))
    for _ in range(rng.randint(6, 18)):
        clock.now += rng.choice([0.0, 0.0, 1.0, 60.0, 0.5 * HOUR, HOUR, 1.5 * HOUR])
        if rng.random() < 0.12:
            pair.open(constructor_arguments(rng, name))
            if rng.random() < 0.7:
                pair.perform("restore_or_initialize")
        else:
            pair.perform(*operation(rng))
        if pair.apart:
            return
    pair.compare_contents()
    pair.ours.manager.close()


# Each hour is where the clock is moved to before an operation; it goes back somewhere.
CLOCK_GOES_BACK: dict[str, tuple[dict[str, Any], list[tuple[float, str]]]] = {
    "while_closed": ({"max_to_keep": 2}, [(0, "open"), (1, "save"), (2, "save"), (-5, "open"), (-4, "save")]),
    "between_saves": ({"max_to_keep": 2}, [(0, "open"), (0, "save"), (-3, "save"), (-2, "save"), (-1, "save")]),
    "before_a_restore": ({"max_to_keep": 2}, [(0, "open"), (1, "save"), (-3, "save"), (-2, "restore_or_initialize")]),
    "before_the_first_save": ({"max_to_keep": 2}, [(0, "open"), (1, "save"), (2, "open"), (-3, "save")]),
    "with_checkpoints_kept_for_their_age": (
        {"max_to_keep": 1, "keep_checkpoint_every_n_hours": 20},
        [(0, "open"), (0, "save"), (21, "save"), (100, "save"), (30, "open"), (31, "save"), (32, "save")],
    ),
}


@pytest.mark.parametrize(("arguments", "story"), CLOCK_GOES_BACK.values(), ids=CLOCK_GOES_BACK)
def test_a_clock_that_goes_back_gives_the_same_on_both_managers(
    arguments: dict[str, Any], story: list[tuple[float, str]], tmp_path: Path, clock: Clock
) -> None:
    pair = make_pair(tmp_path)
    for number, (hour, name) in enumerate(story):
        clock.now = START + hour * HOUR
        if name == "open":
            pair.open(arguments)
        elif name == "save":
            pair.perform("save", "int", number, True)
        else:
            pair.perform(name)


# The surface -------------------------------------------------------------------------------------------------------


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("method", ["__init__", "save", "restore_or_initialize", "sync"])
def test_the_method_takes_what_tensorflows_takes(method: str) -> None:
    theirs = parameters(getattr(tf.train.CheckpointManager, method))
    assert parameters(getattr(CheckpointManager, method))[: len(theirs)] == theirs


def test_every_public_name_of_tensorflows_manager_is_there() -> None:
    assert {n for n in dir(tf.train.CheckpointManager) if not n.startswith("_")} <= set(dir(CheckpointManager))


class Disk:
    """Writes fail while it is full."""

    full = True


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    write = Held.write

    def write_or_fail(*args: Any, **kwargs: Any) -> Any:
        if disk.full:
            raise OSError(28, "No space left on device")
        return write(*args, **kwargs)

    monkeypatch.setattr(Held, "write", write_or_fail)
    return disk


def make_checkpoint() -> tf.train.Checkpoint:
    return tf.train.Checkpoint(x=tf.Variable([1.0, 2.0]), step=tf.Variable(0, dtype=tf.int64))


NUMPY_ARGUMENTS: dict[str, dict[str, Any]] = {
    "max_to_keep": {"max_to_keep": np.int64(2)},
    "keep_checkpoint_every_n_hours": {"max_to_keep": 2, "keep_checkpoint_every_n_hours": np.float32(1.0)},
    "checkpoint_interval": {"max_to_keep": 2, "checkpoint_interval": np.int64(1)},
}


@pytest.mark.parametrize("arguments", NUMPY_ARGUMENTS.values(), ids=NUMPY_ARGUMENTS)
def test_numpy_numbers_are_taken_as_tensorflow_takes_them(
    arguments: dict[str, Any], tmp_path: Path, clock: Clock
) -> None:
    pair = make_pair(tmp_path)
    pair.open(arguments)
    for _ in range(4):
        clock.now += HOUR
        pair.perform("train", 1.0, 1)
        pair.perform("save", "counter", 0, True)


def test_a_path_object_is_taken_as_directory(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path / "run", 1)
    assert manager.save() == str(tmp_path / "run" / "ckpt-1")
    assert manager.directory == str(tmp_path / "run")


def test_a_keras_optimizers_iterations_count_the_steps(tmp_path: Path) -> None:
    optimizer = keras.optimizers.SGD()
    manager = CheckpointManager(
        make_checkpoint(), tmp_path, 1, step_counter=optimizer.iterations, checkpoint_interval=2
    )
    saved = []
    for _ in range(5):
        saved.append(manager.save() is not None)
        optimizer.iterations.assign_add(1)
    assert saved == [True, False, True, False, True]


def test_another_name_in_the_same_directory_is_left_alone(tmp_path: Path) -> None:
    # tensorflow#34234: TensorFlow's second manager deletes the first one's checkpoints. A difference that is meant.
    first = CheckpointManager(make_checkpoint(), tmp_path, 2, checkpoint_name="a")
    first.save()
    first.save()
    second = CheckpointManager(make_checkpoint(), tmp_path, 1, checkpoint_name="b")
    second.save()
    second.save()
    assert {path.name for path in tmp_path.glob("*.index")} == {"a-1.index", "a-2.index", "b-2.index"}


def test_numbers_go_on_after_a_restore_into_new_objects(tmp_path: Path) -> None:
    for _ in range(3):
        manager = CheckpointManager(make_checkpoint(), tmp_path, 5)
        manager.restore_or_initialize()
        manager.save()
    assert sorted(path.name for path in tmp_path.glob("*.index")) == ["ckpt-1.index", "ckpt-2.index", "ckpt-3.index"]


def test_the_resumed_checkpoint_outlives_max_to_keep(tmp_path: Path) -> None:
    CheckpointManager(make_checkpoint(), tmp_path, 1).save()
    manager = CheckpointManager(make_checkpoint(), tmp_path, 1)
    manager.restore_or_initialize()
    manager.save(2)
    manager.save(3)
    assert [os.path.basename(path) for path in manager.checkpoints] == ["ckpt-1", "ckpt-3"]


def test_write_callbacks_are_called_with_the_path_as_tensorflow_does(tmp_path: Path) -> None:
    told: dict[str, list[Any]] = {"theirs": [], "ours": []}
    for name, make in (("theirs", tf.train.CheckpointManager), ("ours", CheckpointManager)):
        manager = make(make_checkpoint(), str(tmp_path / name), 2)
        callbacks = [told[name].append, functools.partial(told[name].append, "no argument")]
        manager.save(options=tf.train.CheckpointOptions(experimental_write_callbacks=callbacks))
    assert [str(t).replace("theirs", "ours") for t in told["theirs"]] == told["ours"] != []


def test_the_users_options_are_not_changed(tmp_path: Path) -> None:
    options = tf.train.CheckpointOptions(experimental_write_callbacks=[], experimental_io_device="/job:localhost")
    CheckpointManager(make_checkpoint(), tmp_path, 1).save(options=options)
    assert options.experimental_write_callbacks == []


def test_enable_async_returns_before_the_files_are_there(tmp_path: Path, gate: threading.Event) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 1)
    manager.save(options=tf.train.CheckpointOptions(enable_async=True))
    assert manager.latest_checkpoint is None
    gate.set()
    manager.sync()
    assert manager.latest_checkpoint == str(tmp_path / "ckpt-1")


# Errors ------------------------------------------------------------------------------------------------------------


def test_graph_mode_is_refused_when_the_manager_is_made(tmp_path: Path) -> None:
    with (
        tf.Graph().as_default(),
        pytest.raises(ValueError, match="works in eager mode only; graph mode of TensorFlow 1"),
    ):
        CheckpointManager(tf.train.Checkpoint(), tmp_path, 1)


def test_graph_mode_is_refused_when_saving(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 1)
    with tf.Graph().as_default(), pytest.raises(ValueError, match="saves in eager mode only: call save\\(\\) outside"):
        manager.save()
    assert list(tmp_path.iterdir()) == []


def test_saving_inside_a_tf_function_is_refused(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 1)
    with pytest.raises(ValueError, match=r"call save\(\) outside of tf.function"):
        tf.function(lambda: manager.save(), autograph=False)()


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "max_to_keep_zero": ({"max_to_keep": 0}, ValueError, "Expected a positive integer or `None` for `max_to_keep`"),
    "checkpoint_name_empty": ({"checkpoint_name": ""}, ValueError, "checkpoint_name must be a plain file name, got ''"),
    "checkpoint_name_a_path": ({"checkpoint_name": "a/b"}, ValueError, "must be a plain file name, got 'a/b'"),
    "on_save_error": ({"on_save_error": "ignore"}, ValueError, "must be 'raise' or 'warn', got 'ignore'"),
    "save_policy": ({"save_policy": Latest(1)}, TypeError, r"must come from ckptkit.policies, got Latest\(n=1\)"),
    "preservation_policy": (
        {"preservation_policy": EverySteps(2)},
        TypeError,
        r"must come from ckptkit.preservation, got EverySteps\(n=2\)",
    ),
    "checkpoint_a_model": (
        {"checkpoint": tf.Module()},
        TypeError,
        r"must be a tf.train.Checkpoint, got Module. Wrap the objects: tf.train.Checkpoint\(model=model",
    ),
    "checkpoint_none": ({"checkpoint": None}, TypeError, "must be a tf.train.Checkpoint, got NoneType"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_argument_is_refused_before_anything_is_written(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        CheckpointManager(**{"checkpoint": make_checkpoint(), "directory": tmp_path, "max_to_keep": 1, **arguments})
    assert list(tmp_path.iterdir()) == []


SAME_ERRORS: dict[str, dict[str, Any]] = {
    "max_to_keep_zero": {"max_to_keep": 0},
    "max_to_keep_negative": {"max_to_keep": -3},
    "no_step_counter": {"max_to_keep": 1, "checkpoint_interval": 5},
    "both": {"max_to_keep": 0, "checkpoint_interval": 5},
}


@pytest.mark.parametrize("arguments", SAME_ERRORS.values(), ids=SAME_ERRORS)
def test_the_error_is_tensorflows_word_for_word(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"should be passed|Expected a positive") as theirs:
        tf.train.CheckpointManager(make_checkpoint(), tmp_path, **arguments)
    with pytest.raises(ValueError, match=f"^{re.escape(str(theirs.value))}$"):
        CheckpointManager(make_checkpoint(), tmp_path, **arguments)


def test_a_checkpoint_interval_without_step_counter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`step_counter` should be passed if `checkpoint_interval` is not None"):
        CheckpointManager(make_checkpoint(), tmp_path, 1, checkpoint_interval=5)


def test_a_sharding_callback_is_refused(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 1)
    by_size = tf.train.experimental.MaxShardSizePolicy(max_shard_size=1000)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=by_size)
    with pytest.raises(ValueError, match="experimental_sharding_callback is not supported: ckptkit lays out shards"):
        manager.save(options=options)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_manager_refuses_to_save(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 1, read_only=True)
    with pytest.raises(ckptkit.ReadOnlyError, match=r"cannot save to .*: this manager was opened with read_only=True"):
        manager.save()
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_manager_sees_what_is_saved_after_it_was_made(tmp_path: Path) -> None:
    looking = CheckpointManager(make_checkpoint(), tmp_path, 1, read_only=True)
    assert looking.latest_checkpoint is None
    CheckpointManager(make_checkpoint(), tmp_path, 1).save()
    assert looking.latest_checkpoint == str(tmp_path / "ckpt-1")


def test_restoring_from_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path / "none", 1)
    with pytest.raises(ckptkit.CheckpointNotFoundError, match=r"no checkpoint in .*/none"):
        manager.restore()


MISSING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "step": (lambda directory: 7, "no checkpoint 7 in .*; steps there, newest first: 2, 1"),
    "prefix": (
        lambda directory: directory / "ckpt-9",
        "no checkpoint .*ckpt-9.* in .*; steps there, newest first: 2, 1",
    ),
    "elsewhere": (lambda directory: "/nowhere/ckpt-1", "no checkpoint '/nowhere/ckpt-1' in .*; steps there"),
}


@pytest.mark.parametrize(("which", "message"), MISSING.values(), ids=MISSING)
def test_a_missing_checkpoint_is_an_error_that_lists_what_is_there(
    which: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3)
    manager.save()
    manager.save()
    with pytest.raises(ckptkit.CheckpointNotFoundError, match=message):
        manager.restore(which(tmp_path))


def test_asking_for_a_step_in_an_empty_directory_says_that_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ckptkit.CheckpointNotFoundError, match="steps there, newest first: none"):
        CheckpointManager(make_checkpoint(), tmp_path, 3).restore(1)


def test_the_best_without_a_best_policy_is_an_error(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3, preservation_policy=Latest(2))
    with pytest.raises(ValueError, match=r"not defined: pass preservation_policy=Best\(monitor, mode\)"):
        manager.best_checkpoint  # noqa: B018


def test_restoring_the_best_where_none_carries_the_metric_is_an_error(tmp_path: Path) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3, preservation_policy=Best("loss", "min"))
    manager.save(metrics={"accuracy": 0.5})
    with pytest.raises(ckptkit.CheckpointNotFoundError, match=r"no checkpoint in .* carries the monitored metric"):
        manager.restore("best")


def test_a_failed_save_says_which_checkpoint_stands(tmp_path: Path, disk: Disk) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3)
    disk.full = False
    manager.save()
    disk.full = True
    with pytest.raises(
        ckptkit.CheckpointSaveError, match=r"(?s)save of ckpt-2 to .* OSError .*No space.*ckpt-1 is the newest"
    ):
        manager.save()
    assert [path.name for path in tmp_path.glob("*.index")] == ["ckpt-1.index"]


def test_a_retry_after_a_failed_save_at_the_same_step_saves(tmp_path: Path, disk: Disk) -> None:
    # A documented difference: TensorFlow's manager returns None here.
    checkpoint = make_checkpoint()
    manager = CheckpointManager(checkpoint, tmp_path, 3, step_counter=checkpoint.step, checkpoint_interval=1)
    with pytest.raises(ckptkit.CheckpointSaveError, match="There is no complete checkpoint yet"):
        manager.save()
    disk.full = False
    assert manager.save() == str(tmp_path / "ckpt-2")


@pytest.mark.parametrize("method", ["save", "maybe_save", "wait_until_finished", "close"])
def test_a_failed_background_save_surfaces_once(method: str, tmp_path: Path, disk: Disk) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3, async_save=True)
    manager.save()
    manager._saver.writer.wait()
    arguments = [1] if method == "maybe_save" else []
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-1 to .* failed: OSError"):
        getattr(manager, method)(*arguments)
    disk.full = False
    getattr(manager, method)(*arguments)
    manager.close()


def test_a_failed_background_save_is_only_logged_if_asked_for(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3, async_save=True, on_save_error="warn")
    manager.save()
    manager.wait_until_finished()
    assert [(r.levelno, "save of ckpt-1" in r.message) for r in caplog.records] == [(logging.WARNING, True)]


def test_a_failed_save_does_not_hide_the_error_of_the_training_code(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3, async_save=True)
    with pytest.raises(ZeroDivisionError, match="training"), manager:  # noqa: PT012
        manager.save()
        raise ZeroDivisionError("training")
    assert "save of ckpt-1" in caplog.text


def test_leaving_the_context_raises_the_error_of_a_failed_save(tmp_path: Path, disk: Disk) -> None:
    manager = CheckpointManager(make_checkpoint(), tmp_path, 3, async_save=True)
    with pytest.raises(ckptkit.CheckpointSaveError, match="save of ckpt-1"), manager:
        manager.save()
