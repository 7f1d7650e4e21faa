"""What ckptkit relies on in the fit of Keras 2, and its way into the loop over the batches."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from ckptkit.fit import callback_list
from ckptkit.fit_frame import epoch_iterator
from ckptkit.input_hooks import InputHooks, dataset_of, facts_of, replay_epochs, sequence_of
from ckptkit.input_position import InputPosition
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = [pytest.mark.core, pytest.mark.skipif(not IS_LEGACY, reason="of Keras 2; see test_fit.py for Keras 3")]

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


def model(**options):
    built = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    built.compile("sgd", "mse", **options)
    return built


class Hooks(keras.callbacks.Callback):
    """Gets into the loop over the batches, and notes what happens in which order."""

    def __init__(self, skip=0, at=0, first=None, is_all=False):
        super().__init__()
        self.seen, self.skip, self.at, self.first, self.is_all = [], skip, at, first, is_all

    def on_train_begin(self, logs=None):
        frame = sys._getframe(1)
        epochs = epoch_iterator(frame)
        self.position = InputPosition(dataset_of(epochs))
        self.hooks = InputHooks(
            epochs,
            self.position,
            lambda: self.seen.append("epoch"),
            lambda batch, logs: self.seen.append((batch, sorted(logs()))),
            model=self.model,
            callbacks=callback_list(frame),
        )
        self.hooks.begin_at(self.first)
        if self.skip:
            spec = str(self.position._dataset.element_spec)
            self.position.move_to({"before": [0], "drawn": self.at, "way": "replay", "spec": spec}, ())
            self.hooks.skip(self.skip, is_all=self.is_all, logs={"loss": np.float32(0.5)})

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(batch)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("end", epoch, self.hooks.batches_done, logs["loss"] == 0.5))


def dataset(batch=2):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch)


def ends(hooks):
    return [each[1:3] for each in hooks.seen if isinstance(each, tuple) and each[0] == "end"]


def fit(hooks, data=None, **options):
    compiled = {name: options.pop(name) for name in ("steps_per_execution",) if name in options}
    model(**compiled).fit(dataset() if data is None else data, verbose=0, callbacks=[hooks], **options)
    return hooks


def test_the_hooks_are_called_before_an_epochs_batches_and_between_two_steps_only():
    hooks = fit(Hooks(), epochs=2)
    epoch = ["epoch", 0, (1, ["loss"]), 1, (2, ["loss"]), 2, (3, ["loss"]), 3]
    assert hooks.seen == [*epoch, ("end", 0, 4, False), *epoch, ("end", 1, 4, False)]


def test_the_hooks_count_steps_where_keras_takes_several_a_call_and_fewer_at_the_end():
    hooks = fit(Hooks(), dataset(1), steps_per_execution=3)
    assert hooks.seen == ["epoch", 0, (3, ["loss"]), 3, (6, ["loss"]), 6, ("end", 0, 8, False)]
    assert hooks.position.drawn == 8


def test_keras_makes_an_iterator_more_before_the_first_epoch_unless_it_is_one_stream():
    assert fit(Hooks(), epochs=2).position._iterators == [0, 4, 4]
    assert fit(Hooks(), dataset().repeat(), epochs=2, steps_per_epoch=3).position._iterators == [6]


def test_skipped_batches_are_not_seen_by_callbacks_and_iterators_made_before_are_not_made_again():
    hooks = fit(Hooks(skip=2, at=2), epochs=2)
    assert hooks.seen[:5] == ["epoch", 2, (3, ["loss"]), 3, ("end", 0, 4, False)]
    assert hooks.position._iterators == [0, 4, 4]


def test_an_epoch_whose_batches_are_all_done_ends_at_once_with_the_logs_it_had_and_trains_nothing():
    trained = model()
    before = [variable.numpy() for variable in trained.variables]
    hooks, calls = Hooks(skip=4, is_all=True), []
    trained.fit(
        dataset(), verbose=0, callbacks=[hooks, keras.callbacks.LambdaCallback(on_batch_end=lambda *_: calls.append(1))]
    )
    assert hooks.seen[0] == "epoch"
    assert hooks.seen[-1][:3] == ("end", 0, 4)
    assert calls == []
    np.testing.assert_equal([variable.numpy() for variable in trained.variables], before)


def test_the_train_function_and_the_callbacks_are_as_they_were_behind_an_epoch_that_was_done():
    hooks = fit(Hooks(skip=4, is_all=True), epochs=2)
    assert hooks.seen[2:] == ["epoch", 0, (1, ["loss"]), 1, (2, ["loss"]), 2, (3, ["loss"]), 3, ("end", 1, 4, False)]


@pytest.mark.parametrize(("first", "ended"), [(None, [0, 1, 2]), (2, [2]), (3, [])])
def test_fit_begins_with_the_epoch_it_is_told_and_makes_no_iterator_for_none(first, ended):
    hooks = fit(Hooks(first=first), epochs=3)
    assert [epoch for epoch, _ in ends(hooks)] == ended
    assert bool(hooks.position._iterators) == bool(ended)


def test_data_of_unknown_length_are_counted_to_their_end():
    hooks = fit(Hooks(), dataset().filter(lambda x, y: True), epochs=2)
    assert ends(hooks) == [(0, 4), (1, 4)]


def test_data_that_run_out_end_the_fit_with_the_batches_there_were():
    hooks = fit(Hooks(), dataset(), epochs=3, steps_per_epoch=3)
    assert ends(hooks) == [(0, 3), (1, 1)]


class Rows(keras.utils.Sequence):
    ends = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[:2], Y[:2]

    def on_epoch_end(self):
        self.ends += 1


def test_keras_ends_a_sequences_epoch_once_and_behind_the_callbacks():
    rows, seen = Rows(), []
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(rows.ends))
    model().fit(rows, epochs=2, verbose=0, callbacks=[end], validation_data=rows)
    assert seen == [1, 3]  # validations are epochs of it as well
    assert rows.ends == 4


def test_a_sequence_is_told_of_the_epochs_it_has_seen_but_not_of_the_one_that_keras_is_to_end():
    rows = Rows()
    replay_epochs(rows, 3)
    assert rows.ends == 3
    replay_epochs(rows, 3, validates=True, is_under_way=True)
    assert rows.ends == 5
    replay_epochs(X, 3)  # has no epochs


@pytest.mark.parametrize(
    ("data", "one_stream", "obstacle"),
    [
        (lambda: (X, Y), False, "arrays are one stream"),
        (lambda: ([1.0, 2.0], [1.0, 2.0]), False, "arrays are one stream"),
        (lambda: (Rows(),), False, "a Sequence is a Python object"),
        (lambda: (iter([(X, Y)] * 9),), True, None),
        (lambda: (dataset(),), False, None),
    ],
    ids=["arrays", "numbers", "sequence", "generator", "dataset"],
)
def test_what_keras_knows_of_its_data_decides_how_their_place_is_kept(data, one_stream, obstacle):
    from tf_keras.src.engine import data_adapter

    handler = data_adapter.get_data_handler(*data(), steps_per_epoch=1, model=model())
    facts = facts_of(handler)
    assert facts.one_stream == one_stream
    assert (facts.obstacle or "").startswith(obstacle or "")
    assert bool(facts.obstacle) == bool(obstacle)
    assert isinstance(sequence_of(handler), Rows) == (obstacle == "a Sequence is a Python object")
