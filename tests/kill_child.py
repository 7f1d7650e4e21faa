"""Saves that die at a chosen operation: ``python -m tests.kill_child FOLDER sync|async|replace`` prints JSON.

TensorFlow is loaded once and never used in this process; every case runs in a fork of it, which starts it for itself.
"""

import builtins
import json
import os
import shutil
import signal
import sys
import traceback

import tensorflow as tf

from ckptkit.held import Held
from ckptkit.listing import DirectoryReader
from ckptkit.manager import CheckpointManager

OPERATIONS = (
    (os, "fsync"),
    (os, "makedirs"),
    (os, "open"),
    (os, "rename"),
    (os, "replace"),
    (os, "rmdir"),
    (os, "unlink"),
    (os, "link"),
    (shutil, "rmtree"),
    (builtins, "open"),
    (os, "pwrite"),
    (Held, "write"),
)
BEFORE = 3  # saves that are committed when the one that dies begins


def manager_of(directory, **options):
    """Return a manager of one variable, and the variable."""
    value = tf.Variable(tf.zeros(1000))
    return CheckpointManager(tf.train.Checkpoint(value=value), directory, 2, **options), value


def die_at(countdown):
    """Make the process kill itself at the start of the n-th operation from now."""
    left = [countdown]

    def dying(operation):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **named)

        return call

    for owner, name in OPERATIONS:
        setattr(owner, name, dying(getattr(owner, name)))


def save_and_die(directory, way, countdown):
    """Commit some checkpoints, then die during the next save."""
    manager, value = manager_of(directory, async_save=way == "async")
    for number in range(1, BEFORE + 1):
        value.assign(tf.fill([1000], float(number)))
        manager.save()
    manager.wait_until_finished()
    value.assign(tf.fill([1000], 4.0))
    die_at(countdown)
    manager.save(BEFORE if way == "replace" else None)
    manager.wait_until_finished()


def look(directory):
    """Read what is left, without writing and then as the next writer; return it as JSON-able facts."""
    facts = {}
    reader, value = manager_of(directory, read_only=True)
    facts["latest"] = os.path.basename(reader.latest_checkpoint or "none")
    facts["damaged"] = dict(DirectoryReader(directory).scan().damaged)
    reader.restore()
    facts["value"] = sorted({float(x) for x in value.numpy()})
    plain = tf.train.latest_checkpoint(directory)
    facts["plain_value"] = (
        None if plain is None else float(tf.train.load_variable(plain, "value/.ATTRIBUTES/VARIABLE_VALUE")[0])
    )
    writer, value = manager_of(directory)
    writer.restore_or_initialize()
    value.assign(tf.fill([1000], 9.0))
    saved = writer.save()
    value.assign(tf.zeros(1000))
    writer.restore()
    facts["next_value"] = sorted({float(x) for x in value.numpy()})
    facts["next_is_latest"] = writer.latest_checkpoint == saved
    kept = {record.name for record in writer.records()}
    known = {"checkpoint", ".ckptkit"} | {
        name + end for name in kept for end in (".index", ".manifest.json", ".data-00000-of-00001")
    }
    facts["litter"] = sorted(set(os.listdir(directory)) - known) + [
        name for name in os.listdir(os.path.join(directory, ".ckptkit")) if name != "lock"
    ]
    return facts


def forked(work):
    """Run ``work`` in a child; return its result and the signal that ended it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result = work()
            os.write(theirs, json.dumps(result).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not ended_by and os.WEXITSTATUS(status):
        raise RuntimeError(f"a case ended with exit code {os.WEXITSTATUS(status)}")
    return json.loads(content) if content else None, ended_by


def main(folder, way):
    """Kill at each operation in turn until a save gets through."""
    for countdown in range(1, 200):
        directory = os.path.join(folder, str(countdown))
        _, ended_by = forked(lambda at=directory, n=countdown: save_and_die(at, way, n))
        facts, _ = forked(lambda at=directory: look(at))
        print(json.dumps({"countdown": countdown, "killed": ended_by == signal.SIGKILL, **facts}), flush=True)
        if not ended_by:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
