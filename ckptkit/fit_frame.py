"""What the frame of a running ``fit`` knows: what it goes over, what it validates on, the logs of its last step.

    frame = sys._getframe(1)            # in a callback's on_train_begin: its caller, which fit has called
    epochs = epoch_iterator(frame)
    validation_data(frame)
    last_logs()                         # below a fit

Source: keras/src/backend/tensorflow/trainer.py of Keras 3.15 and tf_keras/src/engine/training.py of tf_keras 2.21;
tests/test_fit.py fails if they work differently.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from ckptkit.which_keras import EPOCHS_OF_FIT, VALIDATION_OF_FIT, keras

__all__ = [
    "epoch_iterator",
    "epoch_logs",
    "first_epoch",
    "last_logs",
    "runs_in_fit",
    "validation_data",
    "validation_input",
]


def epoch_iterator(frame: FrameType | None) -> Any:
    """Return what ``fit`` goes over in each epoch.

    Args:
        frame: The caller of a callback's ``on_train_begin``, which ``fit`` has called.

    Raises:
        RuntimeError: It was not Keras' own ``fit``.
    """
    local, method = EPOCHS_OF_FIT
    found = None if frame is None or frame.f_back is None else frame.f_back.f_locals.get(local)
    if not hasattr(found, method):
        raise RuntimeError(
            "on_train_begin was not called by keras.Model.fit of a version that ckptkit knows (3.11 and later, or "
            "tf_keras). In a loop of your own use ckptkit.TrainingLoop."
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
    return getattr(model, VALIDATION_OF_FIT, None)


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
            if at.f_code is code and at.f_locals.get(EPOCHS_OF_FIT[0]) is ours:
                return True
            at = at.f_back
        return False

    return runs


def epoch_logs() -> Mapping[str, Any]:
    """Return the logs of the epoch whose validation ``fit`` has begun, without those of the validation."""
    return _local_of_fit("epoch_logs")


def last_logs() -> Mapping[str, Any]:
    """Return the logs of the last step: a local variable of ``fit``, which is asking for the next one."""
    return _local_of_fit("logs")


def _local_of_fit(name: str) -> Mapping[str, Any]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and "training_logs" not in frame.f_locals:
        frame = frame.f_back
    logs = None if frame is None else frame.f_locals.get(name)
    return logs if isinstance(logs, Mapping) else {}
