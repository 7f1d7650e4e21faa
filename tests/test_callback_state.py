"""CallbackStates: what other callbacks remember goes on after a resume, as if the fit had not been broken off."""

import contextlib
import os
import pathlib
import random
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.backend.common import global_state

import ckptkit
from ckptkit import finished_fits
from ckptkit.callback_state import _ATTRIBUTES, CallbackStates
from ckptkit.run_state import pack, unpack
from ckptkit.which_keras import IS_LEGACY, keras
from tests.test_callbacks import BreakOff, BreaksOff

pytestmark = pytest.mark.core
of_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 has no such thing, or does it otherwise")

EarlyStopping, ReduceLROnPlateau = keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau
CSVLogger, ModelCheckpoint = keras.callbacks.CSVLogger, keras.callbacks.ModelCheckpoint


@contextlib.contextmanager
def closed_logs():
    """Close the files of all CSVLoggers at the end, as the end of a process does."""
    loggers, begin = [], CSVLogger.on_train_begin

    def begin_and_note(self, logs=None):
        loggers.append(self)
        begin(self, logs)

    with mock.patch.object(CSVLogger, "on_train_begin", begin_and_note):
        yield
    for logger in loggers:
        logger.csv_file.close()


@pytest.fixture(autouse=True)
def as_before():
    """Leave random numbers, and what is known of fits that are over, as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    kept = {name: global_state.get_global_attribute(name) for name in ("global_seed_generator", "global_random_seed")}
    finished_fits.forget()
    with closed_logs():
        yield
    finished_fits.forget()
    random.setstate(python)
    np.random.set_state(numpy)
    for name, value in kept.items():
        global_state.set_global_attribute(name, value)


def stored(states):
    """Return states as a checkpoint gives them back."""
    return unpack(pack(states, "states"), "states")


class FakeModel:
    """As much of a model as the callbacks look at."""

    def __init__(self, optimizer=None):
        self.optimizer = optimizer
        self.stop_training = False
        self.weights = [np.zeros((2, 2), "float32"), np.zeros(2, "float32")]

    def get_weights(self):
        return [np.copy(weight) for weight in self.weights]

    def set_weights(self, weights):
        self.weights = [np.copy(weight) for weight in weights]


def begun(callback, model):
    callback.set_model(model)
    callback.on_train_begin()
    return callback


# Each of Keras' callbacks --------------------------------------------------------------------------------------------

# Where nothing is lost: no state, or one that is put back elsewhere, or that belongs to another way of resuming.
STATELESS = {
    "BackupAndRestore",
    "Callback",
    "CallbackList",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ProgbarLogger",
    "RemoteMonitor",
    "TerminateOnNaN",
}
# Set up lazily, once an object; or open files, clocks and what was given.
NOT_STATE = {"_model", "_params", "model", "params", "monitor_op", "min_delta", "csv_file", "writer", "append_header"}
NOT_STATE |= {"_writers", "_summary_module", "_prev_summary_state", "_epoch_start_time", "_batch_start_time"}
NOT_STATE |= {"_should_write_train_graph"}
MAKE = {
    "EarlyStopping": lambda path: EarlyStopping("loss", patience=1, min_delta=9, restore_best_weights=True),
    "ReduceLROnPlateau": lambda path: ReduceLROnPlateau("loss", patience=1, min_delta=9, cooldown=2),
    "ModelCheckpoint": lambda path: ModelCheckpoint(
        f"{path}/m.weights.h5", "loss", save_best_only=True, save_weights_only=True, save_freq=4
    ),
    "SwapEMAWeights": lambda path: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    "TensorBoard": lambda path: silent_tensorboard(path),
    "CSVLogger": lambda path: CSVLogger(f"{path}/log.csv"),
}


def silent_tensorboard(path, **options):
    """Return a TensorBoard callback that writes to a mock: the package tensorboard is not installed."""
    callback = keras.callbacks.TensorBoard(str(path), write_graph=False, write_steps_per_second=True, **options)
    callback._summary_module = mock.MagicMock()
    return callback


def plain_attributes(callback):
    return {name: repr(value) for name, value in vars(callback).items() if name not in NOT_STATE}


@of_keras_3
def test_every_callback_of_keras_is_known_or_needs_no_help():
    names = {name for name, value in vars(keras.callbacks).items() if isinstance(value, type)}
    known = {kind.__name__ for kind in _ATTRIBUTES if kind in vars(keras.callbacks).values()} | {"CSVLogger"}
    assert names - known - STATELESS == set()
    assert known | STATELESS <= names
    assert set(MAKE) == known - {"OrbaxCheckpoint"}, "its package is not installed"


@of_keras_3
@pytest.mark.skipif(keras.__version__ < "3.13", reason="Keras has it since 3.13")
def test_orbax_checkpoint_is_known():
    assert issubclass(keras.callbacks.OrbaxCheckpoint, tuple(_ATTRIBUTES))


@of_keras_3
@pytest.mark.parametrize("name", MAKE)
@pytest.mark.slow
def test_the_attributes_we_keep_are_all_that_a_fit_changes_in_a_callback_of_keras(tmp_path, name):
    kept = {"keys"} if name == "CSVLogger" else set(_ATTRIBUTES[getattr(keras.callbacks, name)])
    callback, seen = MAKE[name](tmp_path), []

    class Looks(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(plain_attributes(callback))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(plain_attributes(callback))

    fit(model(use_ema=True), callback, Looks(), epochs=3, validation_data=(X, Y))
    changed = {name for one in seen for name in one.keys() | seen[0].keys() if one.get(name) != seen[0].get(name)}
    assert changed <= kept, "there is state that we do not keep"
    assert kept <= vars(callback).keys(), "what we keep is there"


@of_keras_3
@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau", "TensorBoard"])
def test_on_train_begin_resets_what_we_keep_which_is_why_it_is_put_back_after(tmp_path, name):
    callback, sentinel = MAKE[name](tmp_path), object()
    names = set(_ATTRIBUTES[getattr(keras.callbacks, name)]) - {"_global_test_batch"}
    names -= {"best"} if keras.__version__ < "3.14" else set()  # made anew when it is first needed
    for each in names:
        setattr(callback, each, sentinel)
    callback.set_model(FakeModel())
    callback.on_train_begin()
    assert all(getattr(callback, each) is not sentinel for each in names)


# EarlyStopping and ReduceLROnPlateau ---------------------------------------------------------------------------------

OF_EARLY_STOPPING = ("wait", "stopped_epoch", "best", "best_epoch", "min_delta", "monitor_op")
OF_REDUCE_LR = ("wait", "cooldown_counter", "best", "min_delta", "monitor_op")


def run_both(values, *, cut=None, mode="auto", min_delta=0.1, patience=2, cooldown=1):
    """Show values to an EarlyStopping and a ReduceLROnPlateau, replaced by fresh ones before the epoch ``cut``."""
    monitor = "loss" if mode != "max" else "score"
    optimizer = keras.optimizers.SGD(1.0)
    fake = FakeModel(optimizer)

    def both():
        early = EarlyStopping(monitor, min_delta, patience, mode=mode, restore_best_weights=True)
        reduce_lr = ReduceLROnPlateau(
            monitor, factor=0.5, patience=patience, mode=mode, min_delta=min_delta, cooldown=cooldown
        )
        return [begun(early, fake), begun(reduce_lr, fake)]

    pair = both()
    for epoch, value in enumerate(values):
        if epoch == cut:
            states = stored(CallbackStates(pair).take())
            pair = both()
            CallbackStates(pair).put_back(states)
        fake.weights = [np.full((2, 2), epoch, "float32"), np.full(2, epoch, "float32")]
        for callback in pair:
            callback.on_epoch_end(epoch, {monitor: value})
        if fake.stop_training:
            break
    early, reduce_lr = pair
    facts = [getattr(early, name) for name in OF_EARLY_STOPPING] + [getattr(reduce_lr, name) for name in OF_REDUCE_LR]
    best = [weight.tolist() for weight in map(np.asarray, early.best_weights)]
    early.on_train_end()
    restored = [weight.tolist() for weight in fake.weights]
    return facts, best, restored, fake.stop_training, float(optimizer.learning_rate.numpy())


@of_keras_3
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_pair_that_was_replaced_by_fresh_ones_decides_as_one_that_was_not(data):
    values = data.draw(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
    options = {
        "mode": data.draw(st.sampled_from(["auto", "min", "max"])),
        "min_delta": data.draw(st.sampled_from([0.0, 0.3])),
        "patience": data.draw(st.integers(1, 3)),
        "cooldown": data.draw(st.integers(0, 2)),
    }
    cut = data.draw(st.integers(1, len(values) - 1))
    assert run_both(values, cut=cut, **options) == run_both(values, **options)


@pytest.mark.parametrize("mode", ["auto", "min", "max"])
@pytest.mark.parametrize("as_type", [float, np.float32, tf.constant, np.array], ids=lambda kind: kind.__name__)
def test_the_best_value_may_be_a_number_an_array_or_a_tensor(mode, as_type):
    values = [as_type(value) for value in (0.5, 0.25, 0.75)]
    (*whole,), (*cut,) = run_both(values, mode=mode), run_both(values, mode=mode, cut=2)
    assert repr(whole[1:]) == repr(cut[1:])
    assert float(cut[0][2]) == float(whole[0][2]) == (0.75 if mode == "max" else 0.25)


def test_the_comparison_of_a_used_object_is_not_set_up_twice():
    early = begun(EarlyStopping("loss", min_delta=0.1), FakeModel())
    early.on_epoch_end(0, {"loss": 1.0})
    CallbackStates([early]).put_back(stored(CallbackStates([early]).take()))
    early.on_epoch_end(1, {"loss": 0.95})
    assert (early.min_delta, early.best) == (-0.1, 1.0), "an improvement of 0.05 is none"


def test_best_weights_are_converted_once_as_long_as_they_are_the_best():
    fake = FakeModel()
    early = begun(EarlyStopping("loss", patience=9, restore_best_weights=True), fake)
    states = CallbackStates([early])
    taken = []
    for epoch, loss in enumerate([3.0, 2.0, 2.5, 2.5, 1.0]):
        fake.weights = [np.full((2, 2), epoch, "float32"), np.full(2, epoch, "float32")]
        early.on_epoch_end(epoch, {"loss": loss})
        taken.append(states.take()["EarlyStopping"]["best_weights"])
    assert taken[1][0] is taken[2][0] is taken[3][0]
    assert taken[1][1] is taken[3][1]
    assert [[float(weight.numpy().max()) for weight in weights] for weights in taken] == [
        [0.0] * 2,
        [1.0] * 2,
        [1.0] * 2,
        [1.0] * 2,
        [4.0] * 2,
    ]


def test_best_weights_that_were_taken_are_no_view_of_those_in_the_callback():
    early = begun(EarlyStopping("loss", restore_best_weights=True), FakeModel())
    early.best_weights = [np.zeros(4096, "float32")]
    taken = CallbackStates([early]).take()["EarlyStopping"]["best_weights"]
    early.best_weights[0] += 1
    assert not taken[0].numpy().any()


def test_what_take_returned_does_not_change_with_the_callback():
    fake = FakeModel()
    early = begun(EarlyStopping("loss", patience=9), fake)
    states = CallbackStates([early])
    early.on_epoch_end(0, {"loss": 1.0})
    before = dict((first := states.take())["EarlyStopping"])
    early.on_epoch_end(1, {"loss": 2.0})
    assert first["EarlyStopping"] == before
    assert states.take()["EarlyStopping"]["wait"] == 1


@of_keras_3
def test_a_number_that_a_callback_keeps_as_a_tensor_comes_back_as_a_number(tmp_path):
    tensorboard = begun(silent_tensorboard(tmp_path), FakeModel())
    tensorboard._previous_epoch_iterations = tf.constant(3.0)
    states = CallbackStates([tensorboard])
    states.put_back(stored(states.take()))
    assert repr(tensorboard._previous_epoch_iterations) == repr(np.float32(3))


@of_keras_3
def test_attributes_that_an_older_version_did_not_save_stay_as_they_are():
    early = begun(EarlyStopping("loss"), FakeModel())
    CallbackStates([early]).put_back({"EarlyStopping": {"wait": 3, "of a newer version": 1}})
    assert (early.wait, early.best, hasattr(early, "of a newer version")) == (3, None, False)


# Names and protocol --------------------------------------------------------------------------------------------------


class Mine(keras.callbacks.Callback):
    def __init__(self, value=None):
        super().__init__()
        self.value = value

    def get_state(self):
        return self.value

    def set_state(self, state):
        self.value = state


class MyStopping(EarlyStopping):
    """A callback of Keras that keeps more than Keras knows, in a way of its own."""

    def get_state(self):
        return ["mine", self.wait]

    def set_state(self, state):
        self.got = state


class OnlyHalf(keras.callbacks.Callback):
    def get_state(self):
        raise AssertionError("it has no set_state, and is not asked")


@pytest.mark.parametrize(
    "state",
    [None, 3, [1, (2, "x")], {"a": {1: 2}}, {}, {"best_weights": None}, {"best_weights": []}, {"best_weights": (1, 2)}],
    ids=str,
)
def test_a_callback_of_ones_own_gets_back_what_it_gave(state):
    other = Mine("fresh")
    CallbackStates([other]).put_back(stored(CallbackStates([Mine(state)]).take()))
    assert other.value == state


def test_the_protocol_comes_before_what_is_known_of_keras_callbacks():
    mine = begun(MyStopping("loss"), FakeModel())
    mine.wait = 2
    states = stored(CallbackStates([mine]).take())
    assert states == {"MyStopping": ["mine", 2]}
    other = begun(MyStopping("loss"), FakeModel())
    CallbackStates([other]).put_back(states)
    assert (other.got, other.wait) == (["mine", 2], 0)


def test_a_subclass_of_a_callback_of_keras_keeps_what_that_keeps_under_its_own_name():
    class Patient(EarlyStopping):
        pass

    early = begun(Patient("loss"), FakeModel())
    early.wait = 2
    assert CallbackStates([early]).take()["Patient"]["wait"] == 2


def test_callbacks_of_one_class_are_told_apart_by_their_order():
    one, two, three = Mine(1), Mine(2), Mine(3)
    states = CallbackStates([one, keras.callbacks.History(), two, three])
    assert states.take() == {"Mine": 1, "Mine#2": 2, "Mine#3": 3}
    states.put_back({"Mine": "a", "Mine#2": "b", "Mine#3": "c"})
    assert (one.value, two.value, three.value) == ("a", "b", "c")


def test_classes_of_one_name_are_told_apart_by_their_order():
    others = [type("EarlyStopping", (Mine,), {})(7), begun(EarlyStopping("loss"), FakeModel())]
    states = CallbackStates(others).take()
    assert states["EarlyStopping"] == 7
    assert states["EarlyStopping#2"]["wait"] == 0


def test_callbacks_without_state_are_left_alone():
    states = CallbackStates([OnlyHalf(), keras.callbacks.History(), keras.callbacks.LambdaCallback(), object()])
    assert states.take() == {}
    states.put_back({})


def test_a_state_without_a_callback_and_a_callback_without_a_state_are_logged(caplog):
    mine = Mine(5)
    CallbackStates([mine]).put_back({"EarlyStopping": {}, "Mine#2": 3})
    assert [record.getMessage() for record in caplog.records] == [
        "the checkpoint holds the state of a callback EarlyStopping, which this fit does not have.",
        "the checkpoint holds the state of a callback Mine#2, which this fit does not have.",
        "the checkpoint holds no state of the callback Mine; it starts afresh.",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert mine.value == 5


def test_nothing_is_logged_where_both_sides_fit(caplog):
    states = CallbackStates([Mine(1), Mine(2)])
    states.put_back(states.take())
    assert caplog.records == []


def test_an_array_of_ones_own_that_is_changed_in_place_is_taken_as_it_is():
    mine = Mine({"best_weights": [np.zeros(2)]})
    states = CallbackStates([mine])
    states.take()
    mine.value["best_weights"][0] += 1
    assert stored(states.take())["Mine"]["best_weights"][0].tolist() == [1, 1]


def test_the_best_weights_of_a_fit_that_is_over_are_not_kept_and_what_is_called_so_by_others_is():
    stop = keras.callbacks.EarlyStopping()
    stop.on_train_begin()
    stop.best_weights = [np.ones(2, "float32")]
    states = CallbackStates([stop, Mine({"best_weights": [1]})])
    over = states.without_weights(states.take())
    assert over["EarlyStopping"]["best_weights"] is None
    assert over["EarlyStopping"]["wait"] == 0
    assert over["Mine"] == {"best_weights": [1]}


# CSVLogger -----------------------------------------------------------------------------------------------------------


class Logs:
    """Writes epochs to a CSVLogger as a fit does."""

    def __init__(self, path, **options):
        self.logger = CSVLogger(path, **options)
        self.states = CallbackStates([self.logger])
        self.logger.on_train_begin()

    def write(self, *epochs):
        for epoch in epochs:
            logs = {"loss": 1 / (epoch + 3), "name": f"a;b,{epoch}", "many": np.array([epoch, 2.5])}
            self.logger.on_epoch_end(epoch, logs)
        return self

    def take(self):
        return stored(self.states.take())

    def put_back(self, states):
        self.states.put_back(states)
        return self

    def end(self):
        self.logger.on_train_end()
        return pathlib.Path(self.logger.filename).read_bytes()


OPTIONS = pytest.mark.parametrize(
    "options",
    [{}, {"append": True}, {"separator": ";"}, {"separator": "\t", "append": True}],
    ids=["new", "append", "semicolon", "tab, append"],
)


@OPTIONS
@pytest.mark.parametrize("saved_after", range(4))
@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_log_that_was_broken_off_ends_with_the_bytes_of_one_that_was_not(
    tmp_path, options, saved_after, killed_after
):
    expected = Logs(tmp_path / "whole.csv", **options).write(*range(5)).end()
    assert expected.count(b"epoch") == 1
    broken = Logs(tmp_path / "log.csv", **options).write(*range(saved_after))
    states = broken.take()
    broken.write(*range(saved_after, saved_after + killed_after))
    resumed = Logs(tmp_path / "log.csv", **options).put_back(states).write(*range(saved_after, 5))
    assert resumed.end() == expected


@OPTIONS
def test_a_log_that_is_put_back_twice_is_no_longer_than_one_that_is_put_back_once(tmp_path, options):
    expected = Logs(tmp_path / "whole.csv", **options).write(*range(4)).end()
    states = Logs(tmp_path / "log.csv", **options).write(0, 1).take()
    resumed = Logs(tmp_path / "log.csv", **options).put_back(states).put_back(states).write(2, 3)
    assert resumed.end() == expected
    assert resumed.logger.append is options.get("append", False), "it is as its owner made it"


@pytest.mark.parametrize("there", [b"", b"epoch,old\r\n0,1\r\n", b"no end of line"], ids=["empty", "a log", "a line"])
@pytest.mark.parametrize("saved_after", [0, 2])
def test_lines_from_before_the_run_stay_where_they_are_appended_to(tmp_path, there, saved_after):
    for name in ("whole.csv", "log.csv"):
        (tmp_path / name).write_bytes(there)
    expected = Logs(tmp_path / "whole.csv", append=True).write(*range(4)).end()
    assert expected.startswith(there)
    broken = Logs(tmp_path / "log.csv", append=True).write(*range(saved_after))
    states = broken.take()
    broken.write(saved_after)
    resumed = Logs(tmp_path / "log.csv", append=True).put_back(states).write(*range(saved_after, 4))
    assert resumed.end() == expected


def test_a_log_is_written_anew_where_its_directory_has_moved(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    states = Logs(tmp_path / "one" / "log.csv").write(0, 1).take()
    moved = Logs(pathlib.Path(tmp_path / "two" / "log.csv"), append=True).put_back(states).write(2)
    assert moved.end() == Logs(tmp_path / "whole.csv").write(0, 1, 2).end()


def test_a_log_that_was_deleted_comes_back(tmp_path):
    states = Logs(tmp_path / "log.csv", append=True).write(0, 1).take()
    os.remove(tmp_path / "log.csv")
    resumed = Logs(tmp_path / "log.csv", append=True).put_back(states).write(2)
    assert resumed.end() == Logs(tmp_path / "whole.csv").write(0, 1, 2).end()


def test_the_columns_are_those_of_the_first_epoch_after_a_resume_as_well(tmp_path):
    def write(logger, *epochs):
        for epoch in epochs:
            logger.on_epoch_end(epoch, {"loss": epoch, "val_loss": 1} if epoch != 2 else {"loss": 2, "other": 3})

    first = CSVLogger(tmp_path / "log.csv")
    first.on_train_begin()
    write(first, 0, 1)
    states = stored(CallbackStates([first]).take())
    second = CSVLogger(tmp_path / "log.csv")
    second.on_train_begin()
    CallbackStates([second]).put_back(states)
    write(second, 2, 3)
    second.on_train_end()
    assert (tmp_path / "log.csv").read_text().split() == ["epoch,loss,val_loss", "0,0,1", "1,1,1", "2,2,NA", "3,3,1"]


def test_the_state_of_a_log_is_taken_before_and_after_training(tmp_path):
    logger = CSVLogger(tmp_path / "log.csv")
    assert CallbackStates([logger]).take() == {"CSVLogger": {"text": b"", "keys": None}}
    logs = Logs(tmp_path / "log.csv").write(0)
    logs.end()
    assert logs.take()["CSVLogger"]["text"].count(b"\n") == 2


@of_keras_3
def test_a_log_whose_logger_is_not_in_this_fit_is_put_back_or_left_alone(tmp_path):
    states = Logs(tmp_path / "log.csv").write(0).take()
    CallbackStates([CSVLogger(tmp_path / "log.csv")]).put_back(states)


# In model.fit --------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).random((24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
STEPS = 6  # batches an epoch, of 4
POLICY = ckptkit.policies.EverySteps(4) | ckptkit.policies.EveryEpochs()


class Scores(keras.callbacks.Callback):
    """Puts numbers into the logs that a test has chosen."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.scores[epoch]


def model(**options):
    keras.utils.set_random_seed(3)
    made = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(0.1, **options), "mse", jit_compile=False)
    return made


def fit(made, *extra, epochs=4, **options):
    return made.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, shuffle=False, callbacks=list(extra), **options)


def checkpoints(path, **options):
    return ckptkit.TrainingCheckpoint(path, **{"save_freq": POLICY, "async_save": False, "durable": False, **options})


def broken_off(path, after_steps, *extra, made=None, epochs=4, **options):
    with pytest.raises(BreakOff):
        fit(made or model(), checkpoints(path), *extra, BreaksOff(after_steps), epochs=epochs, **options)
    finished_fits.forget()


def everyone(path):
    """Return one of each callback with state, all of them with something to do within four epochs."""
    return [
        Scores(3.0, 4.0, 3.5, 1.0),
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        EarlyStopping("score", patience=9, min_delta=0.1, restore_best_weights=True, mode="min"),
        ReduceLROnPlateau("score", factor=0.5, patience=2, mode="min"),
        ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=9, cooldown=1),
        ModelCheckpoint(f"{path}/best.weights.h5", "score", save_best_only=True, save_weights_only=True, mode="min"),
        ModelCheckpoint(f"{path}/often.weights.h5", save_weights_only=True, save_freq=5),
        CSVLogger(f"{path}/log.csv"),
        silent_tensorboard(path, update_freq=1),
    ]


def facts_of(path, others, history, made):
    """Return all there is to compare after a fit."""
    states = stored(CallbackStates(others).take())
    (iterations,) = [
        state.pop("_previous_epoch_iterations") for state in states.values() if "_global_train_batch" in state
    ]
    best = [np.asarray(weight).tolist() for weight in states["EarlyStopping"].pop("best_weights")]
    weights = [variable.numpy().tolist() for variable in [*made.variables, *made.optimizer.variables]]
    files = {}
    for name in ("best", "often"):
        saved = model(use_ema=True)
        saved.optimizer.build(saved.trainable_variables)
        saved.load_weights(f"{path}/{name}.weights.h5")
        files[name] = [weight.tolist() for weight in saved.get_weights()]
    csv = (pathlib.Path(path) / "log.csv").read_bytes()
    return {
        "history": (history.history, history.epoch),
        "states": states,
        "iterations": float(iterations),
        "best": best,
        "weights": weights,
        "files": files,
        "csv": csv,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    finished_fits.forget()
    made = model(use_ema=True)
    history = fit(made, checkpoints(path / "run"), *(others := everyone(path)))
    return facts_of(path, others, history, made)


@of_keras_3
@pytest.mark.parametrize("after_steps", [5, STEPS + 2, 2 * STEPS + 5, 3 * STEPS + 5])
@pytest.mark.slow
def test_a_fit_broken_off_anywhere_ends_with_the_same_states_files_and_history(tmp_path, undisturbed, after_steps):
    broken_off(tmp_path / "run", after_steps, *everyone(tmp_path), made=model(use_ema=True))
    made = model(use_ema=True)
    history = fit(made, callback := checkpoints(tmp_path / "run"), *(others := everyone(tmp_path)))
    assert callback.resumed_from is not None
    facts = facts_of(tmp_path, others, history, made)
    for name, expected in undisturbed.items():
        assert facts[name] == expected, name


@of_keras_3
def test_the_undisturbed_fit_shows_every_callback_at_work(undisturbed):
    states = undisturbed["states"]
    assert states["EarlyStopping"]["best_epoch"] == 3
    assert states["ReduceLROnPlateau"]["best"] == 1.0
    assert undisturbed["history"][0]["learning_rate"][0] > undisturbed["history"][0]["learning_rate"][-1]
    assert states["TensorBoard"]["_global_train_batch"] == 4 * STEPS
    assert states["ModelCheckpoint#2"]["_batches_seen_since_last_saving"] == 4 * STEPS % 5
    assert undisturbed["csv"].count(b"\n") == 5


@pytest.mark.parametrize("append", [False, True], ids=["new", "append"])
def test_the_log_of_a_finished_fit_that_is_started_again_stays_whole(tmp_path, append):
    fit(model(), checkpoints(tmp_path / "run"), CSVLogger(tmp_path / "log.csv", append=append))
    before = (tmp_path / "log.csv").read_bytes()
    finished_fits.forget()
    fit(model(), checkpoints(tmp_path / "run"), CSVLogger(tmp_path / "log.csv", append=append))
    assert (tmp_path / "log.csv").read_bytes() == before


def test_a_log_that_two_fits_of_a_script_append_to_is_whole_after_a_kill_in_the_second(tmp_path):
    def logger(name):
        return CSVLogger(tmp_path / name, append=True)

    made = model()
    for _ in range(2):
        fit(made, checkpoints(tmp_path / "whole"), logger("whole.csv"), epochs=2)
    finished_fits.forget()
    made = model()
    fit(made, checkpoints(tmp_path / "run"), logger("log.csv"), epochs=2)
    with pytest.raises(BreakOff):
        fit(made, checkpoints(tmp_path / "run"), logger("log.csv"), BreaksOff(STEPS + 3), epochs=2)
    finished_fits.forget()
    made = model()
    for _ in range(2):
        fit(made, checkpoints(tmp_path / "run"), logger("log.csv"), epochs=2)
    assert (tmp_path / "log.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("ours", [True, False], ids=["resumed", "guard: started afresh"])
def test_model_checkpoint_does_not_overwrite_a_better_file_after_a_resume(tmp_path, ours):
    # https://github.com/keras-team/keras/issues/17012
    def best(name="best"):
        return ModelCheckpoint(
            tmp_path / f"{name}.weights.h5", "score", save_best_only=True, save_weights_only=True, mode="min"
        )

    broken_off(tmp_path / "run", STEPS + 5, Scores(1.0, 2.0), best(), epochs=2)
    before = (tmp_path / "best.weights.h5").read_bytes()
    fit(model(), *([checkpoints(tmp_path / "run")] if ours else []), Scores(5.0, 2.0), best(), epochs=2)
    assert ((tmp_path / "best.weights.h5").read_bytes() == before) == ours


@of_keras_3
def test_tensorboard_counts_its_batches_on(tmp_path):
    def steps(tensorboard, name):
        found = [call for call in tensorboard.summary.scalar.call_args_list if call.args[0] == name]
        return [call.kwargs["step"] for call in found]

    broken_off(tmp_path / "run", STEPS + 5, silent_tensorboard(tmp_path), epochs=2, validation_data=(X, Y))
    tensorboard = silent_tensorboard(tmp_path)
    fit(model(), checkpoints(tmp_path / "run"), tensorboard, epochs=2, validation_data=(X, Y))
    assert steps(tensorboard, "batch_loss") == list(range(STEPS + 3, 2 * STEPS + 1))
    assert tensorboard._global_test_batch == 2 * STEPS


def test_a_state_that_cannot_be_stored_is_named_by_its_place(tmp_path):
    place = r"cannot store \['fits'\]\[0\]\['callbacks'\]\['Mine'\]\['seen'\]: set is not"
    with pytest.raises(TypeError, match=place):
        fit(model(), checkpoints(tmp_path / "run"), Mine({"seen": {1}}))


def test_an_array_that_a_callback_changes_in_place_is_saved_as_it_was(tmp_path, gate):
    class Counts(Mine):
        def on_train_batch_end(self, batch, logs=None):
            self.value["count"] += 1
            if batch == 5:
                gate.set()

    counts = Counts({"count": np.zeros(4096, "float32")})
    saves = checkpoints(tmp_path / "run", save_freq=4, async_save=True, max_to_keep=None)
    fit(model(), saves, counts, epochs=1)
    first = unpack(saves.manager.state(saves.manager.records()[0]), "run_state")["fits"][0]
    assert set(first["callbacks"]["Counts"]["count"].tolist()) == {4.0}


def test_only_the_listed_callbacks_are_saved_and_put_back(tmp_path):
    kept, other = Mine(1), Mine(2)
    broken_off_with = checkpoints(tmp_path / "run", callbacks=[kept])
    with pytest.raises(BreakOff):
        fit(model(), broken_off_with, kept, other, BreaksOff(STEPS + 1))
    kept, other = Mine("fresh"), Mine("fresh")
    fit(model(), checkpoints(tmp_path / "run", callbacks=[kept]), kept, other)
    assert (kept.value, other.value) == (1, "fresh")


class Notes(Mine):
    """Keeps a list, which it puts back as it gets it and appends to."""

    def on_epoch_begin(self, epoch, logs=None):
        self.value.append(epoch)


def test_a_list_that_a_callback_appends_to_is_put_back_as_it_was_saved(tmp_path):
    broken_off(tmp_path / "run", STEPS + 5, Notes([]))
    notes = Notes([])
    fit(model(), checkpoints(tmp_path / "run"), notes)
    assert notes.value == [0, 1, 2, 3]


def test_a_list_that_a_callback_appends_to_goes_on_after_a_resume_at_an_epochs_end(tmp_path):
    broken_off(tmp_path / "run", STEPS + 1, Notes([]))
    fit(model(), checkpoints(tmp_path / "run"), notes := Notes([]))
    assert notes.value == [0, 1, 2, 3]


class Tallies(Mine):
    """Keeps an array, which it counts up in place."""

    def on_train_batch_end(self, batch, logs=None):
        self.value += 1


def test_an_array_that_a_callback_counts_up_in_place_goes_on_after_a_resume(tmp_path):
    broken_off(tmp_path / "run", STEPS + 5, Tallies(np.zeros(2)))
    fit(model(), checkpoints(tmp_path / "run"), tallies := Tallies(np.zeros(2)))
    assert tallies.value.tolist() == [4 * STEPS] * 2


def test_a_missing_callback_is_logged_once(tmp_path, caplog):
    broken_off(tmp_path / "run", 5, Mine(1))
    fit(model(), checkpoints(tmp_path / "run"))
    assert caplog.text.count("holds the state of a callback Mine, which this fit does not have") == 1


class ReturnsLoss(keras.Sequential):
    """A model with a train step of its own, which returns its loss as a tensor of some type or as a number."""

    def __init__(self, kind):
        super().__init__([keras.layers.Input((3,)), keras.layers.Dense(1)])
        self.kind = kind

    def train_step(self, data):
        loss = super().train_step(data)["loss"]
        return {"loss": float(loss) if self.kind is float else tf.cast(loss, self.kind)}


@pytest.mark.parametrize(
    "kind",
    [
        tf.float32,
        tf.float64,
        tf.float16,
        tf.bfloat16,
        float,
    ],
    ids=["float32", "float64", "float16", "bfloat16", "number"],
)
@pytest.mark.slow
def test_whatever_the_train_step_returns_a_fit_resumes_in_mid_epoch(tmp_path, kind):
    def make():
        keras.utils.set_random_seed(3)
        made = ReturnsLoss(kind)
        made.compile("sgd", "mse", run_eagerly=kind is float, jit_compile=False)
        return made

    broken_off(tmp_path / "run", 5, made=make(), epochs=1)
    history = fit(make(), callback := checkpoints(tmp_path / "run"), epochs=1)
    assert callback.resumed_from.batch == 4
    assert history.history == fit(make(), epochs=1).history


def test_what_comes_back_are_the_states_that_are_there_and_have_a_callback():
    states = CallbackStates([keras.callbacks.EarlyStopping(), keras.callbacks.ReduceLROnPlateau()])
    assert states.names_in({"ReduceLROnPlateau": {}, "Gone": {}}) == ["ReduceLROnPlateau"]
