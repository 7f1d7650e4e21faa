"""What ckptkit relies on in Keras' fit, and its two ways in: in front of each step, behind each callback."""

import keras
import numpy as np
import pytest

from ckptkit.fit import AfterAll, StepFunction, callback_list, find_callback

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
        import sys

        self.list = callback_list(sys._getframe(1))
        for member in self.members:
            member.join(self.list)


def model(**options):
    built = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    built.compile("sgd", "mse", **options)
    return built


def after_all(order, seen, name):
    return AfterAll(
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


def test_keras_reads_the_train_function_anew_at_every_step_after_on_train_begin():
    calls = []

    class Replaces(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            inner = self.model.train_function
            self.model.train_function = lambda iterator: calls.append(iterator) or inner(iterator)

    model().fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[Replaces()])
    assert len(calls) == 8
    assert len({id(iterator) for iterator in calls}) == 2, "one iterator an epoch"


def test_keras_takes_the_first_epoch_from_the_model_when_it_is_set_in_on_train_begin():
    class Skips(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 2

    fitted = model()
    assert fitted._initial_epoch is None
    assert fitted.fit(X, Y, epochs=4, verbose=0, callbacks=[Skips()]).epoch == [2, 3]


def test_step_function_asks_between_steps_and_neither_before_the_first_nor_after_the_last():
    asked, data = [], iter(range(100))
    steps = StepFunction(lambda iterator: next(iterator), 1, asked.append)
    steps.begin_epoch(skip=0)
    assert [steps(data) for _ in range(4)] == [0, 1, 2, 3]
    assert asked == [1, 2, 3]


def test_step_function_draws_and_drops_what_is_to_be_skipped_without_a_step():
    asked, data = [], iter(range(100))
    steps = StepFunction(lambda iterator: next(iterator), 1, asked.append)
    steps.begin_epoch(skip=3)
    assert [steps(data) for _ in range(5)] == [{}, {}, {}, 3, 4]
    assert asked == [4]


def test_step_function_counts_several_steps_a_call():
    asked, data = [], iter(range(100))
    steps = StepFunction(lambda iterator: [next(iterator) for _ in range(4)], 4, asked.append)
    steps.begin_epoch(skip=4)
    assert [steps(data) for _ in range(3)] == [{}, [4, 5, 6, 7], [8, 9, 10, 11]]
    assert asked == [8]


def test_step_function_lets_calls_through_that_are_not_of_the_announced_epoch():
    asked = []
    steps = StepFunction(lambda iterator: next(iterator), 1, asked.append)
    data, other = iter(range(10)), iter("abc")
    assert steps(other) == "a"
    steps.begin_epoch(skip=0)
    assert steps(data) == 0
    assert steps(other) == "b"
    assert steps(data) == 1
    steps.end_epoch()
    assert steps(data) == 2
    assert asked == [1]
