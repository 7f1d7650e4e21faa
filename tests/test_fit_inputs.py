"""The data of a fit that is resumed: which guarantee is given, what has changed is refused or means what is written."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import finished_fits
from ckptkit.fit_inputs import FitInputs
from ckptkit.fit_place import fits_of
from ckptkit.which_keras import IS_LEGACY, keras
from tests.test_callbacks import STEPS, BreakOff, BreaksOff, Seen, X, Y, everything, sequential

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(tmp_path):
    finished_fits.forget()
    yield str(tmp_path / "run")
    finished_fits.forget()


def rows():
    return tf.data.Dataset.from_tensor_slices((X, Y))


class Rows(keras.utils.Sequence):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]


def generated():
    while True:
        for at in range(STEPS):
            yield X[4 * at : 4 * at + 4], Y[4 * at : 4 * at + 4]


def fit(data, directory, *extra, model=None, options=(), **named):
    """Fit with a sync save every 3 steps; return (history, model, our callback)."""
    model = sequential(run_eagerly=IS_LEGACY) if model is None else model  # a trace of Keras 2 is dear
    named = {"epochs": 3, "verbose": 0, **named}
    if not isinstance(data, tuple):
        data, named = (data,), {"shuffle": False, **named}
    callback = ckptkit.TrainingCheckpoint(directory, **{"save_freq": 3, "async_save": False, **dict(options)})
    return model.fit(*data, callbacks=[callback, *extra], **named), model, callback


def saved_fit(callback, record):
    return fits_of(record, callback.manager.state(record))[-1]


def break_off(data, directory, after_steps, **named):
    with pytest.raises(BreakOff):
        fit(data, directory, BreaksOff(after_steps), **named)


OF_ARRAYS = (
    r"training data: replay, .*exact if .* \(arrays are one stream over all epochs"
    if IS_LEGACY
    else r"training data: iterator, the position is restored, exactly\."
)


@pytest.mark.core
@pytest.mark.parametrize(
    ("data", "named", "line"),
    [
        (lambda: (X, Y), {"batch_size": 4}, OF_ARRAYS),
        (lambda: rows().shuffle(40).batch(4), {}, r"training data: iterator, the position is restored"),
        (
            lambda: rows().map(lambda x, y: (x + tf.random.normal([6]), y)).batch(4),
            {},
            r"training data: replay, a resume draws and drops .* \(RandomStandardNormal is stateful\)",
        ),
        (Rows, {}, r"training data: replay, .*exact if the source is deterministic \(a (PyDataset|Sequence) "),
        (generated, {"steps_per_epoch": STEPS}, r"training data: replay, .* \(a Python generator has no state"),
        (lambda: rows().shuffle(10**6).batch(4), {}, r"replay, .*\(the shuffle buffers hold up to .* over the limit\)"),
    ],
    ids=["arrays", "shuffle", "random map", "PyDataset", "generator", "huge buffer"],
)
def test_the_first_save_says_in_one_line_which_guarantee_holds(directory, caplog, data, named, line):
    with caplog.at_level(logging.INFO, "ckptkit"):
        keras.utils.set_random_seed(1)
        fit(data(), directory, **named)
    said = [record.message for record in caplog.records if record.message.startswith("training data:")]
    assert len(said) == 1
    import re

    assert re.search(line, said[0])


@pytest.fixture
def no_seed():
    before = tf.random.get_global_generator()  # set_seed(None) forgets nothing else that a test relies on
    tf.random.set_seed(None)
    yield before
    keras.utils.set_random_seed(0)


@pytest.mark.core
def test_a_shuffle_without_a_seed_that_cannot_be_saved_begins_anew_and_says_why(directory, caplog, no_seed):
    data = rows().shuffle(40).map(lambda x, y: (x + tf.random.normal([6]), y)).batch(4)
    fit(data, directory)
    assert "training data: restart, a resume goes on with the first batches" in caplog.text
    assert "a shuffle has no seed: call keras.utils.set_random_seed" in caplog.text


@pytest.mark.parametrize("input_state", ["iterator", "replay"])
def test_a_way_that_is_asked_for_is_taken_and_exact(directory, tmp_path, input_state, caplog):
    options = {"input_state": input_state}.items()
    caplog.set_level(logging.INFO, "ckptkit")
    keras.utils.set_random_seed(3)
    whole = fit(rows().shuffle(40, seed=1).batch(4), tmp_path / "whole", options=options)[1]
    break_off(rows().shuffle(40, seed=1).batch(4), directory, 18, options=options)
    assert f"training data: {input_state}, " in caplog.text
    assert everything(fit(rows().shuffle(40, seed=1).batch(4), directory, options=options)[1]) == everything(whole)


@pytest.mark.core
def test_a_restart_that_is_asked_for_trains_the_rest_of_the_epoch_on_the_first_batches(directory):
    seen = []

    def watched():
        return rows().enumerate().map(lambda at, row: (tf.py_function(watch, [at], tf.float32) + row[0], row[1]))

    def watch(at):
        seen.append(int(at))
        return np.zeros(6, "float32")

    data = rows().batch(4)
    break_off(data, directory, 18, options={"input_state": "restart"}.items())
    batches = Seen()
    _, model, callback = fit(data, directory, batches, options={"input_state": "restart"}.items())
    assert callback.resumed_from.batch == 5
    assert batches.batches == [*range(5, STEPS), *range(STEPS)]
    assert int(model.optimizer.iterations) == 3 * STEPS


@pytest.mark.core
def test_an_iterators_state_that_is_asked_for_and_cannot_be_had_is_an_error(directory):
    data = rows().map(lambda x, y: (x + tf.random.normal([6]), y)).batch(4)
    with pytest.raises(ValueError, match=r'input_state="iterator" was asked for.*RandomStandardNormal is stateful'):
        fit(data, directory, options={"input_state": "iterator"}.items())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"input_state": "exact"}, "input_state must be one of 'auto', 'iterator', 'replay', 'restart', got 'exact'"),
        ({"max_input_state_bytes": -1}, "max_input_state_bytes must be a whole number of bytes, got -1"),
        ({"max_input_state_bytes": True}, "max_input_state_bytes must be a whole number of bytes, got True"),
    ],
    ids=str,
)
def test_nonsense_about_the_input_is_refused_before_training(directory, argument, message):
    with pytest.raises(ValueError, match=message):
        ckptkit.TrainingCheckpoint(directory, **argument)


def test_something_else_than_callbacks_is_refused_before_training(directory):
    with pytest.raises(TypeError, match="callbacks must hold Keras callbacks, got 'EarlyStopping'"):
        ckptkit.TrainingCheckpoint(directory, callbacks=["EarlyStopping"])


@pytest.mark.core
def test_another_batch_size_in_mid_epoch_is_refused_and_says_what_to_do(directory):
    break_off((X, Y), directory, 18, batch_size=4)
    model = sequential()
    message = r"at batch 5 of an epoch of 10 batches, and the data has 20 batches.*\n.*same? ?.*input_state=\"restart\""
    with pytest.raises(ckptkit.CheckpointMismatchError, match=message.replace("same? ?", "")):
        fit((X, Y), directory, model=model, batch_size=2)
    assert fit((X, Y), directory, batch_size=2, options={"input_state": "restart"}.items())[0].epoch == [0, 1, 2]


@pytest.mark.core
@pytest.mark.skipif(not IS_LEGACY, reason="of Keras 2, where arrays are one stream over all epochs")
def test_another_batch_size_for_arrays_is_refused_between_epochs_too_unless_they_are_to_begin_anew(directory):
    epochs = {"save_freq": "epoch"}
    break_off((X, Y), directory, STEPS + 1, batch_size=4, options=epochs.items())
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r'(?s)batch 10 of other .*input_state="restart"'):
        fit((X, Y), directory, batch_size=2, options=epochs.items())
    _, model, callback = fit((X, Y), directory, batch_size=2, options=(epochs | {"input_state": "restart"}).items())
    assert callback.resumed_from.step == STEPS
    assert int(model.optimizer.iterations) == STEPS + 2 * 20


def test_another_batch_size_between_two_epochs_goes_on_with_the_next_epoch(directory):
    break_off((X, Y), directory, STEPS + 1, batch_size=4, options={"save_freq": "epoch"}.items())
    _, model, callback = fit((X, Y), directory, batch_size=2, options={"save_freq": "epoch"}.items())
    assert callback.resumed_from.step == STEPS
    assert int(model.optimizer.iterations) == STEPS + 2 * 20


@pytest.mark.core
def test_data_that_end_before_the_saved_place_are_refused(directory):
    def some(batches):
        return tf.data.Dataset.from_generator(
            lambda: iter([(X[:4], Y[:4])] * batches),
            output_signature=(tf.TensorSpec((None, 6)), tf.TensorSpec((None, 1))),
        )

    options = {"steps_per_epoch": STEPS}
    break_off(some(3 * STEPS), directory, 18, **options)
    with pytest.raises(
        ckptkit.CheckpointMismatchError, match=r"at batch 15 of the training data, which has come to its"
    ):
        fit(some(5), directory, **options)


@pytest.mark.core
def test_data_of_another_kind_are_refused_with_both_sides(directory):
    break_off(rows().batch(4), directory, 18)
    other = rows().map(lambda x, y: (tf.cast(x, tf.float64), y)).batch(4)
    with pytest.raises(
        ckptkit.CheckpointMismatchError,
        match=r"(?s)batch 5 of other training data: the kind of batch.*float32.*float64",
    ):
        fit(other, directory)


@pytest.mark.core
def test_steps_per_execution_that_step_over_the_saved_place_are_refused(directory):
    break_off((X, Y), directory, 18, batch_size=4)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"batch 5 of an epoch, which steps_per_execution=2"):
        fit((X, Y), directory, model=sequential(steps_per_execution=2), batch_size=4)


def test_fewer_epochs_than_were_trained_train_nothing_and_say_so(directory, caplog):
    whole, _, _ = fit((X, Y), directory, batch_size=4)
    finished_fits.forget()
    again, model, _ = fit((X, Y), directory, batch_size=4, epochs=2)
    assert again.history == whole.history
    assert int(model.optimizer.iterations) == 3 * STEPS
    assert "nothing to train" in caplog.text
    assert "at the end of epoch 3, and 2 epochs were asked for" in caplog.text


@pytest.mark.core
def test_a_py_dataset_is_told_of_the_epochs_it_has_seen(directory):
    class Shuffles(Rows):
        def __init__(self):
            super().__init__()
            self.told = []

        def on_epoch_begin(self):
            self.told.append("begin")

        def on_epoch_end(self):
            self.told.append("end")

    whole = Shuffles()
    fit(whole, directory + "-whole")
    break_off(Shuffles(), directory, 25)
    resumed = Shuffles()
    fit(resumed, directory)
    assert resumed.told == whole.told


@pytest.mark.core
def test_a_validation_that_is_shuffled_goes_on_where_it_was(directory, tmp_path):
    def validation():
        keras.utils.set_random_seed(2)
        return rows().shuffle(40).batch(4).take(3)

    named = {"batch_size": 4, "options": {"save_freq": "epoch"}.items()}
    whole, _, _ = fit((X, Y), tmp_path / "whole", validation_data=validation(), **named)
    break_off((X, Y), directory, 2 * STEPS + 3, validation_data=validation(), **named)
    resumed, _, _ = fit((X, Y), directory, validation_data=validation(), **named)
    assert resumed.history == whole.history
    assert len(set(whole.history["val_loss"])) == 3


def test_the_listed_callbacks_alone_have_a_state(directory, caplog):
    stop, plateau = keras.callbacks.EarlyStopping("loss"), keras.callbacks.ReduceLROnPlateau("loss")
    callback = ckptkit.TrainingCheckpoint(directory, callbacks=[stop], async_save=False)
    sequential().fit(X, Y, verbose=0, callbacks=[callback, plateau, stop])
    record = callback.manager.records()[-1]
    assert sorted(saved_fit(callback, record).callbacks) == ["EarlyStopping"]


@pytest.mark.parametrize("ours_first", [True, False])
def test_an_epoch_end_save_sees_the_other_callbacks_after_their_epoch_wherever_it_stands(directory, ours_first):
    stop = keras.callbacks.EarlyStopping("loss", patience=9, min_delta=10**6)
    callback = ckptkit.TrainingCheckpoint(directory, async_save=False, max_to_keep=None)
    sequential().fit(X, Y, epochs=3, verbose=0, callbacks=[callback, stop] if ours_first else [stop, callback])
    waits = [saved_fit(callback, record).callbacks["EarlyStopping"]["wait"] for record in callback.manager.records()]
    assert waits == [0, 1, 2]


def test_steps_count_up_where_the_optimizer_counts_something_else(directory):
    model = sequential()
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=3), "mse")
    for _ in range(2):
        _, _, callback = fit(
            (X, Y), directory, model=model, batch_size=4, epochs=1, options={"max_to_keep": None}.items()
        )
    assert [record.step for record in callback.manager.records()] == [3, 6, 9, 10, 12, 15, 18, 20]


def test_the_data_do_not_live_longer_than_the_fit(directory):
    import gc
    import weakref

    class Held(Rows):
        pass

    data = Held()
    alive = weakref.ref(data)
    _, _, callback = fit(data, directory, epochs=1)
    del data
    gc.collect()
    assert alive() is None or not any(isinstance(value, FitInputs) for value in vars(callback).values())
