"""How ckptkit gets into ``model.fit``: in front of the train function, and behind all other callbacks.

    callbacks = callback_list(on_train_begin_frame)
    callbacks.callbacks.append(AfterAll(...))           # its hooks run when every other callback's have run
    model.train_function = StepFunction(model.train_function, before_step)

Keras calls ``make_train_function()``, then ``on_train_begin``, then reads ``model.train_function`` anew at every step.

Source: keras/src/backend/tensorflow/trainer.py and keras/src/callbacks/callback_list.py of Keras 3.15;
tests/test_fit.py fails if they work differently.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

import keras

__all__ = ["AfterAll", "StepFunction", "callback_list", "find_callback"]


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


def find_callback(callbacks: keras.callbacks.CallbackList, kind: type[Any]) -> Any:
    """Return the first callback of a class, None if there is none."""
    return next((callback for callback in callbacks.callbacks if isinstance(callback, kind)), None)


class AfterAll(keras.callbacks.Callback):
    """Runs hooks after those of every other callback, wherever its owner stands in the user's list.

    Args:
        order: Of several at the end of a list, the lower comes first.
        on_train_begin, on_epoch_end, on_train_end: The hooks.
    """

    def __init__(
        self,
        order: int,
        *,
        on_train_begin: Callable[[], None] = lambda: None,
        on_epoch_end: Callable[[int, dict[str, Any]], None] = lambda epoch, logs: None,
        on_train_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
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
        assert self._list is not None
        # A new list, since Keras is walking over the old one.
        self._list.callbacks = [callback for callback in self._list.callbacks if callback is not self]
        self._train_end()


class StepFunction:
    """Stands in front of a model's train function.

    Work that is due between two steps is done at the start of the next one, when every callback has seen the step
    before. Calls that do not come from the epoch that was announced go straight through: a callback may use
    ``train_on_batch``, and a ``fit`` that was broken off leaves this function behind in the model.

    Args:
        inner: The model's own train function.
        steps_per_call: Keras' ``steps_per_execution``.
        before_step: Called before a step that follows another in the same epoch, with the batches done in it.
    """

    def __init__(self, inner: Callable[[Any], Any], steps_per_call: int, before_step: Callable[[int], None]) -> None:
        self.inner = inner
        self._steps_per_call = steps_per_call
        self._before_step = before_step
        self._announced = False
        self._iterator: Any = None
        self._skip = 0
        self._stepped = False
        self.batch = 0

    def begin_epoch(self, skip: int) -> None:
        """Announce an epoch, of which the first ``skip`` batches are drawn and dropped."""
        self._announced, self._iterator, self._skip, self._stepped, self.batch = True, None, skip, False, 0

    def end_epoch(self) -> None:
        """Say that the epoch is over: further calls are somebody else's."""
        self._announced, self._iterator = False, None

    def __call__(self, iterator: Any) -> Any:
        """Do one call of the train function, or skip it."""
        if self._announced and self._iterator is None:
            self._iterator = iterator
        if not self._announced or iterator is not self._iterator:
            return self.inner(iterator)
        if self.batch < self._skip:
            return self._drop(iterator)
        if self._stepped:
            self._before_step(self.batch)
        logs = self.inner(iterator)
        self._stepped = True
        self.batch += self._steps_per_call
        return logs

    def _drop(self, iterator: Any) -> dict[str, Any]:
        for _ in range(self._steps_per_call):
            next(iterator)
            self.batch += 1
        return {}
