"""The same with a loop of one's own: a tf.function train step, killed and started again.

python examples/custom_loop.py               the whole story, in a temporary folder
python examples/custom_loop.py DIRECTORY     one training run there; start it again after a kill and it resumes
"""

import os
import signal
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from examples.train_digits import build_model, committed_steps, digits, here, wait_for_step

EPOCHS = 6


def train(directory):
    """Train in ``directory``, or go on with the training that is there."""
    import keras
    import numpy as np
    import tensorflow as tf

    import ckptkit
    from ckptkit.policies import EveryEpochs, EverySteps

    keras.utils.set_random_seed(7)
    train_images, test_images, train_labels, test_labels = digits()
    dataset = tf.data.Dataset.from_tensor_slices((train_images, train_labels)).shuffle(2000).batch(32)
    model = build_model()
    optimizer = keras.optimizers.Adam(2e-3)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    policy = EverySteps(20) | EveryEpochs(1)
    with ckptkit.CheckpointManager(checkpoint, directory, 3, save_policy=policy, async_save=True) as manager:
        loop = ckptkit.TrainingLoop(manager, dataset, epochs=EPOCHS)
        for step, (images, labels) in loop:
            loss = train_step(images, labels)
            loop.report({"loss": loss})
            if step % 20 == 0:
                print(f"step {step}: loss {float(loss):.4f}", flush=True)
    start = loop.resumed_from
    print("started afresh" if start is None else f"resumed from step {start.step}")
    accuracy = np.mean(model.predict(test_images, verbose=0).argmax(axis=1) == test_labels)
    digest = hash(b"".join(variable.numpy().tobytes() for variable in model.trainable_variables))
    print(f"ended at step {loop.step} with test accuracy {accuracy:.4f}, weights {digest & 0xFFFFFFFF:08x}")


def story():
    """Train without and with a kill, and compare: the weights must be the same bits."""
    with tempfile.TemporaryDirectory() as directory:
        killed, whole = os.path.join(directory, "killed"), os.path.join(directory, "whole")
        command = [sys.executable, os.path.abspath(__file__)]
        environment = {**here(), "PYTHONHASHSEED": "0"}
        print("1. A run that nobody disturbs")
        reference = run([*command, whole], environment)
        print(f"   {reference[-1]}")
        print("2. The same run, killed by SIGKILL")
        child = subprocess.Popen(
            [*command, killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        wait_for_step(killed, 100, child)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        last = max(committed_steps(killed))
        print(f"   the newest checkpoint is step {last}")
        print("3. The same command again")
        again = run([*command, killed], environment)
        print("   " + "\n   ".join(again[-2:]))
        assert again[-2] == f"resumed from step {last}", again
        assert again[-1] == reference[-1], "the resumed run ended elsewhere"
        print("   the same weights to the last bit")


def run(command, environment):
    """Run a command and return the lines that it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip().splitlines()


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else story()
