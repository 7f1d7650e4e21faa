"""Train as a file says: when to save, what to keep and what to export is written in examples/run.yaml.

    python examples/configured.py               the whole story, in a temporary folder
    python examples/configured.py DIRECTORY     one training run there; start it again and it resumes

The data are scikit-learn's digits: 1,797 real images of 8 x 8 pixels.
"""

import dataclasses
import logging
import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import ckptkit
from ckptkit.preservation import Latest

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.yaml")


def train(config, epochs):
    """Train in the folders that a configuration says, or go on with the training that is there."""
    import keras
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(7)
    data = load_digits()
    model = keras.Sequential(
        [keras.layers.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    callbacks = config.callbacks()
    model.fit(data.data / 16.0, data.target, epochs=epochs, validation_split=0.2, callbacks=callbacks, verbose=0)
    return callbacks[0]


def story():
    """Train as the file says, change what it says, and go on: that is told, and kept to."""
    logging.basicConfig(format="   %(message)s", stream=sys.stdout)
    config = ckptkit.load_config(RUN)
    before = dataclasses.replace(config, export_on_completion=[])  # nothing is finished yet
    print("1. Three epochs, as examples/run.yaml says but for the exports")
    tell(train(before, epochs=3))
    print("2. Two more, by another file", flush=True)
    options = dataclasses.replace(config.training_checkpoint, preservation_policy=Latest(2), max_to_keep=None)
    dataclasses.replace(config, training_checkpoint=options).dump("changed.yaml")
    tell(train(ckptkit.load_config("changed.yaml"), epochs=5))
    print(f"3. The best of all of them is exported: {', '.join(sorted(os.listdir('export/digits')))}")


def tell(callback):
    """Print where a run began, and which checkpoints are there when it is over."""
    begun, best = callback.resumed_from, callback.manager.best_record
    print("   started afresh" if begun is None else f"   resumed from step {begun.step}")
    for record in callback.manager.records():
        accuracy = record.metrics.get("val_accuracy")
        known = "" if accuracy is None else f"  val_accuracy {accuracy:.4f}"
        print(f"   {record.name}{known}{'  (best)' if record == best else ''}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.makedirs(sys.argv[1], exist_ok=True)
        os.chdir(sys.argv[1])
        tell(train(ckptkit.load_config(RUN), epochs=5))
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            story()
            os.chdir("/")
