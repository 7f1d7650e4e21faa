"""batch: what a callback costs at a batch without a save, with a tiny model whose batches take next to nothing."""

import os
import time

import keras
import tensorflow as tf

import ckptkit
from ckptkit.policies import EverySteps
from tests.benchmarks.figures import Figure, Target

NEVER = 10**9
OURS = "ckptkit TrainingCheckpoint"
EMPTY = "empty callback"
NONE = "no callback"


class Clock(keras.callbacks.Callback):
    """Notes when the first and the newest batch began; overrides no hook that would make Keras wait at each batch."""

    def on_train_batch_begin(self, batch, logs=None):
        self.last = time.perf_counter()
        if not batch:
            self.first = self.last


class Empty(keras.callbacks.Callback):
    """Does nothing at the end of each batch."""

    def on_train_batch_end(self, batch, logs=None):
        pass


def batches(folder, options, say):
    """Measure; return the figures."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    rows = tf.data.Dataset.from_tensors((tf.ones((1, 1)), tf.ones((1, 1)))).repeat(options.batches)
    took = {OURS: [], EMPTY: [], NONE: []}
    for turn in range(options.rounds + 1):
        ours = ckptkit.TrainingCheckpoint(os.path.join(folder, str(turn)), save_freq=EverySteps(NEVER))
        for name, callbacks in ((NONE, []), (EMPTY, [Empty()]), (OURS, [ours])):
            clock = Clock()
            model.fit(rows, verbose=0, shuffle=False, callbacks=[*callbacks, clock])
            if turn:
                took[name].append((clock.last - clock.first) / (options.batches - 1) * 1e6)
        say(f"  round {turn} of {options.rounds}")
    more = {f"{OURS} − {name}": [a - b for a, b in zip(took[OURS], took[name])] for name in (EMPTY, NONE)}
    return [
        Figure("a batch without a save", "µs", took),
        Figure("a batch without a save, on top", "µs", more, (Target(f"{OURS} − {EMPTY}", 15.0),)),
    ]
