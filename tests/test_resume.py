"""A fit that is resumed by a script that has changed, or beside others, or from what is damaged: refused, or meant."""

import logging
import os
import re
import threading

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import finished_fits
from ckptkit.policies import Never
from ckptkit.which_keras import IS_LEGACY, keras
from tests.test_callbacks import STEPS, BreakOff, BreaksOff, Seen, X, Y, everything, sequential

pytestmark = [pytest.mark.core, pytest.mark.slow]
of_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 has no such thing, or does it otherwise")


@pytest.fixture
def directory(tmp_path):
    finished_fits.forget()
    yield str(tmp_path / "run")
    finished_fits.forget()


def ours(directory, **options):
    return ckptkit.TrainingCheckpoint(directory, **{"save_freq": 3, "async_save": False, **options})


def fit(model, *callbacks, epochs=3, **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def break_off(model, callback, after_steps, *others, **options):
    with pytest.raises(BreakOff):
        fit(model, callback, BreaksOff(after_steps), *others, **options)


def compiled(optimizer, **options):
    model = sequential()
    model.compile(optimizer, "mse", **options)
    return model


def steps(model):
    return int(model.optimizer.iterations)


# Others in the same fit -----------------------------------------------------------------------------------------------


def test_two_of_ours_in_one_fit_are_refused_and_both_directories_named(directory, tmp_path):
    two = [ours(directory), ours(tmp_path / "other")]
    with pytest.raises(ValueError, match=r"one TrainingCheckpoint, got those of .*run' and .*other'.\nTo save at more"):
        fit(sequential(), *two)


def test_backup_and_restore_beside_ours_is_refused(directory, tmp_path):
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(ValueError, match=r"BackupAndRestore does the work of TrainingCheckpoint.*\nTake it out"):
        fit(sequential(), backup, ours(directory))


# Layers with seeds in their cells -------------------------------------------------------------------------------------


def lstm():
    keras.utils.set_random_seed(3)
    cell = keras.layers.LSTM(2, dropout=0.3, recurrent_dropout=0.3)
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Reshape((2, 3)), cell, keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def test_an_lstm_drops_after_a_resume_what_it_would_have_dropped(directory, tmp_path):
    fit(whole := lstm(), ours(tmp_path / "whole"), epochs=1)
    break_off(lstm(), ours(directory), 5, epochs=1)
    fit(resumed := lstm(), callback := ours(directory), epochs=1)
    assert callback.resumed_from.step == 3
    assert everything(resumed) == everything(whole)


# Another model --------------------------------------------------------------------------------------------------------


@of_keras_3
@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (keras.optimizers.RMSprop, keras.optimizers.Adagrad, "checkpoint RMSprop   model Adagrad"),
        (keras.optimizers.Adam, keras.optimizers.AdamW, "checkpoint Adam   model AdamW"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW()),
            r"LossScaleOptimizer\(Adam\)   model LossScaleOptimizer\(AdamW\)",
        ),
    ],
    ids=["rmsprop", "adam", "wrapped"],
)
def test_another_optimizer_of_the_same_shapes_is_refused_and_nothing_is_changed(directory, before, now, said):
    break_off(compiled(before()), ours(directory), 14)
    model = compiled(now())
    weights = model.get_weights()
    with pytest.raises(ckptkit.CheckpointMismatchError, match=said):
        fit(model, ours(directory))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights))


def test_other_metrics_in_mid_epoch_count_from_there_and_it_is_said(directory, caplog):
    break_off(compiled("adam", metrics=["mae"]), ours(directory), 14)
    model = compiled("adam", metrics=["mse", "mae"])
    history = fit(model, ours(directory), epochs=2).history
    assert "the model has other metrics than were saved: those of epoch 1 count from here" in caplog.text
    assert history["mse"][-1] == pytest.approx(history["loss"][-1])


def test_metrics_of_other_shapes_do_not_stop_a_resume(directory):
    break_off(compiled("adam", metrics=["mae"]), ours(directory), 14)
    model = compiled("adam", metrics=[keras.metrics.R2Score(), "mae"])
    assert len(fit(model, ours(directory), epochs=2).epoch) == 2


class TwoOptimizers(keras.Model):
    """Trains by an optimizer of its own; the one that ``compile`` made is never used."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def compile(self, own):
        super().compile(loss="mse")
        self.own = own

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        self.own.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        return {"loss": loss}


def two_optimizers():
    keras.utils.set_random_seed(3)
    model = TwoOptimizers()
    model.compile(own=keras.optimizers.Adam(0.01))
    return model


@of_keras_3
def test_a_train_step_with_optimizers_of_its_own_is_resumed(directory, tmp_path):
    fit(whole := two_optimizers(), ours(tmp_path / "whole"))
    break_off(two_optimizers(), ours(directory), 14)
    fit(resumed := two_optimizers(), callback := ours(directory))
    assert callback.resumed_from.step == 12
    assert not resumed.optimizer.built
    assert [v.numpy().tolist() for v in [*resumed.variables, *resumed.own.variables]] == [
        v.numpy().tolist() for v in [*whole.variables, *whole.own.variables]
    ]


def test_a_model_made_anew_in_the_same_process_goes_on_from_the_checkpoint_whatever_its_optimizer_counts(directory):
    fit(two_optimizers(), ours(directory))
    fit(model := two_optimizers(), callback := ours(directory), seen := Seen())
    assert callback.resumed_from.step == 3 * STEPS
    assert seen.batches == []
    assert int(model.own.iterations) == 3 * STEPS


# Several fits ---------------------------------------------------------------------------------------------------------


def two_phases(directory, *, first=None, second=None):
    """Train with one learning rate, and with another after that; either phase may be broken off."""
    model = compiled(keras.optimizers.SGD(0.01))
    fit(model, ours(directory), *([BreaksOff(first)] if first else []), epochs=2)
    model.compile(keras.optimizers.Adam(0.001), "mse", metrics=["mae"])
    history = fit(model, ours(directory), *([BreaksOff(second)] if second else []), epochs=2)
    return model, history.history


def test_a_model_compiled_anew_between_two_fits_trains_on_with_what_it_was_compiled_with(directory):
    model, history = two_phases(directory)
    assert steps(model) == 2 * STEPS
    assert len(history["loss"]) == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)


@pytest.mark.parametrize("at", [{"first": 14}, {"second": 14}], ids=["first", "second"])
def test_phases_with_different_optimizers_are_resumed_where_they_were(directory, tmp_path, at, caplog):
    whole, history = two_phases(tmp_path / "whole")
    finished_fits.forget()
    with pytest.raises(BreakOff):
        two_phases(directory, **at)
    finished_fits.forget()
    caplog.clear()
    resumed, again = two_phases(directory)
    assert everything(resumed) == everything(whole)
    assert again == history
    passed_by = "was saved in a later call of fit of this script" in caplog.text
    assert passed_by is ("second" in at)
    assert "a callback stopped" not in caplog.text


def test_a_background_save_of_a_fit_that_was_broken_off_is_waited_for(directory, gate):
    def slow(*arguments, **named):
        gate.wait(10)
        return write(*arguments, **named)

    from ckptkit.snapshot import Held

    write = Held.write
    model = sequential()
    Held.write = slow
    try:
        break_off(model, callback := ours(directory, async_save=True, save_freq=12), 14)
        threading.Timer(0.3, gate.set).start()
        fit(model, ours(directory, async_save=True, save_freq=12))
    finally:
        Held.write = write
    assert steps(model) == 3 * STEPS
    assert callback.manager.records()


def test_a_list_of_callbacks_that_a_broken_off_fit_has_used_is_used_again(directory):
    model = sequential()
    callbacks = keras.callbacks.CallbackList([ours(directory), BreaksOff(14)], add_history=True, model=model)
    for expected in (BreakOff, None):
        callbacks.set_params({"epochs": 3, "steps": STEPS, "verbose": 0})
        try:
            model.fit(X, Y, batch_size=4, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
        except BreakOff:
            assert expected is BreakOff
    assert steps(model) == 3 * STEPS
    assert callbacks.callbacks[0].manager.records()[-1].step == 3 * STEPS


# Damage ---------------------------------------------------------------------------------------------------------------


def spoil(directory, name, text):
    """Write another byte over the middle of where a text is in a file."""
    with open(os.path.join(directory, name), "r+b") as file:
        at = file.read().index(text) + len(text) // 2
        file.seek(at)
        file.write(b"\xff")


@pytest.mark.parametrize("where", ["state", "index"])
def test_a_newest_checkpoint_whose_state_is_damaged_is_left_for_the_one_before(directory, where, caplog):
    fit(whole := sequential(), ours(directory + "-whole"))
    break_off(sequential(), ours(directory), 14)
    if where == "state":
        spoil(directory, "ckpt-12.data-00000-of-00001", b'"callbacks"')
    else:
        spoil(directory, "ckpt-12.index", b"optimizer")
    fit(resumed := sequential(), callback := ours(directory))
    assert callback.resumed_from.step == 10 - 1
    assert everything(resumed) == everything(whole)
    assert "ckpt-12" in caplog.text


def test_a_state_that_says_nothing_is_damage(directory, caplog):
    break_off(sequential(), callback := ours(directory), 14)
    callback.manager.save(13, state={"run_state": '{"fits": []}'})
    callback.manager.close()
    fit(sequential(), again := ours(directory))
    assert again.resumed_from.step == 12
    assert "holds the state of no fit at all" in caplog.text


# What is refused changes nothing --------------------------------------------------------------------------------------


def test_a_resume_that_is_refused_leaves_the_model_for_a_fit_without_us(directory):
    break_off(sequential(), ours(directory), 25)
    model = sequential()
    weights = model.get_weights()
    with pytest.raises(ckptkit.CheckpointMismatchError):
        fit(model, ours(directory), batch_size=8)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights))
    assert fit(model, epochs=2).epoch == [0, 1]


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin"])
def test_a_callback_that_fails_at_the_beginning_leaves_the_model_for_a_fit_without_us(directory, hook):
    class Fails(keras.callbacks.Callback):
        pass

    def fail(*arguments, **named):
        raise BreakOff

    setattr(Fails, hook, fail)
    break_off(sequential(), ours(directory), 25)
    model = sequential()
    with pytest.raises(BreakOff):
        fit(model, Fails(), ours(directory), Fails())
    assert fit(model, epochs=2).epoch == [0, 1]


# Epochs ---------------------------------------------------------------------------------------------------------------


def test_epochs_reduced_to_the_one_under_way_say_where_it_is(directory, caplog):
    break_off(sequential(), ours(directory), 25)
    history = fit(model := sequential(), ours(directory), epochs=2)
    assert history.epoch == [0, 1]
    assert steps(model) == 24
    assert "is at batch 4 of the epoch after 2, and 2 epochs were asked for" in caplog.text


@pytest.mark.parametrize("at", [8, 25])
def test_a_first_epoch_beyond_the_checkpoint_is_refused(directory, at):
    break_off(sequential(), ours(directory), at)
    message = r"was saved in epoch \d, and fit is to begin with initial_epoch=3.\nA run that is resumed goes on"
    with pytest.raises(ckptkit.CheckpointMismatchError, match=message):
        fit(sequential(), ours(directory), epochs=5, initial_epoch=3)


@of_keras_3
def test_a_first_epoch_is_taken_where_a_plain_manager_has_saved_and_no_epoch_is_known(directory):
    fit(before := sequential(), epochs=2)
    checkpoint = tf.train.Checkpoint(model=before, optimizer=before.optimizer)
    with ckptkit.CheckpointManager(checkpoint, directory, 3) as manager:
        manager.save(2 * STEPS)
    history = fit(model := sequential(), callback := ours(directory), epochs=5, initial_epoch=2)
    assert history.epoch == [2, 3, 4]
    assert steps(model) == 5 * STEPS
    assert callback.manager.records()[-1].step == 5 * STEPS


class Stops(keras.callbacks.Callback):
    """As a limit on time does."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def test_a_run_that_a_callback_stopped_goes_on_if_more_epochs_are_asked_for(directory, caplog):
    fit(sequential(), Stops(), ours(directory), epochs=4)
    finished_fits.forget()
    assert fit(sequential(), Stops(), ours(directory), epochs=4).epoch == [0, 1]
    assert (
        "where a callback stopped the training. It goes on if more than the 4 epochs of then are asked" in caplog.text
    )
    finished_fits.forget()
    assert fit(model := sequential(), Stops(), ours(directory), epochs=5).epoch == [0, 1, 2, 3, 4]
    assert steps(model) == 5 * STEPS


@of_keras_3
@pytest.mark.parametrize("save_freq", ["epoch", 3, Never()], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=False),
        lambda: keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True, mode="max"),
    ],
    ids=["swap", "best weights"],
)
def test_more_epochs_than_before_end_as_if_they_had_been_asked_for_at_once(directory, tmp_path, make, save_freq):
    def model():
        return compiled(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))

    fit(whole := model(), make(), ours(tmp_path / "whole"), epochs=4)
    fit(model(), make(), ours(directory, save_freq=save_freq), epochs=2)
    finished_fits.forget()
    fit(resumed := model(), make(), ours(directory, save_freq=save_freq), epochs=4)
    assert everything(resumed) == everything(whole)


def test_the_last_checkpoint_of_a_fit_carries_its_epochs_metrics(directory):
    history = fit(sequential(), callback := ours(directory, save_freq=7)).history
    assert callback.manager.records()[-1].metrics["loss"] == history["loss"][-1]


# Data -----------------------------------------------------------------------------------------------------------------


def untold(rows, batch):
    """Batches whose number TensorFlow cannot tell."""
    data = tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows]))
    return data.filter(lambda x, y: tf.reduce_sum(x) > -1.0).batch(batch)


def fit_on(data, directory, *callbacks, **options):
    callback = ours(directory, **options)
    sequential(run_eagerly=True).fit(data, epochs=3, verbose=0, shuffle=False, callbacks=[callback, *callbacks])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_untold_length_that_have_become_fewer_are_refused(directory):
    with pytest.raises(BreakOff):
        fit_on(untold(40, 4), directory, BreaksOff(14))
    with pytest.raises(
        ckptkit.CheckpointMismatchError, match=r"(?s)pipeline differs.*TensorSlice.*40.*TensorSlice.*20"
    ):
        fit_on(untold(20, 4), directory)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_another_batch_size_between_epochs_of_untold_length_goes_over_all_of_them(directory):
    with pytest.raises(BreakOff):
        fit_on(untold(40, 4), directory, BreaksOff(STEPS + 1), save_freq="epoch")
    fit_on(untold(40, 2), directory, seen := Seen(), save_freq="epoch")
    # Keras begins one batch more to see that there is none.
    assert [batch for batch in seen.batches if batch < 20] == [*range(20), *range(20)]


def test_a_loop_over_data_that_have_become_fewer_is_refused_before_anything_is_assigned(tmp_path):
    def loop(rows):
        value = tf.Variable(0)
        policy = ckptkit.policies.EverySteps(1)
        manager = ckptkit.CheckpointManager(tf.train.Checkpoint(value=value), tmp_path, 3, save_policy=policy)
        return ckptkit.TrainingLoop(manager, tf.data.Dataset.range(rows).batch(4), epochs=2), value, manager

    going, value, manager = loop(44)
    for step, _ in going:
        value.assign(step)
        if step == 8:
            break
    manager.close()
    going, value, manager = loop(20)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"(?s)checkpoint .*RangeDataset\(44\)\n  now .*\(20\)"):
        list(going)
    assert int(value) == 0


def test_a_loop_that_was_left_before_any_save_is_not_gone_over_as_if_it_had_not_begun(tmp_path):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(value=tf.Variable(0)), tmp_path, 3)
    loop = ckptkit.TrainingLoop(manager, tf.data.Dataset.range(9), epochs=1)
    for step, _ in loop:
        if step == 3:
            break
    with pytest.raises(ckptkit.CheckpointNotFoundError, match="this loop was left at step 3 before anything was saved"):
        next(iter(loop))


# What a person sees ---------------------------------------------------------------------------------------------------


def test_the_progress_bar_of_a_resumed_epoch_begins_where_it_was(directory, capfd):
    break_off(sequential(), ours(directory), 14)
    capfd.readouterr()
    fit(sequential(), ours(directory), epochs=2, verbose=1)
    shown = capfd.readouterr().out
    assert "Epoch 2/2" in shown
    assert "Epoch 1/2" not in shown
    assert "3/10" in shown
    assert "2/10" not in shown


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_batches_that_others_see_after_a_resume_are_right(directory, steps_per_execution):
    def model():
        return sequential(steps_per_execution=steps_per_execution)

    fit(model(), whole := Seen(), ours(directory + "-whole"))
    break_off(model(), ours(directory, save_freq=4), 14 if steps_per_execution == 1 else 5)
    fit(model(), callback := ours(directory, save_freq=4), seen := Seen())
    assert callback.resumed_from.batch > 0
    assert seen.batches == whole.batches[-len(seen.batches) :]
    assert seen.batches[0] == callback.resumed_from.batch


@of_keras_3
def test_no_epochs_at_all_claim_nothing_about_the_data(directory, caplog):
    caplog.set_level(logging.INFO, "ckptkit")
    fit(sequential(), ours(directory), epochs=0)
    assert "training data:" not in caplog.text


@pytest.mark.parametrize("after_steps", [14, STEPS], ids=["within an epoch", "between epochs"])
def test_a_resume_says_in_one_line_what_came_back_from_where_how_old_it_is_and_how_exact_its_data_are(
    directory, caplog, after_steps
):
    options = {"save_freq": "epoch"} if after_steps == STEPS else {}
    # The second one has no state.
    others = [keras.callbacks.EarlyStopping("loss", patience=9), keras.callbacks.LambdaCallback()]
    told = r"1 callback \(EarlyStopping\)"
    if after_steps != STEPS:
        others.append(keras.callbacks.ReduceLROnPlateau("loss"))
        told = r"2 callbacks \(EarlyStopping, ReduceLROnPlateau\)"
    named = {"validation_data": (X, Y), "validation_batch_size": 40}
    break_off(sequential(), ours(directory, **options), after_steps + (after_steps == STEPS), *others, **named)
    caplog.set_level(logging.INFO, "ckptkit")
    callback = ours(directory, **options)
    fit(sequential(), callback, *others, epochs=2, **named)
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("resuming")]
    record = callback.resumed_from
    assert re.fullmatch(
        rf"resuming from {record.prefix}, saved \d+ s ago, at step {record.step}, epoch 1, batch {record.batch}: "
        rf"restored model, optimizer, random numbers, {told}; training data: (.*); "
        r"validation data: (.*)\.",
        line,
    )
    guarantee = r"replay, a resume draws and drops" if IS_LEGACY else "iterator, the position is restored, exactly"
    assert line.count(f" data: {guarantee}") == 2


def test_a_fit_that_is_to_be_silent_logs_nothing_that_goes_well(directory, caplog):
    caplog.set_level(logging.INFO, "ckptkit")
    break_off(sequential(), ours(directory, verbose=0), 14)
    fit(sequential(), ours(directory, verbose=0), epochs=2)
    assert [record.getMessage() for record in caplog.records if record.levelname == "INFO"] == []
