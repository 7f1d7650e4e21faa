"""What ckptkit relies on in Keras' fit, and its two ways in: in front of each step, behind each callback."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from ckptkit.fit import AfterAll, BeforeAll, callback_list, find_callback
from ckptkit.fit_frame import epoch_iterator, epoch_logs, runs_in_fit
from ckptkit.input_hooks import InputHooks, dataset_of
from ckptkit.input_position import InputPosition
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core
of_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 has no such thing, or does it otherwise")

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


class Recorder(keras.callbacks.Callback):
    def __init__(self, seen, name):
        super().__init__()
        self.seen, self.name = seen, name

    def on_train_begin(self, logs=None):
        self.seen.append(f"{self.name} begin")

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(f"{self.name} epoch {epoch}")

    def on_train_end(self, logs=None):
        self.seen.append(f"{self.name} end")


class Joins(keras.callbacks.Callback):
    def __init__(self, *members):
        super().__init__()
        self.members = members
        self.list = None

    def on_train_begin(self, logs=None):
        self.list = callback_list(sys._getframe(1))
        for member in self.members:
            member.join(self.list)


def model(**options):
    built = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    built.compile("sgd", "mse", **options)
    return built


def after_all(order, seen, name):
    return AfterAll(
        seen,
        order,
        on_train_begin=lambda: seen.append(f"{name} begin"),
        on_epoch_end=lambda epoch, logs: seen.append(f"{name} epoch {epoch} {sorted(logs)}"),
        on_train_end=lambda: seen.append(f"{name} end"),
    )


def test_hooks_behind_all_run_after_every_callback_wherever_their_owner_stands():
    seen = []
    joins = Joins(after_all(0, seen, "ours"))
    model().fit(X, Y, verbose=0, callbacks=[joins, Recorder(seen, "user")])
    assert seen == ["user begin", "ours begin", "user epoch 0", "ours epoch 0 ['loss']", "user end", "ours end"]


def test_of_several_behind_all_the_lower_order_comes_first_whoever_joined_first():
    seen = []
    joins = [Joins(after_all(1, seen, "export")), Joins(after_all(0, seen, "checkpoint"))]
    model().fit(X, Y, verbose=0, callbacks=joins)
    assert [line for line in seen if "epoch" not in line] == [
        "checkpoint begin",
        "export begin",
        "checkpoint end",
        "export end",
    ]


def test_hooks_behind_all_leave_the_list_when_fit_ends():
    joins = Joins(after_all(0, [], "ours"))
    model().fit(X, Y, verbose=0, callbacks=[joins])
    assert find_callback(joins.list, AfterAll) is None
    assert find_callback(joins.list, Joins) is joins


def test_a_callback_called_by_something_else_than_a_list_is_told_what_to_use():
    with pytest.raises(RuntimeError, match=r"not called by a keras\.callbacks\.CallbackList.*TrainingLoop"):
        Joins().on_train_begin()


@of_keras_3
def test_keras_takes_the_first_epoch_from_the_model_when_it_is_set_in_on_train_begin():
    class Skips(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 2

    fitted = model()
    assert fitted._initial_epoch is None
    assert fitted.fit(X, Y, epochs=4, verbose=0, callbacks=[Skips()]).epoch == [2, 3]


class Hooks(keras.callbacks.Callback):
    """Gets into the loop over the batches, and notes what happens in which order."""

    def __init__(self, skip=0, at=0):
        super().__init__()
        self.seen, self.skip, self.at = [], skip, at

    def on_train_begin(self, logs=None):
        epochs = epoch_iterator(sys._getframe(1))
        self.position = InputPosition(dataset_of(epochs))
        self.hooks = InputHooks(
            epochs,
            self.position,
            lambda: self.seen.append("epoch"),
            lambda batch, logs: self.seen.append((batch, sorted(logs()))),
        )
        if self.skip:
            self.position.move_to({"before": [], "drawn": self.at, "way": "replay", "spec": self.spec(epochs)}, ())
            self.hooks.skip(self.skip)

    def spec(self, epochs):
        return str(self.position._dataset.element_spec)

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(batch)


def test_the_hooks_are_called_before_an_epochs_batches_and_between_two_steps_only():
    hooks = Hooks()
    model().fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[hooks])
    epoch = ["epoch", 0, (1, ["loss"]), 1, (2, ["loss"]), 2, (3, ["loss"]), 3]
    assert hooks.seen == [*epoch, *epoch]


def test_the_hooks_count_steps_where_keras_takes_several_a_call():
    hooks = Hooks()
    model(steps_per_execution=3).fit(X, Y, batch_size=1, verbose=0, callbacks=[hooks])
    assert hooks.seen == ["epoch", 0, (3, ["loss"]), 3, (6, ["loss"]), 6]


@of_keras_3
def test_skipped_batches_are_not_seen_by_callbacks_and_only_in_the_first_epoch():
    hooks = Hooks(skip=2, at=2)
    model().fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[hooks])
    assert hooks.seen == [
        "epoch",
        2,
        (3, ["loss"]),
        3,
        "epoch",
        0,
        (1, ["loss"]),
        1,
        (2, ["loss"]),
        2,
        (3, ["loss"]),
        3,
    ]


@of_keras_3
def test_a_stream_over_several_epochs_ends_where_it_would_have_ended():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(1)  # eight batches: two epochs of three, and two more
    hooks = Hooks(skip=1, at=4)
    with pytest.warns(UserWarning, match="ran out of data"):
        model().fit(data, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[hooks])
    assert [batch for batch in hooks.seen if isinstance(batch, int)] == [1, 2, 0, 1]


@of_keras_3
def test_keras_makes_an_iterator_more_in_each_epoch_whose_length_it_knows():
    hooks = Hooks()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
    model().fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[hooks])
    assert hooks.position._iterators == [4, 0, 4, 0]


@of_keras_3
def test_every_epoch_but_the_first_of_unknown_length_is_as_long_as_keras_has_counted():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2).filter(lambda x, y: True)
    hooks = Hooks()
    with pytest.warns(UserWarning, match="ran out of data"):
        model().fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[hooks])
    assert len(hooks.position._iterators) == 2


def test_a_fit_that_is_not_keras_own_is_told_what_to_use():
    class Alone(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            epoch_iterator(sys._getframe(1))

    callbacks = keras.callbacks.CallbackList([Alone()])
    with pytest.raises(RuntimeError, match=r"not called by keras\.Model\.fit.*\n?.*TrainingLoop"):
        callbacks.on_train_begin()


def test_logs_are_completed_before_any_callback_sees_them_and_only_where_there_are_none():
    seen = []

    class Sees(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    callbacks = keras.callbacks.CallbackList([Sees()])
    BeforeAll(None, {"loss": np.float32(0.5), "accuracy": 0.75}, lambda: None).join(callbacks)
    callbacks.on_epoch_end(0, {"val_loss": 0.25})
    callbacks.on_epoch_end(1, {"val_loss": 0.25})
    BeforeAll(None, {"loss": 0.5}, lambda: None).join(callbacks)
    callbacks.on_epoch_end(2, {"loss": 1.0})
    assert seen == [{"accuracy": 0.75, "loss": 0.5, "val_loss": 0.25}, {"val_loss": 0.25}, {"loss": 1.0}]
    assert list(seen[0]) == ["accuracy", "loss", "val_loss"], "as Keras orders them"
    assert type(seen[0]["loss"]) is float


def test_hooks_before_all_run_around_each_validation_and_the_epochs_logs_are_known_there():
    seen = []

    class Sees(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append("user begins")

        def on_test_end(self, logs=None):
            seen.append("user ends")

    before = BeforeAll(
        seen, on_test_begin=lambda: seen.append(sorted(epoch_logs())), on_test_end=lambda: seen.append("ends")
    )
    model().fit(X, Y, verbose=0, validation_data=(X, Y), callbacks=[Joins(after_all(0, [], ""), before), Sees()])
    assert seen == [["loss"], "user begins", "ends", "user ends"]


@of_keras_3
def test_an_epoch_whose_batches_are_all_done_ends_at_once_and_its_data_are_not_asked():
    class Done(Hooks):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                self.hooks.skip(4, is_all=True)

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append((self.hooks.batches_done, list(self.position._iterators)))

    hooks = Done()
    model().fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[hooks])
    assert hooks.seen == ["epoch", (4, []), "epoch", 0, (1, ["loss"]), 1, (2, [2, 0])]


def test_a_frame_runs_in_a_fit_only_if_that_very_one_has_called_it():
    asked = []

    class Asks(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.runs = runs_in_fit(sys._getframe(1))

        def on_train_batch_end(self, batch, logs=None):
            asked.append([each.runs(sys._getframe()) for each in begun])

    fitted, begun = model(), []
    for _ in range(2):
        begun.append(Asks())
        fitted.fit(X, Y, verbose=0, callbacks=begun[-1:])
        assert not begun[-1].runs(sys._getframe())
    assert asked == [[True], [False, True]]
