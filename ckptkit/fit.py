"""How ckptkit gets into ``model.fit``: behind all other callbacks, and into the loop over the batches.

    callbacks = callback_list(on_train_begin_frame)
    epochs = epoch_iterator(on_train_begin_frame)
    AfterAll(...).join(callbacks)                       # its hooks run when every other callback's have run
    InputHooks(epochs, ...)                             # sees each iterator, each step, and may skip the first ones

Keras goes over ``epoch_iterator``, which it makes before ``on_train_begin``, once an epoch, and asks it for the next
step when every callback has seen the one before. Standing there, and not in front of the train function, skipping
costs nothing: Keras begins the epoch at the later batch, and no callback sees a batch that is not trained.

Source: keras/src/backend/tensorflow/trainer.py, keras/src/trainers/epoch_iterator.py and
keras/src/callbacks/callback_list.py of Keras 3.15; tests/test_fit.py fails if they work differently.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

import numpy as np

from ckptkit.input_position import InputPosition
from ckptkit.which_keras import keras

__all__ = [
    "AfterAll",
    "BeforeAll",
    "InputHooks",
    "callback_list",
    "disarm",
    "epoch_iterator",
    "epoch_logs",
    "find_callback",
    "first_epoch",
    "runs_in_fit",
    "validation_data",
    "validation_input",
]


def callback_list(frame: FrameType | None) -> keras.callbacks.CallbackList:
    """Return the list whose ``on_train_begin`` is running; it hands out no reference to itself, but its frame has one.

    Args:
        frame: The caller of a callback's ``on_train_begin``.

    Raises:
        RuntimeError: It was not a ``keras.callbacks.CallbackList`` that called.
    """
    found = None if frame is None else frame.f_locals.get("self")
    if not isinstance(found, keras.callbacks.CallbackList):
        raise RuntimeError(
            "on_train_begin was not called by a keras.callbacks.CallbackList. ckptkit's callbacks work in model.fit; "
            "in a loop of your own use ckptkit.TrainingLoop."
        )
    return found


def epoch_iterator(frame: FrameType | None) -> Any:
    """Return what ``fit`` goes over in each epoch.

    Args:
        frame: The caller of a callback's ``on_train_begin``, which ``fit`` has called.

    Raises:
        RuntimeError: It was not Keras' own ``fit``.
    """
    found = None if frame is None or frame.f_back is None else frame.f_back.f_locals.get("epoch_iterator")
    if not hasattr(found, "_enumerate_iterator"):
        raise RuntimeError(
            "on_train_begin was not called by keras.Model.fit of a version that ckptkit knows (3.11 and later). "
            "In a loop of your own use ckptkit.TrainingLoop."
        )
    return found


def first_epoch(frame: FrameType | None) -> int:
    """Return the ``initial_epoch`` that ``fit`` was called with.

    Args:
        frame: The caller of a callback's ``on_train_begin``, which ``fit`` has called.
    """
    return 0 if frame is None or frame.f_back is None else int(frame.f_back.f_locals.get("initial_epoch", 0))


def validation_data(frame: FrameType | None) -> Any:
    """Return the first part of what ``fit`` is to validate on, None if there is none.

    Args:
        frame: The caller of a callback's ``on_train_begin``, which ``fit`` has called.
    """
    return None if frame is None or frame.f_back is None else frame.f_back.f_locals.get("val_x")


def validation_input(model: keras.Model) -> Any:
    """Return what the validation that is beginning in ``fit`` goes over; None for another one."""
    return getattr(model, "_eval_epoch_iterator", None)


def runs_in_fit(frame: FrameType | None) -> Callable[[FrameType | None], bool]:
    """Return what says of a frame whether this very ``fit`` has called it, through however many others.

    Args:
        frame: The caller of a callback's ``on_train_begin``, which ``fit`` has called.
    """
    fit = None if frame is None else frame.f_back
    epochs = weakref.ref(epoch_iterator(frame))
    code = None if fit is None else fit.f_code

    def runs(at: FrameType | None) -> bool:
        ours = epochs()
        while at is not None and ours is not None:
            if at.f_code is code and at.f_locals.get("epoch_iterator") is ours:
                return True
            at = at.f_back
        return False

    return runs


def find_callback(callbacks: keras.callbacks.CallbackList, kind: type[Any]) -> Any:
    """Return the first callback of a class, None if there is none."""
    return next((callback for callback in callbacks.callbacks if isinstance(callback, kind)), None)


class BeforeAll(keras.callbacks.Callback):
    """Runs hooks before those of every other callback.

    Args:
        owner: Who wants it.
        logs: What the last train step before a resume returned; it goes into the logs of the first epoch where there
            are none because it had no step left to do.
        on_epoch_begin, on_test_begin, on_test_end: The hooks.
    """

    def __init__(
        self,
        owner: object,
        logs: Mapping[str, Any] | None = None,
        on_epoch_begin: Callable[[], None] = lambda: None,
        *,
        on_test_begin: Callable[[], None] = lambda: None,
        on_test_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.owner = owner
        self._epoch_begin = on_epoch_begin
        self._test_begin = on_test_begin
        self._test_end = on_test_end
        self._logs = {
            name: np.asarray(value).item() if np.ndim(value) == 0 else value for name, value in (logs or {}).items()
        }

    def join(self, callbacks: keras.callbacks.CallbackList) -> None:
        """Take a place at the beginning of a list."""
        # A new list, since Keras may be walking over the old one.
        callbacks.callbacks = [self, *callbacks.callbacks]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Run the hook."""
        self._epoch_begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Complete the logs of the first epoch."""
        if logs is not None and not self._logs.keys() & logs.keys():
            completed = sorted((self._logs | logs).items())  # the order that Keras brings logs into
            logs.clear()
            logs.update(completed)
        self._logs = {}

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Run the hook."""
        self._test_begin()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Run the hook."""
        self._test_end()


class AfterAll(keras.callbacks.Callback):
    """Runs hooks after those of every other callback, wherever its owner stands in the user's list.

    Args:
        owner: Who wants it.
        order: Of several at the end of a list, the lower comes first.
        on_train_begin, on_epoch_end, on_train_end: The hooks.
    """

    def __init__(
        self,
        owner: object,
        order: int = 0,
        *,
        on_train_begin: Callable[[], None] = lambda: None,
        on_epoch_end: Callable[[int, dict[str, Any]], None] = lambda epoch, logs: None,
        on_train_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.owner = owner
        self.order = order
        self._train_begin = on_train_begin
        self._epoch_end = on_epoch_end
        self._train_end = on_train_end
        self._list: keras.callbacks.CallbackList | None = None

    def join(self, callbacks: keras.callbacks.CallbackList) -> None:
        """Take a place at the end of a list, while its ``on_train_begin`` is running: ours then comes in this round."""
        self._list = callbacks
        later = [c for c in callbacks.callbacks if isinstance(c, AfterAll) and c.order > self.order]
        at = callbacks.callbacks.index(later[0]) if later else len(callbacks.callbacks)
        callbacks.callbacks.insert(at, self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Run the hook."""
        self._train_begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Run the hook."""
        self._epoch_end(epoch, logs or {})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Run the hook and leave the list, which a user may pass to another ``fit``."""
        if self._list is None:  # disarmed
            return
        # A new list, since Keras is walking over the old one.
        ours = [c for c in self._list.callbacks if isinstance(c, (BeforeAll, AfterAll)) and c.owner is self.owner]
        self._list.callbacks = [c for c in self._list.callbacks if c not in ours]
        self._train_end()


def disarm(callbacks: keras.callbacks.CallbackList, owner: object) -> None:
    """Let an owner's hooks do nothing any more: those that a fit which was broken off has left in a user's list."""
    for each in callbacks.callbacks:
        if isinstance(each, (BeforeAll, AfterAll)) and each.owner is owner:
            each.__dict__.update(type(each)(owner).__dict__)  # no change of the list: Keras is walking over it


class InputHooks:
    """Gets into the loop over the batches, of training or of validation.

    Args:
        epochs: Keras' epoch iterator.
        position: Goes over its dataset in its place.
        before_epoch: Called when the loop over the batches begins, behind every ``on_epoch_begin``.
        before_step: Called before a step that follows another in the same epoch, with the batches done in it and a
            function that returns the logs of the last step.
    """

    def __init__(
        self,
        epochs: Any,
        position: InputPosition,
        before_epoch: Callable[[], None] = lambda: None,
        before_step: Callable[[int, Callable[[], Mapping[str, Any]]], None] | None = None,
    ) -> None:
        self._epochs = epochs
        self._position = position
        self._before_epoch = before_epoch
        self._before_step = before_step
        self._skip = 0
        self._is_all_done = False  # in the epoch that comes next
        self._begun = (0, 0)  # batches with and without the last step
        epochs._get_iterator = lambda: position
        epochs._enumerate_iterator = self._steps

    def skip(self, batches: int, *, is_all: bool = False) -> None:
        """Begin the next epoch behind so many batches; the position is moved there as well.

        Args:
            batches: Batches done.
            is_all: Whether the next epoch has no more of them: it ends at once, and its data are not asked.
        """
        self._skip, self._is_all_done = batches, is_all

    @property
    def is_all_done(self) -> bool:
        """Whether the next epoch, or the one that begins just now, has no batches left."""
        return self._is_all_done

    @property
    def batches_done(self) -> int:
        """Batches of the newest epoch that are done, at its end."""
        begun, done = self._begun
        if begun == done:
            return done  # all were, before a resume
        batches = self._epochs.num_batches
        if self._epochs._current_iterator is None and batches is not None:
            return done  # the data had run out when the last step was begun
        return begun if batches is None else min(begun, int(batches))

    @property
    def goes_on(self) -> bool:
        """Whether the next epoch goes on with the iterator that is there now."""
        return self._epochs.steps_per_epoch is not None and self._epochs._current_iterator is not None

    def _steps(self) -> Iterator[tuple[int, int, Any]]:
        skip, self._skip = self._skip, 0
        self._before_epoch()
        if self._is_all_done:
            self._is_all_done, self._begun = False, (skip, skip)
            return
        first = True
        for begin, end, iterator in type(self._epochs)._enumerate_iterator(self._epochs):
            if begin < skip:
                continue
            if first and skip and self._epochs.steps_per_epoch is not None:
                # Keras has counted from this epoch's start, and the stream began in an earlier one.
                self._epochs._steps_seen += self._position.drawn - skip
            if not first and self._before_step is not None:
                self._before_step(begin, _logs_of_caller)
            first = False
            self._position.drew(self._epochs.steps_per_execution)
            self._begun = (end + 1, begin)
            yield begin, end, iterator


def dataset_of(epochs: Any) -> Iterable[Any]:
    """Return the dataset that Keras' epoch iterator goes over."""
    return epochs._get_iterator()  # type: ignore[no-any-return]


def epoch_logs() -> Mapping[str, Any]:
    """Return the logs of the epoch whose validation ``fit`` has begun, without those of the validation."""
    return _local_of_fit("epoch_logs")


def _logs_of_caller() -> Mapping[str, Any]:
    """Return the logs of the last step: a local variable of ``fit``, which is asking for the next one."""
    return _local_of_fit("logs")


def _local_of_fit(name: str) -> Mapping[str, Any]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and "training_logs" not in frame.f_locals:
        frame = frame.f_back
    logs = None if frame is None else frame.f_locals.get(name)
    return logs if isinstance(logs, Mapping) else {}
