"""What must not happen in the tests' own process: ``python -m tests.rot_child FOLDER`` prints JSON.

TensorFlow is loaded once and never used in this process; every case runs in a fork of it, which may lose its rights,
race with others, or die of a file.
"""

import json
import os
import sys
import time

import numpy as np
import tensorflow as tf

from ckptkit.bundle_protos import BundleEntry, Header
from ckptkit.checksums import crc32c, masked
from ckptkit.errors import CheckpointDamagedError, CheckpointError, CheckpointNotFoundError
from ckptkit.listing import DirectoryReader
from ckptkit.manager import CheckpointManager
from ckptkit.reading import CheckpointFile
from ckptkit.table import encode_table
from ckptkit.varint import encode_varint
from tests.kill_child import forked
from tests.test_table import block_of, compressed, row, table_of

NOBODY = 65534
SAVES = 150
DATA = encode_varint(2**62) + bytes(100)  # as strings or variants: one of four exabytes


def manager_of(directory, **options):
    """A manager of two variables, and these."""
    a, b = tf.Variable(tf.zeros(1000)), tf.Variable(tf.zeros(1000))
    return CheckpointManager(tf.train.Checkpoint(a=a, b=b), directory, durable=False, **options), (a, b)


def save_many(directory, saves, max_to_keep):
    """Save checkpoints of as many values, each a thousand times in two variables."""
    manager, variables = manager_of(directory, max_to_keep=max_to_keep)
    for number in range(1, saves + 1):
        for variable in variables:
            variable.assign(tf.fill([1000], float(number)))
        manager.save()
    manager.close()


def told(action):
    """What an action returns, or the error that ckptkit raises; another one is a traceback."""
    try:
        return action()
    except CheckpointError as error:
        return f"{type(error).__name__}: {error}"


# Races ---------------------------------------------------------------------------------------------------------------


def save_until_done(directory, over):
    """Save and prune as fast as can be, one checkpoint at a time."""
    save_many(directory, SAVES, 1)
    with open(over, "w"):
        pass


def read_until_done(directory, over):
    """Read as fast as can be in all ways there are, and note whatever is not as it should be."""
    while tf.train.latest_checkpoint(directory) is None:
        time.sleep(0.01)
    manager, variables = manager_of(directory, max_to_keep=1, read_only=True)
    reader, restored, odd = DirectoryReader(directory), [], []
    while not os.path.exists(over):
        listing = reader.scan()
        if not listing.records or listing.damaged or any(record.foreign for record in listing.records):
            odd.append(f"listed {listing}")
        for record in listing.records:
            try:
                reader.verify(record)
            except (CheckpointNotFoundError, CheckpointDamagedError) as error:
                if record in reader.scan().records:
                    odd.append(f"still there: {error}")
        record = manager.restore()
        values = {float(value) for variable in variables for value in set(variable.numpy())}
        if values != {float(record.step)}:
            odd.append(f"{record.step} has values {values}")
        restored.append(record.step)
        plain = tf.train.latest_checkpoint(directory)
        try:
            value = tf.train.load_variable(plain, "a/.ATTRIBUTES/VARIABLE_VALUE") if plain else None
        except (tf.errors.OpError, ValueError):
            value = None  # TensorFlow does not look again
        if value is not None and set(value) != {float(plain.rpartition("-")[2])}:
            odd.append(f"plain TensorFlow has {set(value)} for {plain}")
    return {"restored": restored, "odd": odd}


def race(folder):
    """Let one process write and two read."""
    directory, over = os.path.join(folder, "race"), os.path.join(folder, "over")
    writer = os.fork()
    if writer == 0:
        try:
            save_until_done(directory, over)
        finally:
            os._exit(0)
    other = os.fork()
    if other == 0:
        try:
            read_until_done(directory, over)
        finally:
            os._exit(0)
    found, _ = forked(lambda: read_until_done(directory, over))
    for child in (writer, other):
        os.waitpid(child, 0)
    return found


# Rights --------------------------------------------------------------------------------------------------------------


def without_rights(directory):
    """Be somebody who may look and nothing else; the newest checkpoint's data may not even be read."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    manager, (a, _) = manager_of(directory, max_to_keep=1)
    return {
        "latest": told(lambda: os.path.basename(manager.restore_or_initialize() or "none")),
        "value": float(a[0]),
        "named": told(lambda: manager.restore(2).step),
        "save": told(manager.save),
        "listed": [record.step for record in manager.records()],
    }


def look_without_rights(folder):
    """Save two checkpoints, take all rights to write away, and the right to read the newest's data."""
    directory = os.path.join(folder, "read-only")
    forked(lambda: save_many(directory, 2, None))
    for at, _, files in os.walk(directory):
        for file in files:
            os.chmod(os.path.join(at, file), 0o444)
        os.chmod(at, 0o555)
    os.chmod(os.path.join(directory, "ckpt-2.data-00000-of-00001"), 0)
    os.chmod(folder, 0o755)
    return forked(lambda: without_rights(directory))[0]


# Hostile files -------------------------------------------------------------------------------------------------------


def entry(dtype, *shape, size=0, **others):
    """An entry of an index that says whatever it likes."""
    made = BundleEntry(dtype=dtype, size=size, crc32c=masked(crc32c(DATA[:size])), **others)
    made.shape.SetInParent()
    for dim in shape:
        made.shape.dim.add(size=dim)
    return made


HOSTILE = {
    "a resource": entry(20),
    "a resource of some bytes": entry(20, 8, size=8),
    "a string of four exabytes": entry(7, 1, size=len(DATA)),
    "a variant of four exabytes": entry(21, 1, size=len(DATA)),
    "more strings than there are bytes": entry(7, 2**40, size=2**40),
    "more variants than there are bytes": entry(21, 2**40, size=2**40),
    "a terabyte that is not there": entry(1, 2**38, size=2**40),
    "a negative dimension": entry(1, -4, size=16),
    "dimensions without end": entry(1, 2**62, 2**62, size=16),
    "no type": entry(0, 4, size=16),
    "a type of the future": entry(99, 4, size=16),
    "a reference": entry(101, 4, size=16),
    "a place beyond the file": entry(1, 4, size=16, offset=2**40),
    "a shard that is not there": entry(1, 4, size=16, shard_id=7),
    **{f"type {number}": entry(number, 8, size=8) for number in range(24, 34)},
}


def put(folder, name, made, to_table=encode_table):
    """Write a checkpoint that has one tensor."""
    prefix = os.path.join(folder, name.replace(" ", "-"))
    header = Header(num_shards=1)
    header.version.producer = 1
    with open(f"{prefix}.index", "wb") as file:
        file.write(to_table([(b"", header.SerializeToString()), (b"x", made.SerializeToString())]))
    with open(f"{prefix}.data-00000-of-00001", "wb") as file:
        file.write(DATA)
    return prefix


def compressed_table(rows):
    """A table in one compressed block, as TensorFlow reads it too."""
    return table_of(compressed(block_of(*(row(key, value) for key, value in rows))), kind=1)


def read_ours(prefix):
    """Read it as a restore does."""

    def read():
        with CheckpointFile(prefix) as file:
            return str(np.shape(file.read(file.types)["x"]))

    return told(read)


def read_theirs(prefix):
    """Read it as plain TensorFlow does, if it lives through that."""
    try:
        tf.train.load_variable(prefix, "x")
    except tf.errors.OpError:
        return


def read_hostile(folder):
    """Read each hostile file in a process of its own, and one as plain TensorFlow does: by which signal that ends."""
    prefixes = {name: put(folder, name, made) for name, made in HOSTILE.items()}
    negative = "a negative dimension"
    prefixes[f"{negative}, compressed"] = put(folder, "compressed", HOSTILE[negative], compressed_table)
    found = {name: forked(lambda at=prefix: read_ours(at)) for name, prefix in prefixes.items()}
    return {"ours": found, "theirs": forked(lambda: read_theirs(prefixes[negative]))[1]}


def main(folder):
    """Run all of them."""
    print(
        json.dumps({"race": race(folder), "rights": look_without_rights(folder), "hostile": read_hostile(folder)}),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
