"""The Keras that TensorFlow uses in this process: Keras 3, or with ``TF_USE_LEGACY_KERAS=1`` Keras 2 in ``tf_keras``.

    from ckptkit.which_keras import IS_LEGACY, keras

    keras.Model                          # what tf.keras.Model is

Every module that needs Keras takes it from here, so that no object of one is ever held against a class of the other.

Source: https://github.com/keras-team/tf-keras
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# As tensorflow/python/util/lazy_loader.py reads it.
IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")

WRAPPERS: tuple[Any, ...]  # classes whose ``value`` is the TensorFlow variable
SEED_GENERATORS: tuple[Any, ...]

if TYPE_CHECKING or not IS_LEGACY:
    import keras
    from keras import tree

    WRAPPERS = (keras.Variable,)
    SEED_GENERATORS = (keras.random.SeedGenerator,)
else:
    import tf_keras as keras
    from tensorflow import nest as tree

    WRAPPERS = SEED_GENERATORS = ()  # Keras 2 has TensorFlow's variables, and keeps seeds in them or in its kernels

__all__ = ["IS_LEGACY", "SEED_GENERATORS", "WRAPPERS", "keras", "tree"]
