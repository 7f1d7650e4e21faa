"""What a single save may be asked for in TensorFlow's words, and what of it ckptkit does.

callbacks, in_background = read_save_options(tf.train.CheckpointOptions(enable_async=True), async_save=False)
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

__all__ = ["read_save_options"]


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
