"""Two workers train one model by ``MultiWorkerMirroredStrategy``; one is killed, both start again, and both end.

python examples/06_multi_worker.py               the whole story, on loopback, in a temporary folder
python examples/06_multi_worker.py DIRECTORY     one worker, as ``TF_CONFIG`` says; all of them get the same directory
"""

import json
import os
import socket
import sys
import tempfile

import digits

import ckptkit
from ckptkit.policies import EverySteps


def train(directory):
    """Be one of the workers: all of them run this."""
    import keras
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # first of all: it connects the workers
    keras.utils.set_random_seed(7)
    images, _, labels, _ = digits.load()
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(2000, seed=7).batch(64, drop_remainder=True)
    with strategy.scope():
        model = digits.build_model()
        optimizer = keras.optimizers.Adam(2e-3)
        optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(batch):
        def of_one_replica(images, labels):
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

        strategy.run(of_one_replica, args=batch)

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with ckptkit.CheckpointManager(checkpoint, directory, 3, save_policy=EverySteps(10), async_save=True) as manager:
        loop = ckptkit.TrainingLoop(manager, strategy.experimental_distribute_dataset(dataset), epochs=3)
        for _, batch in loop:
            train_step(batch)
    begun = "started afresh" if loop.resumed_from is None else f"resumed from step {loop.resumed_from.step}"
    weights = sum(float(tf.reduce_sum(tf.abs(each))) for each in model.trainable_variables)
    print(f"worker {manager.worker} of {manager.workers} {begun}, ended at step {loop.step}: weights {weights}")


def start_workers(directory):
    """Start two workers that find each other on free ports of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]}
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    return [digits.start(__file__, directory, env={**os.environ, "TF_CONFIG": task}) for task in tasks]


def story():
    """Kill a worker, and start all again."""
    with tempfile.TemporaryDirectory() as directory:
        print("1. Two workers train; worker 1 is killed by SIGKILL")
        chief, other = start_workers(directory)
        digits.wait_for_step(directory, 30, other)
        other.kill()
        other.communicate()
        chief.communicate()
        print(f"   TensorFlow tells the other one, which ends with exit code {chief.returncode}")
        print("2. Both start again, with the same command")
        told = [worker.communicate()[0].strip() for worker in start_workers(directory)]
        print("   " + "\n   ".join(told))
        assert len({line.partition("ended at ")[2] for line in told}) == 1, "the workers ended with other weights"
        print("   the same weights in both")


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else story()
