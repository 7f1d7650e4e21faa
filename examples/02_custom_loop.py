"""A loop of your own: a tf.function train step, killed and started again, ends with the same bits.

python examples/02_custom_loop.py               the whole story, in a temporary folder
python examples/02_custom_loop.py DIRECTORY     one run there; kill it, start it again, and it goes on
"""

import os
import sys
import tempfile

import digits

import ckptkit
from ckptkit.policies import EverySteps


def train(directory):
    """Train in a directory, or go on with the training that is there."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(7)
    images, _, labels, _ = digits.load()
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(2000).batch(32)
    model = digits.build_model()
    optimizer = keras.optimizers.Adam(2e-3)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with ckptkit.CheckpointManager(checkpoint, directory, 3, save_policy=EverySteps(30), async_save=True) as manager:
        loop = ckptkit.TrainingLoop(manager, dataset, epochs=4)
        for _, (images, labels) in loop:
            loop.report({"loss": train_step(images, labels)})  # a save right after it carries the number
    begun = loop.resumed_from
    print("   started afresh" if begun is None else f"   resumed from step {begun.step}")
    print(f"   ended at step {loop.step}, model {digits.fingerprint(model)}")
    print(f"   {manager}")
    return digits.fingerprint(model)


def story():
    """Train with and without a kill, and compare: the models must be the same bits."""
    with tempfile.TemporaryDirectory() as directory:
        killed, whole = os.path.join(directory, "killed"), os.path.join(directory, "whole")
        print("1. A run, killed by SIGKILL in mid-epoch")
        run = digits.start(__file__, killed)
        digits.wait_for_step(killed, 60, run)
        run.kill()
        run.wait()
        print(f"   its newest checkpoint is step {digits.newest_step(killed)}")
        print("2. The same again: it goes on with the next batch")
        resumed = train(killed)
        print("3. A run that nobody disturbs")
        assert train(whole) == resumed, "the resumed run ended elsewhere"
        print("   the same model to the last bit")


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else story()
