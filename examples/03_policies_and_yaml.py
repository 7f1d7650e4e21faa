"""When to save and what to keep, in Python and in a file: examples/run.yaml.

python examples/03_policies_and_yaml.py               the whole story, in a temporary folder
python examples/03_policies_and_yaml.py DIRECTORY     one run there, as the file says; start it again and it goes on
"""

import dataclasses
import logging
import os
import sys
import tempfile

import digits

import ckptkit
from ckptkit.policies import EverySecs, EverySteps, SaveContext
from ckptkit.preservation import Latest

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.yaml")


def train(config, epochs):
    """Train in the folders that a configuration says, or go on; tell which checkpoints are there when it is over."""
    import keras

    keras.utils.set_random_seed(7)
    images, test_images, labels, test_labels = digits.load()
    model, callbacks = digits.build_model(), config.callbacks()
    test = (test_images, test_labels)
    model.fit(images, labels, epochs=epochs, validation_data=test, callbacks=callbacks, verbose=0)
    begun, manager = callbacks[0].resumed_from, callbacks[0].manager
    print("   started afresh" if begun is None else f"   resumed from step {begun.step}")
    for record in manager.records():
        print(f"   {record}{'  (best)' if record == manager.best_record else ''}")


def story():
    """Ask a policy, train as the file says, change what it says, and go on: that is told, and kept to."""
    logging.basicConfig(format="   %(message)s", stream=sys.stdout)
    print("1. A policy is a question: is a checkpoint due?")
    policy = EverySteps(40) | EverySecs(600)
    for before, step, now in ((30, 39, 5.0), (39, 43, 6.0), (43, 44, 700.0)):
        is_due = policy.should_save(SaveContext(step=step, previous_step=before, now=now))
        print(f"   {policy} at step {step}, {now:.0f} s: {'yes' if is_due else 'no'}")
    config = ckptkit.load_config(RUN)
    before = dataclasses.replace(config, export_on_completion=[])  # nothing is finished yet
    print("2. Three epochs, as examples/run.yaml says but for the exports")
    train(before, epochs=3)
    print("3. Two more, by another file", flush=True)
    options = dataclasses.replace(config.training_checkpoint, preservation_policy=Latest(2), max_to_keep=None)
    dataclasses.replace(config, training_checkpoint=options).dump("changed.yaml")
    train(ckptkit.load_config("changed.yaml"), epochs=5)
    print(f"4. The best of all of them is exported: {', '.join(sorted(os.listdir('export/digits')))}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.makedirs(sys.argv[1], exist_ok=True)
        os.chdir(sys.argv[1])
        train(ckptkit.load_config(RUN), epochs=5)
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            story()
            os.chdir("/")
