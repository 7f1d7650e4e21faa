"""What the other callbacks of a fit remember, taken without their help and put back after they have reset themselves.

    states = CallbackStates([early_stopping, reduce_lr])
    saved = states.take()                # {"EarlyStopping": {"best": 0.31, "wait": 2, ...}, ...}
    states.put_back(saved)

A callback joins with two methods of its own: ``get_state()`` returns plain values and arrays, ``set_state(state)``
takes them back. Of Keras' own callbacks the attributes below are known.

Source: keras/src/callbacks of Keras 3.15 and tf_keras/src/callbacks.py of tf_keras 2.21;
tests/test_callback_state.py fails if they keep their state elsewhere.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ckptkit.which_keras import IS_LEGACY, keras

__all__ = ["CallbackStates"]

_log = logging.getLogger("ckptkit")


class _NotThere:
    """In place of a callback that this Keras does not have."""


# The comparison (``monitor_op``, and the sign of ``min_delta``) is set up lazily, once a process: it is not state.
_ATTRIBUTES: dict[type[Any], tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
        *(["epochs_since_last_save"] if IS_LEGACY else []),
    ),
    getattr(keras.callbacks, "OrbaxCheckpoint", _NotThere): (
        "best",
        "_total_batches_seen",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
    ),
    getattr(keras.callbacks, "SwapEMAWeights", _NotThere): ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch", "_previous_epoch_iterations"),
}


class CallbackStates:
    """The states of some callbacks, each under the name of its class.

    Args:
        callbacks: Those that may have a state; of several of one class, the order tells which is which.
    """

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._callbacks: dict[str, Any] = {}
        self._missed: set[str] = set()
        self._converted: dict[int, tuple[np.ndarray[Any, Any], tf.Tensor]] = {}
        self._headers: dict[str, bool] = {}
        counts: Counter[str] = Counter()
        for callback in callbacks:
            name = type(callback).__name__
            counts[name] += 1
            if _has_state(callback):
                self._callbacks[name if counts[name] == 1 else f"{name}#{counts[name]}"] = callback

    def take(self) -> dict[str, Any]:
        """Return every state as it is now: plain values, NumPy arrays and tensors."""
        before, self._converted = self._converted, {}
        states = {name: _get(callback) for name, callback in self._callbacks.items()}
        for name in filter(self._has_best_weights, states):
            states[name]["best_weights"] = self._held(states[name]["best_weights"], before)
        return states

    def names_in(self, states: Mapping[str, Any]) -> list[str]:
        """Return the names of the callbacks that have a state among these."""
        return [name for name in self._callbacks if name in states]

    def put_back(self, states: Mapping[str, Any]) -> None:
        """Put back what :meth:`take` returned; say once which states and callbacks have no counterpart."""
        for name in sorted(states.keys() - self._callbacks.keys() - self._missed):
            _log.warning("the checkpoint holds the state of a callback %s, which this fit does not have.", name)
        for name in sorted(self._callbacks.keys() - states.keys() - self._missed):
            _log.warning("the checkpoint holds no state of the callback %s; it starts afresh.", name)
        self._missed |= states.keys() ^ self._callbacks.keys()
        for name in sorted(states.keys() & self._callbacks.keys()):
            callback = self._callbacks[name]
            if isinstance(callback, keras.callbacks.CSVLogger):
                self._headers.setdefault(name, callback.append_header)
            # A copy: it may be put back again, and the callback changes what it is given.
            _set(callback, copy.deepcopy(states[name]))

    def let_go(self) -> None:
        """Leave the callbacks for another fit: a CSVLogger that has gone on with a file begins the next one anew."""
        for name, header in self._headers.items():
            self._callbacks[name].append_header = header

    def without_weights(self, states: Mapping[str, Any]) -> dict[str, Any]:
        """Return states without the weights among them, for a fit that is over."""
        return {
            name: {**state, "best_weights": None} if self._has_best_weights(name) else state
            for name, state in states.items()
        }

    def _has_best_weights(self, name: str) -> bool:
        callback = self._callbacks.get(name)
        return isinstance(callback, keras.callbacks.EarlyStopping) and not _has_protocol(callback)

    def _held(self, weights: Any, before: Mapping[int, tuple[Any, tf.Tensor]]) -> Any:
        # They are the same arrays for many epochs, which nobody changes in place: they are copied once.
        if weights is None:
            return None
        for array in weights:
            held = before.get(id(array))
            self._converted[id(array)] = held if held is not None else (array, tf.convert_to_tensor(array))
        return [self._converted[id(array)][1] for array in weights]


def _has_state(callback: Any) -> bool:
    if _has_protocol(callback) or isinstance(callback, keras.callbacks.CSVLogger):
        return True
    return isinstance(callback, tuple(_ATTRIBUTES))


def _has_protocol(callback: Any) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _get(callback: Any) -> Any:
    if _has_protocol(callback):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _lines_of(callback)
    # As numbers: TensorBoard keeps a tensor where it started with an int.
    values = {name: getattr(callback, name) for name in _names(callback) if hasattr(callback, name)}
    return {name: value.numpy() if tf.is_tensor(value) else value for name, value in values.items()}


def _set(callback: Any, state: Any) -> None:
    if _has_protocol(callback):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        _go_on_after(callback, state)
    else:
        for name in _names(callback):
            if name in state:
                setattr(callback, name, state[name])


def _names(callback: Any) -> list[str]:
    return [name for kind, names in _ATTRIBUTES.items() if isinstance(callback, kind) for name in names]


def _lines_of(logger: Any) -> dict[str, Any]:
    file = _file_of(logger)
    if file is not None and not getattr(file, "closed", False):  # Keras 2's can be flushed when it is closed
        file.flush()
    text = b""
    if tf.io.gfile.exists(logger.filename):
        with tf.io.gfile.GFile(logger.filename, "rb") as file:
            text = file.read()
    return {"text": text, "keys": logger.keys}


def _file_of(logger: Any) -> Any:
    """Return the open or closed file of a logger, None before its first training."""
    return getattr(logger, "csv_file", None)


def _go_on_after(logger: Any, state: Mapping[str, Any]) -> None:
    """Bring the file to what it was: no line is lost to its truncation at the start, none is written twice."""
    if _file_of(logger) is None:  # it takes no part in this fit
        return
    logger.csv_file.close()
    with tf.io.gfile.GFile(logger.filename, "wb") as file:
        file.write(state["text"])
    append, logger.append = logger.append, True
    logger.on_train_begin()  # opens it anew, behind what is there
    logger.append, logger.keys = append, state["keys"]
