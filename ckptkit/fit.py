"""How ckptkit gets among the callbacks of ``model.fit``: before all others, and behind them.

    callbacks = callback_list(on_train_begin_frame)
    AfterAll(...).join(callbacks)                       # its hooks run when every other callback's have run

Source: keras/src/callbacks/callback_list.py of Keras 3.15 and tf_keras/src/callbacks.py of tf_keras 2.21;
tests/test_fit.py fails if they work differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import numpy as np

from ckptkit.which_keras import keras

__all__ = [
    "AfterAll",
    "BeforeAll",
    "callback_list",
    "disarm",
    "find_callback",
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
        if self._logs and logs is not None and not self._logs.keys() & logs.keys():
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
