"""The Keras that TensorFlow uses in this process: Keras 3, or with ``TF_USE_LEGACY_KERAS=1`` Keras 2 in ``tf_keras``.

    from ckptkit.which_keras import IS_LEGACY, keras

    keras.Model                          # what tf.keras.Model is

Every module that needs Keras takes it from here, so that no object of one is ever held against a class of the other.
What they keep in different ways is asked for by functions of the same names, in :mod:`ckptkit.keras2` and
:mod:`ckptkit.keras3`.

Source: https://github.com/keras-team/tf-keras
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# As tensorflow/python/util/lazy_loader.py reads it.
IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")

if TYPE_CHECKING or not IS_LEGACY:
    from ckptkit.keras3 import (
        CONTAINERS,
        EPOCHS_OF_FIT,
        NAME,
        SEED_GENERATORS,
        SLOT_OPTIMIZERS,
        VALIDATION_OF_FIT,
        WRAPPERS,
        asked_metrics,
        build_from,
        builder_of,
        counts_of,
        direction_of,
        global_seed,
        is_built,
        keeps_its_state,
        keras,
        seed_of,
        set_global_seed,
        steps_of,
        tree,
        unwrapped,
        variables_of,
    )
else:
    from ckptkit.keras2 import (
        CONTAINERS,
        EPOCHS_OF_FIT,
        NAME,
        SEED_GENERATORS,
        SLOT_OPTIMIZERS,
        VALIDATION_OF_FIT,
        WRAPPERS,
        asked_metrics,
        build_from,
        builder_of,
        counts_of,
        direction_of,
        global_seed,
        is_built,
        keeps_its_state,
        keras,
        seed_of,
        set_global_seed,
        steps_of,
        tree,
        unwrapped,
        variables_of,
    )

__all__ = [
    "CONTAINERS",
    "EPOCHS_OF_FIT",
    "IS_LEGACY",
    "NAME",
    "SEED_GENERATORS",
    "SLOT_OPTIMIZERS",
    "VALIDATION_OF_FIT",
    "WRAPPERS",
    "asked_metrics",
    "build_from",
    "builder_of",
    "counts_of",
    "direction_of",
    "global_seed",
    "is_built",
    "keeps_its_state",
    "keras",
    "seed_of",
    "set_global_seed",
    "steps_of",
    "tree",
    "unwrapped",
    "variables_of",
]
