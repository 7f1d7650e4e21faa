"""One worker of a cluster in ``model.fit``: ``python -m tests.worker_fit_child FOLDER CASE``, on Keras 2.

Keras 3's fit does not work under ``MultiWorkerMirroredStrategy``. See ``tests/worker_child.py`` for loops.
"""

import json
import logging
import os
import signal
import sys
import threading

import numpy as np
import tensorflow as tf

import ckptkit
from ckptkit.replicas import replicas_of
from ckptkit.which_keras import keras
from tests.worker_child import data, digest, end_when_told, kill_at_file

EPOCHS = 3


class Happens(keras.callbacks.Callback):
    """Is killed, or told to end, in a step; and draws random numbers of this worker's own."""

    def __init__(self, kill, told):
        super().__init__()
        self.kill, self.told, self.steps, self.drawn = kill, told, None, []

    def on_train_begin(self, logs=None):
        """Go on counting where the run is."""
        self.steps = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_begin(self, batch, logs=None):
        """Do what is to be done in this step."""
        if self.kill == self.steps:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.told == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)
        self.drawn.append(float(np.random.random()))
        self.steps += 1


def made(strategy):
    """Return a compiled model; not built: that is done in the first step."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Dense(8, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=3)),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def main(folder, case):
    """Train to the end, or until somebody kills this."""
    threading.Thread(target=end_when_told, daemon=True).start()
    options = {"epochs": EPOCHS, "every": 2, "kill": [None, None], "told": [None, None], "export": False}
    options |= json.loads(case)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    workers = strategy.num_replicas_in_sync
    model = made(strategy)
    np.random.seed(index)
    kill, told = (at if number == index else None for number, at in (options["kill"], options["told"]))
    if isinstance(kill, str):
        kill_at_file(kill)
    happens = Happens(kill, told)
    callbacks = [
        happens,
        ckptkit.TrainingCheckpoint(folder, save_freq=options["every"], worker_timeout_secs=20.0, monitor="val_loss"),
    ]
    if options["export"]:
        callbacks.append(ckptkit.ExportOnCompletion(f"{folder}-export"))
    history = model.fit(
        data(workers).shuffle(48, seed=5).batch(4 * workers),
        validation_data=data(workers).batch(4 * workers),
        epochs=options["epochs"],
        verbose=0,
        callbacks=callbacks,
    )
    variables = [*model.variables, *model.optimizer.variables]
    values = [part for each in variables for part in replicas_of(each).values() or (each,)]
    resumed = callbacks[1].resumed_from
    found = {
        "hash": digest(values),
        "weights": digest([each.numpy() for each in model.trainable_variables]),
        "history": history.history,
        "drawn": happens.drawn,
        "step": callbacks[1].step,
        "resumed": None if resumed is None else resumed.step,
    }
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
