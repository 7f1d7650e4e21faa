"""Layers whose random numbers nobody can save: said once, at the first save, with what to do about it.

say_what_is_lost(manager.objects())    # WARNING: random numbers of dropout, dropout_1: ...

Keras 2 lets TensorFlow's operations keep the state of ``Dropout`` and the like, unless it is told to keep it in
variables. In a function of TensorFlow's that state can be neither read nor set. Keras 3 always has variables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from ckptkit.which_keras import keeps_its_state, keras

__all__ = ["say_what_is_lost"]

_log = logging.getLogger("ckptkit")
_SHOWN = 5


def say_what_is_lost(objects: Iterable[Any]) -> None:
    """Log which layers, if any, will draw other random numbers after a resume.

    Args:
        objects: Layers, among whatever else there is.
    """
    names = [each.name for each in objects if isinstance(each, keras.layers.Layer) and not keeps_its_state(each)]
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        _log.warning(
            "random numbers of %s%s: not saved, a resume draws others than the run would have drawn. Call "
            "tf.keras.backend.experimental.enable_tf_random_generator() before the model is made, and "
            "tf.keras.utils.set_random_seed, for an exact one.",
            ", ".join(names[:_SHOWN]),
            more,
        )
