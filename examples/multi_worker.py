"""Two workers train one model by ``MultiWorkerMirroredStrategy``; one is killed, both start again, and both end.

python examples/multi_worker.py               the whole story, on loopback, in a temporary folder
python examples/multi_worker.py DIRECTORY     one worker, as ``TF_CONFIG`` says; all of them get the same directory
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from examples.train_digits import build_model, digits, here, wait_for_step


def train(directory):
    """Be one of the workers."""
    import keras
    import tensorflow as tf

    import ckptkit

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # first of all: it connects the workers
    keras.utils.set_random_seed(7)
    images, _, labels, _ = digits()
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(2000, seed=7).batch(64, drop_remainder=True)
    with strategy.scope():
        model = build_model()
        optimizer = keras.optimizers.Adam(2e-3)
        optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(batch):
        def of_one_replica(images, labels):
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return loss

        return strategy.reduce("MEAN", strategy.run(of_one_replica, args=batch), axis=None)

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    policy = ckptkit.policies.EverySteps(10)
    with ckptkit.CheckpointManager(checkpoint, directory, 3, save_policy=policy, async_save=True) as manager:
        loop = ckptkit.TrainingLoop(manager, strategy.experimental_distribute_dataset(dataset), epochs=6)
        for _, batch in loop:
            loss = train_step(batch)
    start = "started afresh" if loop.resumed_from is None else f"resumed from step {loop.resumed_from.step}"
    weights = sum(float(tf.reduce_sum(tf.abs(each))) for each in model.trainable_variables)
    print(
        f"worker {manager.worker} of {manager.workers} {start}, ended at step {loop.step}: loss {loss:.5f}, {weights}"
    )


def start_workers(directory, count=2):
    """Start workers that find each other on free ports of loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    command = [sys.executable, os.path.abspath(__file__), directory]
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(count)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return [subprocess.Popen(command, env={**here(), "TF_CONFIG": task}, **quiet) for task in tasks]


def story():
    """Kill a worker, and start all again."""
    with tempfile.TemporaryDirectory() as directory:
        print("1. Two workers train; worker 1 is killed by SIGKILL")
        chief, other = start_workers(directory)
        wait_for_step(directory, 30, other)
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
        chief.communicate()
        print(f"   TensorFlow tells the other one, which ends with exit code {chief.returncode}")
        print("2. Both start again, with the same command")
        lines = [worker.communicate()[0].strip() for worker in start_workers(directory)]
        print("   " + "\n   ".join(lines))
        assert [line.startswith(f"worker {n} of 2 resumed from step") for n, line in enumerate(lines)] == [True, True]
        assert len({line.partition("ended at ")[2] for line in lines}) == 1, "the workers ended with other weights"
        print("   the same weights in both")


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else story()
