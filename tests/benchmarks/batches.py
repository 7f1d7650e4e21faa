"""batch: what a callback costs at a batch without a save, with a tiny model whose batches take next to nothing.

Of each epoch the median batch counts, and the difference of two that ran one after the other.
"""

import os
import time

import keras
import tensorflow as tf

import ckptkit
from ckptkit.policies import EverySteps
from tests.benchmarks.figures import Figure, Target, median

NEVER = 10**9
EPOCHS = 10  # a round is cut into: the shorter the turns, the more alike is what else the machine does
OURS = "ckptkit TrainingCheckpoint"
EMPTY = "empty callback"
NONE = "no callback"


class Clock(keras.callbacks.Callback):
    """Notes when each batch began; overrides no hook that would make Keras wait for the device at each of them."""

    def __init__(self):
        super().__init__()
        self.began = []

    def on_train_batch_begin(self, batch, logs=None):
        self.began.append(time.perf_counter())


class Empty(keras.callbacks.Callback):
    """Does nothing at the end of each batch."""

    def on_train_batch_end(self, batch, logs=None):
        pass


def batches(folder, options, say):
    """Measure; return the figures."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batch = (tf.ones((1, 1)), tf.ones((1, 1)))
    rows = tf.data.Dataset.from_tensors(batch).repeat(max(2, options.batches // EPOCHS))
    took = {OURS: [], EMPTY: [], NONE: []}
    for turn in range((options.rounds + 1) * EPOCHS):
        ours = ckptkit.TrainingCheckpoint(os.path.join(folder, str(turn)), save_freq=EverySteps(NEVER))
        for name, callbacks in ((NONE, []), (EMPTY, [Empty()]), (OURS, [ours])):
            clock = Clock()
            model.fit(rows, verbose=0, shuffle=False, callbacks=[*callbacks, clock])
            if turn >= EPOCHS:
                took[name].append(median(b - a for a, b in zip(clock.began, clock.began[1:])) * 1e6)
        if turn % EPOCHS == EPOCHS - 1:
            say(f"  round {turn // EPOCHS} of {options.rounds}")
    more = {f"{OURS} − {name}": [a - b for a, b in zip(took[OURS], took[name])] for name in (EMPTY, NONE)}
    return [
        Figure("a batch without a save", "µs", took),
        Figure("a batch without a save, on top", "µs", more, (Target(f"{OURS} − {EMPTY}", 15.0),)),
    ]
