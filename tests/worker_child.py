"""One worker of a cluster: ``python -m tests.worker_child FOLDER CASE``, with ``TF_CONFIG`` in its environment.

It trains a small model in a GradientTape loop by ``MultiWorkerMirroredStrategy``, with checkpoints, and prints a JSON
line at its end: what came of it, by hash.
"""

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time

import numpy as np
import tensorflow as tf

import ckptkit
from ckptkit.coordination import SaveRound
from ckptkit.replicas import replicas_of
from ckptkit.which_keras import keras

EPOCHS, STEPS = 3, 6


def data(workers):
    """Return the data: the same in all workers, which share it among them."""
    random = np.random.default_rng(0)
    x = random.random((24 * workers, 4), np.float32)
    return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True)))


def per_worker(strategy, index, workers):
    """Return what this worker goes over by itself: another part of the data, in another order."""
    return data(workers).shard(workers, index).shuffle(24, seed=5 + index).batch(4)


def divided(strategy, index, workers):
    """Return this worker's part of data whose size does not grow with the number of workers."""
    return data(2).shard(workers, index).shuffle(48, seed=5 + index).batch(4)


def distributed(strategy, index, workers):
    """Return what TensorFlow shares among the workers."""
    return strategy.experimental_distribute_dataset(data(workers).shuffle(48, seed=5).batch(4 * workers))


def digest(values):
    """Return the hash of many arrays."""
    found = hashlib.sha256()
    for value in values:
        found.update(np.asarray(value).tobytes())
    return found.hexdigest()[:16]


class Trainer:
    """A model, its optimizer and a metric, all mirrored, and noise that is each worker's own."""

    def __init__(self, strategy, index, **more):
        self.strategy = strategy
        keras.utils.set_random_seed(1)
        with strategy.scope():
            self.model = keras.Sequential(
                [
                    keras.layers.Input((4,)),
                    keras.layers.Dense(8),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dropout(0.3),
                    keras.layers.Dense(1),
                ]
            )
            self.optimizer = keras.optimizers.Adam(0.01)
            self.optimizer.build(self.model.trainable_variables)
            self.loss = keras.metrics.Mean("loss")
        self.noise = tf.random.Generator.from_seed(100 + index)
        self.checkpoint = tf.train.Checkpoint(
            model=self.model, optimizer=self.optimizer, loss=self.loss.variables, noise=self.noise, **more
        )

    @tf.function
    def step(self, batch, noise):
        """Do a step on all workers."""

        def of_replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.model(x + noise, training=True) - y) ** 2)
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables))
            self.loss.update_state(loss)

        self.strategy.run(of_replica, args=batch)

    def train(self, batch):
        """Do a step, with noise of this worker's and of NumPy's."""
        self.step(batch, self.noise.normal(()) * 0.1 + np.float32(np.random.random()) * 0.1)

    def hash(self):
        """Return what this worker holds: its own replica's values, and its random numbers."""
        variables = [*self.model.variables, *self.optimizer.variables, *self.loss.variables]
        values = [part for each in variables for part in replicas_of(each).values() or (each,)]
        return digest([*values, self.noise.state, np.random.get_state()[1]])

    def weights(self):
        """Return what all workers hold alike."""
        return digest([each.numpy() for each in self.model.trainable_variables])


def end_when_told():
    """End at once when the file is there that says so."""
    while not os.path.exists(os.environ["STOP_FILE"]):
        time.sleep(0.1)
    os._exit(9)


def main(folder, case):
    """Train to the end, or until somebody kills this."""
    threading.Thread(target=end_when_told, daemon=True).start()
    options = {"data": "per_worker", "epochs": EPOCHS, "every": 2, "sync": False, "timeout": 20.0} | json.loads(case)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    workers = strategy.num_replicas_in_sync
    trainer = Trainer(strategy, index, **({"more": tf.Variable(0.0)} if options.get("odd") == index else {}))
    if options.get("apart"):
        folder = f"{folder}-{index}"
    if options.get("kill", [])[:1] == [index] and isinstance(options["kill"][1], str):
        kill_at_file(options["kill"][1])
    if options.get("mute") == index:
        SaveRound.common = lambda joined: threading.Event().wait()
    dataset = globals()[options["data"]](strategy, index, workers)
    policy = eval(options["policy"], vars(ckptkit.policies)) if "policy" in options else None
    with ckptkit.CheckpointManager(
        trainer.checkpoint,
        folder,
        3,
        async_save=not options["sync"],
        save_policy=policy or ckptkit.policies.EverySteps(options["every"]) | ckptkit.policies.EveryEpochs(1),
        worker_timeout_secs=options["timeout"],
    ) as manager:
        loop = ckptkit.TrainingLoop(manager, dataset, epochs=options["epochs"])
        seen = []
        for step, batch in loop:
            if options.get("kill") == [index, step]:
                os.kill(os.getpid(), signal.SIGKILL)
            if options.get("told") == [index, step]:
                os.kill(os.getpid(), signal.SIGTERM)
            trainer.train(batch)
            seen.append(digest(strategy.experimental_local_results(batch[0])))
            print("step", step, file=sys.stderr, flush=True)
        resumed = None if loop.resumed_from is None else loop.resumed_from.step
    found = {"hash": trainer.hash(), "weights": trainer.weights(), "seen": seen, "resumed": resumed}
    print("RESULT " + json.dumps({**found, "checkpoints": manager.checkpoints, "step": loop.step}), flush=True)


def kill_at_file(name):
    """Kill this process as soon as it is to rename a file to a name that has this in it."""
    rename = os.rename

    def renamed(source, target, **options):
        if name in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(source, target, **options)

    os.rename = renamed


if __name__ == "__main__":
    main(*sys.argv[1:])
