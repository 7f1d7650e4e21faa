"""directory: thousands of checkpoints in one folder, tiny ones, and whether anything grows faster than they do."""

import dataclasses
import os
import shutil

import tensorflow as tf

import ckptkit
from ckptkit.records import Manifest
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.timing import timed

MANIFEST = ".manifest.json"
FEWER = 4  # times fewer checkpoints, to see how it grows
NOISE = 1.3
WHAT = ("latest_checkpoint", "records()", "one save")


def directories(folder, options, say):
    """Measure; return the figures."""
    counts = (options.checkpoints // FEWER, options.checkpoints)
    rooms = {count: Directory(os.path.join(folder, str(count)), count) for count in counts}
    seconds = {f"{what} of {count:,}": [] for what in WHAT for count in counts}
    for turn in range(options.rounds + 1):
        for count, room in rooms.items():
            for what, took in zip(WHAT, (room.latest(), room.records(), room.save())):
                if turn:
                    seconds[f"{what} of {count:,}"].append(took)
        say(f"  round {turn} of {options.rounds}")
    for room in rooms.values():
        room.manager.close()
    less, more = (f"{count:,}" for count in counts)
    targets = [Target(f"{what} of {more}", FEWER * NOISE, f"{what} of {less}") for what in WHAT]
    return [Figure("directory of checkpoints", "s", seconds, (Target(f"records() of {more}", 0.3), *targets))]


class Directory:
    """A folder with so many checkpoints, all of which are listed and managed."""

    def __init__(self, path, count):
        self.path = path
        self.count = count
        self.checkpoint = tf.train.Checkpoint(value=tf.Variable(tf.ones([8])))
        with ckptkit.CheckpointManager(self.checkpoint, path, None) as first:
            original = os.path.basename(first.save())
        for number in range(2, count):
            copy(path, original, number)
        self.checkpoint.save_counter.assign(count - 1)
        self.manager = ckptkit.CheckpointManager(self.checkpoint, path, None)
        self.manager.save()  # writes the state file, with all of them
        if len(self.manager.records()) != count:
            raise RuntimeError(f"{len(self.manager.records())} of {count} checkpoints were taken for such.")

    def latest(self):
        """Seconds of a newcomer to find the newest."""
        return timed(
            lambda: ckptkit.CheckpointManager(self.checkpoint, self.path, None, read_only=True).latest_checkpoint
        )

    def records(self):
        """Seconds of a newcomer to list all."""
        return timed(ckptkit.CheckpointManager(self.checkpoint, self.path, None, read_only=True).records)

    def save(self):
        """Seconds of one more."""
        return timed(self.manager.save)


def copy(path, original, number):
    """Add a copy of a checkpoint under another number."""
    name = f"ckpt-{number}"
    with open(os.path.join(path, original + MANIFEST), encoding="utf-8") as file:
        manifest = Manifest.from_json(file.read())
    files = {name + file.removeprefix(original): size for file, size in manifest.files.items()}
    for old, new in zip(manifest.files, files):
        shutil.copyfile(os.path.join(path, old), os.path.join(path, new))
    manifest = dataclasses.replace(manifest, name=name, step=number, sequence=number, files=files)
    with open(os.path.join(path, name + MANIFEST), "w", encoding="utf-8") as file:
        file.write(manifest.to_json())
