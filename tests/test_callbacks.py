"""TrainingCheckpoint in model.fit: save, be broken off anywhere, resume, and never mix two runs."""

import hashlib
import math
import os
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import finished_fits, history
from ckptkit.policies import EverySecs, EverySteps, OnImprovement
from ckptkit.preservation import All, Best, Latest
from ckptkit.store import Store
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core
of_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 has no such thing, or does it otherwise")

X = np.random.default_rng(0).random((40, 6)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
STEPS = 10  # batches an epoch, of 4


class BreakOff(Exception):
    """What ends a fit in these tests as a kill would."""


class BreaksOff(keras.callbacks.Callback):
    def __init__(self, after_steps):
        super().__init__()
        self.left = after_steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise BreakOff


class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs, self.batches = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.batches.append(batch)


class Block(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(5)
        self.norm = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.2)

    def call(self, inputs, training=False):
        return self.drop(self.norm(self.dense(inputs), training=training), training=training)


class Blocks(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Block() for _ in range(3)]
        self.out = keras.layers.Dense(1)

    def call(self, inputs, training=False):
        for block in self.blocks:
            inputs = block(inputs, training=training)
        return self.out(inputs)


def sequential(**options):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"], **options)
    return model


def subclassed():
    keras.utils.set_random_seed(3)
    model = Blocks()
    model.compile("adam", "mse")
    return model


def fit(model, *extra, epochs=3, **options):
    return model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, shuffle=False, callbacks=list(extra), **options)


def digest(variables):
    return hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in variables)).hexdigest()


def everything(model):
    return digest([*model.variables, *model.optimizer.variables])


@pytest.fixture
def directory(tmp_path):
    # A restarted script starts with a process of its own: no fit has ended in it yet.
    finished_fits.forget()
    yield str(tmp_path / "run")
    finished_fits.forget()


@pytest.mark.parametrize("after_steps", [3, STEPS, STEPS + 4, 2 * STEPS + 9])
@pytest.mark.parametrize("async_save", [True, False], ids=["async", "sync"])
@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on_at_its_last_checkpoint_and_ends_as_if_it_had_not(
    directory, tmp_path, after_steps, async_save
):
    whole = sequential()
    fit(whole, ckptkit.TrainingCheckpoint(tmp_path / "whole"))
    options = {"save_freq": 4, "async_save": async_save}
    with pytest.raises(BreakOff):
        fit(sequential(), broken := ckptkit.TrainingCheckpoint(directory, **options), BreaksOff(after_steps))
    broken.manager.wait_until_finished()
    newest = max((record.step for record in broken.manager.records()), default=0)
    resumed = sequential()
    fit(resumed, callback := ckptkit.TrainingCheckpoint(directory, **options))
    assert (callback.resumed_from.step if callback.resumed_from else 0) == newest
    last_due = 0 if after_steps < 5 else (after_steps - 1) // 4 * 4
    assert 0 < newest <= last_due if async_save and last_due else newest == last_due  # a busy disk skips saves
    assert everything(resumed) == everything(whole)
    assert int(resumed.optimizer.iterations) == 3 * STEPS


@pytest.mark.slow
def test_history_of_earlier_epochs_is_there_after_a_resume(directory, tmp_path):
    whole = fit(sequential(), ckptkit.TrainingCheckpoint(tmp_path / "whole"), validation_data=(X, Y))
    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory), BreaksOff(2 * STEPS + 1), validation_data=(X, Y))
    resumed = fit(sequential(), ckptkit.TrainingCheckpoint(directory), validation_data=(X, Y))
    assert resumed.epoch == [0, 1, 2]
    assert resumed.history == whole.history


def test_epoch_and_batch_numbers_that_other_callbacks_see_are_right_after_a_resume(directory):
    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=6, async_save=False), BreaksOff(17))
    seen = Seen()
    fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=6), seen)
    assert seen.epochs == [1, 2]
    assert seen.batches == [*range(2, STEPS), *range(STEPS)], "what is not trained is not seen"


@pytest.mark.slow
def test_a_finished_fit_started_again_does_nothing_and_returns_the_whole_history(directory):
    first = fit(model := sequential(), ckptkit.TrainingCheckpoint(directory))
    finished_fits.forget()
    seen = Seen()
    again = fit(other := sequential(), ckptkit.TrainingCheckpoint(directory), seen)
    assert seen.epochs == []
    assert (again.history, again.epoch) == (first.history, first.epoch)
    assert everything(other) == everything(model)


def test_more_epochs_than_before_train_on_from_the_finished_run(directory):
    fit(sequential(), ckptkit.TrainingCheckpoint(directory))
    finished_fits.forget()
    assert fit(model := sequential(), ckptkit.TrainingCheckpoint(directory), epochs=5).epoch == [0, 1, 2, 3, 4]
    assert int(model.optimizer.iterations) == 5 * STEPS


@pytest.mark.slow
def test_a_second_fit_in_the_same_process_trains_on_from_the_live_model(directory):
    model = sequential()
    fit(model, ckptkit.TrainingCheckpoint(directory))
    assert fit(model, ckptkit.TrainingCheckpoint(directory)).epoch == [0, 1, 2]
    assert int(model.optimizer.iterations) == 6 * STEPS


def test_a_script_with_two_fits_that_is_killed_in_the_second_resumes_there(directory, tmp_path):
    whole = sequential()
    for _ in range(2):
        fit(whole, ckptkit.TrainingCheckpoint(tmp_path / "whole"))
    model = sequential()
    fit(model, ckptkit.TrainingCheckpoint(directory))
    with pytest.raises(BreakOff):
        fit(model, ckptkit.TrainingCheckpoint(directory), BreaksOff(STEPS + 2))
    finished_fits.forget()
    model, seen = sequential(), Seen()
    fit(model, ckptkit.TrainingCheckpoint(directory), seen)
    assert seen.epochs == [], "the first fit was over"
    fit(model, ckptkit.TrainingCheckpoint(directory), seen)
    assert seen.epochs == [1, 2]
    assert everything(model) == everything(whole)


def test_a_stop_that_another_callback_decided_is_not_forgotten(directory):
    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    class BreaksOffAtTheEnd(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise BreakOff

    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory), Stops(), BreaksOffAtTheEnd(), epochs=5)
    assert fit(sequential(), ckptkit.TrainingCheckpoint(directory), Stops(), epochs=5).epoch == [0, 1]


def test_a_first_epoch_given_to_fit_is_kept_and_resumed(directory):
    with pytest.raises(BreakOff):
        fit(
            sequential(),
            ckptkit.TrainingCheckpoint(directory, save_freq=3, async_save=False),
            BreaksOff(5),
            initial_epoch=1,
        )
    seen = Seen()
    history = fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=3), seen, initial_epoch=1)
    assert history.epoch == seen.epochs == [1, 2]


@pytest.mark.slow
def test_a_model_whose_blocks_sit_in_a_list_comes_back_whole(directory):
    with pytest.raises(BreakOff):
        fit(
            broken := subclassed(),
            ckptkit.TrainingCheckpoint(directory, save_freq=7, async_save=False),
            BreaksOff(8),
        )
    del broken
    whole = subclassed()
    fit(whole, ckptkit.TrainingCheckpoint(os.path.join(directory, "whole"), save_freq=7))
    resumed = subclassed()  # not built when fit starts
    fit(resumed, callback := ckptkit.TrainingCheckpoint(directory, save_freq=7))
    assert callback.resumed_from.step == 7
    assert everything(resumed) == everything(whole)
    assert np.array_equal(resumed.predict(X, verbose=0), whole.predict(X, verbose=0))


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_saves_are_due_when_a_multiple_is_crossed_and_once_a_step(directory, steps_per_execution):
    callback = ckptkit.TrainingCheckpoint(directory, save_freq=3, max_to_keep=None, async_save=False)
    fit(sequential(steps_per_execution=steps_per_execution), callback, epochs=2)
    steps = [record.step for record in callback.manager.records()]
    assert steps == ([3, 6, 9, 12, 15, 18, 20] if steps_per_execution == 1 else [4, 8, 10, 14, 18, 20])


def test_a_save_due_at_the_last_batch_is_taken_once_after_validation_with_its_metrics(directory):
    callback = ckptkit.TrainingCheckpoint(directory, save_freq=5, max_to_keep=None, async_save=False)
    history = fit(sequential(), callback, epochs=2, validation_data=(X, Y))
    found = [(r.step, r.epoch, r.batch, r.metrics.get("val_loss")) for r in callback.manager.records()]
    losses = history.history["val_loss"]
    assert found == [(5, 0, 5, None), (10, 1, 0, losses[0]), (15, 1, 5, None), (20, 2, 0, losses[1])]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so whenever the length is not known
def test_an_epochs_end_is_saved_once_even_if_its_length_was_not_known(directory):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).filter(lambda x, y: True)
    callback = ckptkit.TrainingCheckpoint(
        directory, save_freq=EverySteps(5) | ckptkit.policies.EveryEpochs(), max_to_keep=None, async_save=False
    )
    # Eagerly: in a graph the optimizer may count a step for which there was no batch any more (seen on Keras 3.15).
    sequential(run_eagerly=True).fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[callback])
    assert [(r.step, r.epoch, r.batch) for r in callback.manager.records()] == [
        (5, 0, 5),
        (10, 1, 0),
        (15, 1, 5),
        (20, 2, 0),
    ]


class Losses(keras.callbacks.Callback):
    """Stands for what a validation measures."""

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        if self.values[epoch] is not None:
            logs["val_loss"] = self.values[epoch]


def test_max_to_keep_keeps_the_newest_and_the_monitored_best_beyond_it(directory):
    callback = ckptkit.TrainingCheckpoint(directory, max_to_keep=2, monitor="val_loss", async_save=False)
    fit(sequential(), Losses(3.0, 1.0, 2.0, 2.5, 4.0), callback, epochs=5)
    assert [record.epoch for record in callback.manager.records()] == [2, 4, 5]
    assert callback.manager.best_record.epoch == 2


def test_a_new_best_epoch_is_saved_even_if_no_save_is_due(directory):
    callback = ckptkit.TrainingCheckpoint(
        directory, save_freq=1000, max_to_keep=None, monitor="val_loss", async_save=False
    )
    history = fit(sequential(), callback, validation_data=(X, Y))
    assert history.history["val_loss"] == sorted(history.history["val_loss"], reverse=True)
    assert [record.epoch for record in callback.manager.records()] == [1, 2, 3]


def test_a_save_of_the_best_epoch_counts_as_one_that_was_due(directory):
    callback = ckptkit.TrainingCheckpoint(directory, save_freq=5, max_to_keep=None, monitor="loss", async_save=False)
    fit(sequential(), callback, epochs=2)
    assert [record.step for record in callback.manager.records()] == [5, 10, 15, 20]


def test_a_restart_does_not_forget_which_checkpoint_is_best(directory):
    fit(sequential(), ckptkit.TrainingCheckpoint(directory, monitor="loss"))
    finished_fits.forget()
    again = ckptkit.TrainingCheckpoint(directory, monitor="loss")
    fit(sequential(), again)
    assert again.manager.best_record.epoch == 3


def test_resume_false_refuses_a_directory_with_checkpoints(directory):
    fit(sequential(), ckptkit.TrainingCheckpoint(directory, resume=False))
    with pytest.raises(ckptkit.CheckpointError, match=r"holds checkpoints up to ckpt-30, and resume=False"):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory, resume=False))


def test_a_moved_directory_resumes(directory, tmp_path):
    with pytest.raises(BreakOff):
        fit(sequential(), callback := ckptkit.TrainingCheckpoint(directory), BreaksOff(STEPS + 5))
    callback.manager.close()
    os.rename(directory, tmp_path / "elsewhere")
    fit(sequential(), again := ckptkit.TrainingCheckpoint(tmp_path / "elsewhere"))
    assert again.resumed_from.prefix == str(tmp_path / "elsewhere" / "ckpt-10")


def test_another_model_is_told_where_it_differs_and_stays_as_it_was(directory):
    fit(sequential(), ckptkit.TrainingCheckpoint(directory))
    finished_fits.forget()
    keras.utils.set_random_seed(1)
    other = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(1)])
    other.compile("adam", "mse")
    before = digest(other.variables)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"checkpoint \(6, 4\) float32   model \(6, 5\) float32"):
        fit(other, ckptkit.TrainingCheckpoint(directory))
    assert digest(other.variables) == before


def test_what_goes_wrong_in_the_background_is_raised_in_fit(directory, monkeypatch):
    from ckptkit.store import Store

    def full(self, pending, manifest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "commit", full)
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-10 .* failed: OSError .*No space left"):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory))


def test_on_save_error_warn_trains_on(directory, monkeypatch, caplog):
    from ckptkit.store import Store

    def full(self, pending, manifest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "commit", full)
    fit(model := sequential(), ckptkit.TrainingCheckpoint(directory, on_save_error="warn"))
    assert int(model.optimizer.iterations) == 3 * STEPS
    assert "No space left on device" in caplog.text


def test_a_fit_that_was_broken_off_leaves_a_model_that_trains_without_us(directory):
    model = sequential()
    with pytest.raises(BreakOff):
        fit(model, ckptkit.TrainingCheckpoint(directory, save_freq=2, async_save=False), BreaksOff(3))
    before = sorted(os.listdir(directory))
    assert fit(model).epoch == [0, 1, 2]
    assert sorted(os.listdir(directory)) == before


def test_a_resumed_fit_that_was_broken_off_does_not_make_the_next_fit_of_the_model_start_late(directory):
    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory), BreaksOff(STEPS + 5))
    model = sequential()
    with pytest.raises(BreakOff):
        fit(model, ckptkit.TrainingCheckpoint(directory), BreaksOff(3))
    assert fit(model).epoch == [0, 1, 2]


@of_keras_3
def test_a_resumed_fit_leaves_the_models_first_epoch_as_it_was(directory):
    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory), BreaksOff(STEPS + 5))
    fit(model := sequential(), ckptkit.TrainingCheckpoint(directory))
    assert model._initial_epoch is None
    assert fit(model).epoch == [0, 1, 2]


def test_a_checkpoint_of_a_plain_manager_gives_its_weights_and_says_what_is_missing(directory, caplog):
    trained = sequential()
    fit(trained)
    tf.train.CheckpointManager(
        tf.train.Checkpoint(model=trained, optimizer=trained.optimizer), directory, max_to_keep=1
    ).save()
    callback = ckptkit.TrainingCheckpoint(directory)
    assert fit(model := sequential(), callback).epoch == [0, 1, 2]
    assert "holds no state of a fit" in caplog.text
    assert int(model.optimizer.iterations) == 6 * STEPS


@pytest.mark.parametrize(
    "options", [{"monitor": "val_los", "mode": "min"}, {"preservation_policy": Best("los", "min")}]
)
@pytest.mark.slow
def test_a_monitor_that_does_not_exist_is_an_error_that_names_the_nearest_and_the_epoch_is_saved(directory, options):
    callback = ckptkit.TrainingCheckpoint(directory, **options)
    with pytest.raises(
        ValueError, match=r"(?s)no such metric at epoch 2 \(have: .*val_loss.*Did you mean '(val_)?loss'"
    ):
        fit(sequential(), callback, validation_data=(X, Y), initial_epoch=1)
    again = ckptkit.TrainingCheckpoint(directory, monitor="val_loss")
    assert fit(sequential(), again, validation_data=(X, Y)).epoch == [1, 2]
    assert again.resumed_from.epoch == 2


def test_a_monitor_of_a_validation_that_there_is_none_of_is_an_error_after_the_first_epoch(directory):
    callback = ckptkit.TrainingCheckpoint(directory, monitor="val_loss")
    with pytest.raises(
        ValueError, match=r"no such metric at epoch 1 .*\nDid .*\nThere was no validation: pass validation"
    ):
        fit(sequential(), callback)


def test_the_mode_of_a_metric_that_says_it_may_be_left_out(directory):
    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_mae"] = [3.0, 1.0, 2.0][epoch]

    callback = ckptkit.TrainingCheckpoint(directory, monitor="val_mae", async_save=False)
    fit(sequential(), Values(), callback)
    assert callback.manager.best_record.epoch == 2


def test_a_monitor_that_does_not_say_what_is_better_is_refused_before_anything_is_trained(directory):
    model = sequential()
    with pytest.raises(ValueError, match="say whether 'val_accuracy' is better when smaller or larger"):
        fit(model, ckptkit.TrainingCheckpoint(directory, monitor="val_accuracy"))
    assert int(model.optimizer.iterations) == 0
    assert not os.path.exists(directory)


def test_a_save_at_a_step_waits_for_no_validation_and_carries_no_metric_of_an_earlier_one(directory):
    callback = ckptkit.TrainingCheckpoint(
        directory, save_freq=4, max_to_keep=None, monitor="val_loss", async_save=False
    )
    fit(sequential(), callback, epochs=2, validation_data=(X, Y), validation_freq=2)
    records = callback.manager.records()
    assert [record.step for record in records] == [4, 8, 12, 16, 20]
    assert [record.step for record in records if record.metrics] == [20]


@pytest.mark.slow
def test_a_restart_saves_no_worse_model_as_an_improvement_even_if_the_best_one_is_pruned(directory):
    losses = Losses(3.0, 1.0, 2.5, 2.0, math.nan, 0.5)
    options = {
        "save_freq": OnImprovement("val_loss", "min"),
        "max_to_keep": None,
        "preservation_policy": Latest(1),
        "async_save": False,
    }
    steps = []
    for epochs in range(1, 7):  # a restart after every epoch
        finished_fits.forget()
        callback = ckptkit.TrainingCheckpoint(directory, final_save=epochs in (3, 4, 5), **options)
        fit(sequential(), callback, losses, epochs=epochs)
        steps.append(callback.manager.records()[-1].step)
        best = callback.manager.records()[-1].best
        assert best == {"val_loss": min(value for value in losses.values[:epochs] if value == value)}
    assert steps == [10, 20, 30, 40, 50, 60]
    whole = ckptkit.TrainingCheckpoint(
        directory + "-whole", final_save=False, **options | {"preservation_policy": All()}
    )
    fit(sequential(), whole, losses, epochs=6)
    assert [record.step for record in whole.manager.records()] == [10, 20, 60]


def test_without_a_final_save_a_run_goes_on_where_its_policy_saved_last(directory):
    fit(sequential(), callback := ckptkit.TrainingCheckpoint(directory, save_freq=12, final_save=False))
    assert [record.step for record in callback.manager.records()] == [12, 24]
    finished_fits.forget()
    fit(model := sequential(), again := ckptkit.TrainingCheckpoint(directory, save_freq=12, final_save=False))
    assert again.resumed_from.step == 24
    assert int(model.optimizer.iterations) == 30


def test_a_last_save_that_failed_in_the_background_is_taken_once_more_with_its_metrics(directory, monkeypatch, caplog):
    commit, failed = Store.commit, []

    def fails_once(self, pending, manifest):
        if manifest.step == 30 and not failed:
            failed.append(manifest)
            raise OSError(28, "No space left on device")
        return commit(self, pending, manifest)

    monkeypatch.setattr(Store, "commit", fails_once)
    fit(sequential(), callback := ckptkit.TrainingCheckpoint(directory, on_save_error="warn"))
    assert failed
    assert "No space left on device" in caplog.text
    newest = callback.manager.records()[-1]
    assert (newest.step, newest.epoch, sorted(newest.metrics)) == (30, 3, ["loss", "mae"])


def test_time_between_saves_is_measured_from_step_to_step(directory, monkeypatch):
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            now[0] += 60.0

    callback = ckptkit.TrainingCheckpoint(
        directory, save_freq=EverySecs(400) & EverySteps(2), max_to_keep=None, async_save=False, final_save=False
    )
    fit(sequential(), callback, Clock())
    # Every 7 steps at the earliest, and at an even step then; the one at the end of an epoch is none too many.
    assert [record.step for record in callback.manager.records()] == [8, 16, 24]


def test_a_validation_metric_at_an_epoch_without_validation_is_no_decision(directory):
    callback = ckptkit.TrainingCheckpoint(directory, monitor="val_loss", max_to_keep=None, async_save=False)
    fit(sequential(), callback, epochs=4, validation_data=(X, Y), validation_freq=2)
    with_loss = [record.epoch for record in callback.manager.records() if "val_loss" in record.metrics]
    assert with_loss == [2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_freq": "epochs"}, 'save_freq must be "epoch", a number of steps or a policy'),
        ({"save_freq": 0}, "save_freq must be"),
        ({"save_freq": True}, "save_freq must be"),
        ({"mode": "min"}, "mode='min' says how to rank a metric"),
        ({"monitor": "loss", "mode": "least"}, "mode = 'min' or 'max', got 'least'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_nonsense_is_refused_before_training(directory, options, message):
    with pytest.raises(ValueError, match=message):
        ckptkit.TrainingCheckpoint(directory, **options)


def test_a_preservation_policy_alone_decides_where_max_to_keep_is_none(directory):
    callback = ckptkit.TrainingCheckpoint(
        directory, save_freq=2, max_to_keep=None, preservation_policy=Latest(2), async_save=False
    )
    fit(sequential(), callback)
    assert [record.step for record in callback.manager.records()] == [28, 30]


def test_the_manager_is_not_there_before_fit(directory):
    with pytest.raises(RuntimeError, match="no manager before fit has begun"):
        _ = ckptkit.TrainingCheckpoint(directory).manager


def test_a_notebook_cell_that_builds_the_model_and_fits_run_twice_does_not_train_again(directory):
    first = fit(model := sequential(), ckptkit.TrainingCheckpoint(directory))
    again = fit(other := sequential(), ckptkit.TrainingCheckpoint(directory))
    assert again.history == first.history
    assert everything(other) == everything(model)


class Eager(keras.Model):
    """Cannot be built from shapes: it looks at the numbers."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(tf.constant(inputs.numpy() * 2.0))


def test_a_model_that_cannot_be_built_from_shapes_is_restored_when_fit_builds_it_and_the_log_says_so(
    directory, tmp_path, caplog
):
    def make():
        keras.utils.set_random_seed(3)
        model = Eager()
        model.compile("adam", "mse", run_eagerly=True)
        return model

    fit(whole := make(), ckptkit.TrainingCheckpoint(tmp_path / "whole"))
    with pytest.raises(BreakOff):
        fit(make(), ckptkit.TrainingCheckpoint(directory, save_freq=7, async_save=False), BreaksOff(8))
    fit(resumed := make(), callback := ckptkit.TrainingCheckpoint(directory, save_freq=7))
    assert callback.resumed_from.step == 7
    assert digest([*resumed.weights, *resumed.optimizer.variables]) == digest(
        [*whole.weights, *whole.optimizer.variables]
    )
    assert "cannot be built from the shapes of its data" in caplog.text


# What a batch without a save costs ---------------------------------------------------------------------------------


class Watched:
    """A log of a train step that knows in which thread it was made a number of."""

    def __init__(self, converted):
        self._converted = converted

    def __float__(self):
        self._converted.append(threading.current_thread() is threading.main_thread())
        return 0.5


class TrainsOnNothing(keras.Sequential):
    """A model whose steps cost nothing and return logs that are watched."""

    def make_train_function(self, force=False):
        self.converted = []
        self.train_function = lambda iterator: {"loss": Watched(self.converted)}


def converted(callbacks):
    """How often the logs of train steps are made numbers in an epoch, and how often of it in the thread that trains."""
    model = TrainsOnNothing([keras.layers.Input((6,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    fit(model, *callbacks, epochs=1)
    return len(model.converted), sum(model.converted)


@of_keras_3
def test_logs_are_made_numbers_by_keras_alone_so_that_no_batch_waits_for_the_device_because_of_us(directory):
    # Keras does so once a batch: in the thread that trains with TensorFlow, in another one where a backend allows it.
    without_us = converted([keras.callbacks.Callback()])
    assert without_us[0] == STEPS
    assert converted([ckptkit.TrainingCheckpoint(directory, save_freq=10**9)]) == without_us


def test_a_batch_without_a_save_takes_a_handful_of_calls(directory):
    calls = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(os.path.dirname(ckptkit.__file__)):
            calls.append(frame.f_code.co_name)

    class Profile(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            sys.setprofile(profile if batch in (3, 4, 5) else None)

    fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=10**9), Profile(), epochs=1)
    assert len(calls) <= 3 * 12, calls


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """Nothing can be committed before the patch is undone."""
    from ckptkit.store import Store

    def full(self, pending, manifest):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", full)
        yield patch


class Waits(keras.callbacks.Callback):
    """Waits after each batch until what is under way has ended, and may then break off."""

    def __init__(self, checkpoint, break_off_after=0):
        super().__init__()
        self.checkpoint, self.left = checkpoint, break_off_after

    def on_train_batch_end(self, batch, logs=None):
        self.checkpoint.manager._saver.writer.wait()
        self.left -= 1
        if self.left == 0:
            raise BreakOff("ours")


def test_a_failed_background_save_surfaces_at_the_next_batch_and_the_same_script_goes_on(
    directory, tmp_path, full_disk
):
    callback = ckptkit.TrainingCheckpoint(directory, save_freq=3)
    model = sequential()
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-3 .* ENOSPC No space left"):
        fit(model, callback, Waits(callback))
    assert int(model.optimizer.iterations) == 4
    full_disk.undo()
    finished_fits.forget()
    fit(resumed := sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=3))
    finished_fits.forget()
    fit(whole := sequential(), ckptkit.TrainingCheckpoint(tmp_path / "whole", save_freq=3))
    assert everything(resumed) == everything(whole)


@pytest.mark.parametrize("async_save", [True, False], ids=["async", "sync"])
def test_a_failed_last_save_is_raised_by_fit(directory, full_disk, async_save):
    model = sequential()
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-30 .* ENOSPC No space left"):
        fit(model, ckptkit.TrainingCheckpoint(directory, save_freq=10**9, async_save=async_save))
    assert int(model.optimizer.iterations) == 3 * STEPS


def test_a_failed_save_does_not_hide_the_error_that_ends_fit_and_is_logged(directory, full_disk, caplog):
    callback = ckptkit.TrainingCheckpoint(directory, save_freq=3)
    with pytest.raises(BreakOff, match="ours"):
        fit(sequential(), callback, Waits(callback, break_off_after=4))
    with pytest.raises(ckptkit.CheckpointSaveError, match="save of ckpt-3"):
        callback.manager.wait_until_finished()  # it is still to be had
    with pytest.raises(BreakOff, match="ours"):
        fit(sequential(), callback, Waits(callback, break_off_after=4))
    fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=10**9, on_save_error="warn"), epochs=1)
    assert "save of ckpt-3 to" in caplog.text


@pytest.mark.parametrize("async_save", [True, False], ids=["async", "sync"])
def test_fit_puts_up_with_so_many_failed_saves_in_a_row(directory, full_disk, caplog, async_save):
    callback = ckptkit.TrainingCheckpoint(directory, async_save=async_save, on_save_error="warn", max_save_errors=2)
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"(?s)save of ckpt-20 .*\n2 saves in a row have failed"):
        fit(sequential(), callback, Waits(callback))
    assert [record.message[:15] for record in caplog.records if record.levelname == "WARNING"] == ["save of ckpt-10"]


def test_a_last_save_that_failed_in_its_epoch_is_tried_again_when_training_ends(directory, monkeypatch):
    from ckptkit.store import Store

    commit, errors = Store.commit, [OSError(5, "Input/output error")]

    def failing(self, pending, manifest):
        if manifest.step == 3 * STEPS and errors:
            raise errors.pop()
        return commit(self, pending, manifest)

    monkeypatch.setattr(Store, "commit", failing)
    callback = ckptkit.TrainingCheckpoint(directory, async_save=False, on_save_error="warn")
    fit(sequential(), callback)
    assert errors == []
    assert [record.step for record in callback.manager.records()] == [STEPS, 2 * STEPS, 3 * STEPS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_save_error": "ignore"}, "on_save_error must be 'raise' or 'warn', got 'ignore'"),
        ({"max_save_errors": 0}, "max_save_errors must be a whole number of at least 1"),
    ],
    ids=["on_save_error", "max_save_errors"],
)
def test_nonsense_about_errors_is_refused_before_training(directory, options, message):
    with pytest.raises(ValueError, match=message):
        ckptkit.TrainingCheckpoint(directory, **options)


def test_the_history_tells_where_a_fit_began_each_epochs_end_and_where_it_went_on(directory):
    def story():
        return [each for each in history.read(directory) if each.kind in ("begun", "measured", "ended")]

    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=4), BreaksOff(2 * STEPS + 3), epochs=3)
    broken = story()
    assert [(each.kind, each.facts["step"]) for each in broken[:3]] == [
        ("begun", 0),
        ("measured", 10),
        ("measured", 20),
    ]
    finished_fits.forget()
    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=4), BreaksOff(1), epochs=3)
    assert [(each.kind, each.facts["step"]) for each in story() if each.kind != "ended"][3:] == [("begun", 20)]
    finished_fits.forget()
    logs = fit(sequential(), ckptkit.TrainingCheckpoint(directory, save_freq=4), epochs=3).history
    begun, measured, ended = story()[-3:]
    assert (begun.kind, begun.facts["resumed_from"], begun.facts["step"]) == ("begun", "ckpt-20", 20)
    assert measured.facts == {"step": 30, "epoch": 3, "metrics": {name: values[-1] for name, values in logs.items()}}
    assert (ended.kind, ended.facts) == ("ended", {"step": 30, "error": None})
