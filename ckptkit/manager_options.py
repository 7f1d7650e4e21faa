"""What a user may ask of ``CheckpointManager``, checked before anything is written.

validate(checkpoint, 3, "ckpt", save_policy=EverySteps(500))
callbacks, in_background = read_save_options(tf.train.CheckpointOptions(enable_async=True), async_save=False)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ckptkit.policies import SavePolicy
from ckptkit.preservation import PreservationPolicy

__all__ = ["read_save_options", "validate"]


def validate(
    checkpoint: Any, max_to_keep: Any, name: Any, *, save_policy: Any = None, preservation_policy: Any = None
) -> None:
    """Refuse what cannot be meant.

    Raises:
        ValueError: A number or a name that is out of its range, or graph mode.
        TypeError: Something else than a checkpoint or a policy.
    """
    if not tf.executing_eagerly():
        raise ValueError("ckptkit works in eager mode only; graph mode of TensorFlow 1 is not supported.")
    if not isinstance(checkpoint, tf.train.Checkpoint):
        raise TypeError(
            f"checkpoint must be a tf.train.Checkpoint, got {type(checkpoint).__name__}. "
            "Wrap the objects: tf.train.Checkpoint(model=model, optimizer=optimizer)."
        )
    if max_to_keep is not None and max_to_keep <= 0:
        raise ValueError(f"Expected a positive integer or `None` for `max_to_keep`, got {max_to_keep}.")
    if not name or name != os.path.basename(name):
        raise ValueError(f"checkpoint_name must be a plain file name, got {name!r}.")
    if save_policy is not None and not isinstance(save_policy, SavePolicy):
        raise TypeError(f"save_policy must come from ckptkit.policies, got {save_policy!r}.")
    if preservation_policy is not None and not isinstance(preservation_policy, PreservationPolicy):
        raise TypeError(f"preservation_policy must come from ckptkit.preservation, got {preservation_policy!r}.")


def read_save_options(
    options: tf.train.CheckpointOptions | None, async_save: bool
) -> tuple[list[Callable[..., object]], bool]:
    """Return what to call after a commit, and whether to save in the background.

    Args:
        options: What ``save`` was called with.
        async_save: Whether the manager saves in the background anyway.

    Raises:
        ValueError: They ask for what ckptkit does not do.
    """
    if options is None:
        return [], async_save
    if options.experimental_sharding_callback is not None:
        raise ValueError("options.experimental_sharding_callback is not supported: ckptkit lays out shards by itself.")
    device = tf.DeviceSpec.from_string(options.experimental_io_device or "/job:localhost")
    if (device.job or "localhost", device.device_type or "CPU") != ("localhost", "CPU"):
        raise ValueError(
            f"options.experimental_io_device={options.experimental_io_device!r} is not supported: ckptkit writes "
            "from the process that saves. Leave it out, or say '/job:localhost'."
        )
    return list(options.experimental_write_callbacks or ()), async_save or options.enable_async
