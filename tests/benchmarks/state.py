"""The training that is saved: a Keras model with Adam, sized in MB, and a train step that updates all of it."""

import gc

import keras
import numpy as np
import tensorflow as tf

LAYERS = 6
BATCH = 32
COPIES = 3  # the weights and Adam's two slots


class Training:
    """A model, its optimizer and its train step.

    Args:
        state_mb: Size of all variables in MB.
        jit_compile: Whether the step is compiled with XLA.
    """

    def __init__(self, state_mb, *, jit_compile):
        width = max(8, round((state_mb * 1e6 / 4 / COPIES / LAYERS) ** 0.5))
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(width, activation="relu") for _ in range(LAYERS)]
        self.model = keras.Sequential([keras.layers.Input((width,)), *layers])
        self.model.compile("adam", "mse", jit_compile=jit_compile)
        self.optimizer = self.model.optimizer
        self.optimizer.build(self.model.trainable_variables)
        self.x = tf.random.stateless_uniform((BATCH, width), (1, 1))
        self.y = tf.random.stateless_uniform((BATCH, width), (1, 2))
        self._step = tf.function(self._update, jit_compile=jit_compile)

    @property
    def variables(self):
        """Every variable of model and optimizer, once."""
        unique = {id(each): each for each in [*self.model.variables, *self.optimizer.variables]}
        return list(unique.values())

    @property
    def size_bytes(self):
        """Bytes of all variables."""
        return sum(each.value.dtype.size * int(np.prod(each.shape)) for each in self.variables)

    def checkpoint(self):
        """Return a new ``tf.train.Checkpoint`` of all of it."""
        return tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)

    def dataset(self):
        """Return the batch of the step as an endless dataset, for ``fit``."""
        return tf.data.Dataset.from_tensors((self.x, self.y)).repeat()

    def step(self):
        """Train one step and wait for the device."""
        return float(self._step(self.x, self.y))

    def to_host(self):
        """Copy every variable to the host, in the caller."""
        return [each.value.numpy() for each in self.variables]

    def _update(self, x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(x, training=True) - y))
        weights = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return loss


def forget():
    """Give back what earlier models held."""
    keras.utils.clear_session()
    gc.collect()


def has_gpu():
    """Say whether variables live on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))
