"""What somebody without ckptkit does with a checkpoint directory; run in a process of its own.

    python -I tests/plain_tf.py < cases.json > results.json

A case is ``{"do": name of a function below, …its arguments}``; what it returns is its result. The model is built here,
so that both processes have the same one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Classifier(keras.Model):
    """BatchNorm and Dropout as attributes: what TensorFlow tracks by itself."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(4)
        self.norm = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.5, seed=1)
        self.out = keras.layers.Dense(outputs)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.drop(self.norm(self.hidden(x), training=training), training=training))


def make_model(outputs: int = 2) -> keras.Model:
    """Return a built and compiled model with the weights of its own random start."""
    model = Classifier(outputs)
    model(tf.zeros([1, 3]))
    model.compile(keras.optimizers.Adam(0.01), loss="mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


def make_checkpoint(model: keras.Model) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def train(model: keras.Model, seed: int) -> None:
    """Change every weight, moving statistic and slot."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)


def digest(values: Any) -> str:
    """Hash values bit by bit, in their order."""
    digest = hashlib.sha256()
    for value in values:
        array = np.asarray(value)
        digest.update(repr((array.shape, str(array.dtype))).encode() + array.tobytes())
    return digest.hexdigest()


def tracked_digest(model: keras.Model) -> str:
    """Hash what TensorFlow tracks of the model: its weights and its optimizer, without seeds and metrics."""
    return digest([*model.get_weights(), *model.optimizer.variables])


def restore(directory: str) -> dict[str, Any]:
    """Restore the latest checkpoint with every assertion there is."""
    model = make_model()
    latest = tf.train.latest_checkpoint(directory)
    status = make_checkpoint(model).restore(latest)
    status.assert_consumed()
    status.assert_existing_objects_matched()
    status.assert_nontrivial_match()
    return {
        "latest": os.path.relpath(latest, directory),
        "digest": tracked_digest(model),
        "variables": sorted(key for key, _ in tf.train.list_variables(directory)),
        "iterated": [
            os.path.relpath(path, directory)
            for path in tf.train.checkpoints_iterator(directory, min_interval_secs=0, timeout=0)
        ],
    }


def go_on(directory: str, saves: int, max_to_keep: int) -> dict[str, Any]:
    """Restore with TensorFlow's manager, train and save; in an empty directory start afresh."""
    model = make_model()
    manager = tf.train.CheckpointManager(make_checkpoint(model), directory, max_to_keep)
    restored = manager.restore_or_initialize()
    digests = [] if restored is None else [tracked_digest(model)]
    for number in range(saves):
        train(model, 100 + number)
        manager.save()
        digests.append(tracked_digest(model))
    return {
        "restored": restored and os.path.relpath(restored, directory),
        "checkpoints": [os.path.relpath(path, directory) for path in manager.checkpoints],
        "latest": os.path.relpath(manager.latest_checkpoint, directory),
        "digests": digests,
    }


def save_without_manager(directory: str, saves: int) -> dict[str, Any]:
    """Save with ``tf.train.Checkpoint.save``, which keeps everything and writes no times."""
    model = make_model()
    checkpoint = make_checkpoint(model)
    digests = []
    for number in range(saves):
        train(model, number)
        checkpoint.save(os.path.join(directory, "ckpt"))
        digests.append(tracked_digest(model))
    return {"digests": digests}


def look(directory: str) -> dict[str, Any]:
    """Open TensorFlow's manager and tell what it sees."""
    manager = tf.train.CheckpointManager(make_checkpoint(make_model()), directory, 3)
    return {
        "latest": manager.latest_checkpoint and os.path.relpath(manager.latest_checkpoint, directory),
        "checkpoints": [os.path.relpath(path, directory) for path in manager.checkpoints],
    }


def main() -> None:
    cases = json.load(sys.stdin)
    functions = {f.__name__: f for f in (restore, go_on, save_without_manager, look)}
    results = {name: functions[case.pop("do")](**case) for name, case in cases.items()}
    assert not any(name.partition(".")[0] == "ckptkit" for name in sys.modules), "this is about life without ckptkit"
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
