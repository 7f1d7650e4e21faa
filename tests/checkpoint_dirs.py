"""Directories of real checkpoints, made without TensorFlow, and what can happen to them."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from ckptkit.bundle_writer import BundleWriter
from ckptkit.checksums import crc32c
from ckptkit.dtypes import OF_ANY_LENGTH
from ckptkit.records import Manifest, TensorInfo
from ckptkit.state_file import StateFile
from ckptkit.store import Store


def tensors_of(seed):
    """Values of several kinds by their keys: of a fixed size, of any, without elements."""
    random = np.random.default_rng(seed)
    strings = np.empty(2, object)
    strings[:] = [random.bytes(3), random.bytes(300)]
    return {
        "bias": random.normal(size=8).astype("float32"),
        "kernel": random.normal(size=(16, 8)).astype("float32"),
        "names": strings,
        "nothing": np.zeros((0, 3), "int32"),
        "step": np.int64(seed).reshape(()),
    }


def write_bundle(prefix, seed, shards=1):
    """Write a checkpoint's index and shards, one of the tensors in slices; return its entries."""
    with BundleWriter(prefix, shards=shards) as writer:
        for at, (key, values) in enumerate(tensors_of(seed).items()):
            writer.add(key, values, shard=at % shards)
        parts = np.random.default_rng(seed).normal(size=(2, 4, 6)).astype("float64")
        writer.add("parts", parts[0], "8 6 0,4:-")
        writer.add("parts", parts[1], "8 6 4,4:-", shard=shards - 1)
    return writer.entries


def rows_of(entries):
    """A manifest's table."""
    return tuple(TensorInfo(e.key, e.dtype, e.shape, 0 if e.dtype in OF_ANY_LENGTH else e.size_bytes) for e in entries)


def begin(directory, step, *, seed=None, shards=1, stem="ckpt", **facts):
    """Write what a save writes before its commit; return what commits it."""
    store, name = Store(directory, durable=False), f"{stem}-{step}"
    pending = store.begin(name)
    entries = write_bundle(pending.prefix, step if seed is None else seed, shards)
    with open(pending.prefix + ".index", "rb") as file:
        checksum = crc32c(file.read())
    facts = {"sequence": step, "created_at": 1000.0 + step, "run_id": "run", "tensors": rows_of(entries), **facts}
    return pending, Manifest(name, step, files=store.sizes(pending), index_crc32c=checksum, **facts)


def save(directory, step, **facts):
    """Commit a checkpoint."""
    store = Store(directory, durable=False)
    lock = store.lock()
    store.commit(*begin(directory, step, **facts))
    lock.release()


def save_foreign(directory, name, *, seed=7, shards=1):
    """What plain TensorFlow leaves under a name; long ago, so that nobody can be writing it still."""
    os.makedirs(directory, exist_ok=True)
    write_bundle(os.path.join(directory, name), seed, shards)
    for file in os.listdir(directory):
        if file.startswith(name + "."):
            os.utime(os.path.join(directory, file), (1e9, 1e9))


def put_state(directory, names, *, times=True, preserved=0.5):
    """Write TensorFlow's state file."""
    stamps = tuple(1000.0 + at for at in range(len(names))) if times else ()
    write(directory, "checkpoint", StateFile(names[-1], tuple(names), stamps, preserved).to_text().encode())


def write(directory, file, content):
    """Replace a file's content, and leave its time as it was: what rots is not written."""
    path = os.path.join(directory, file)
    before = os.stat(path) if os.path.exists(path) else None
    with open(path, "wb") as opened:
        opened.write(content)
    if before is not None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def read(directory, file):
    with open(os.path.join(directory, file), "rb") as opened:
        return opened.read()


def flip(directory, file, at, bit=0):
    """Flip a bit of a file's byte."""
    content = bytearray(read(directory, file))
    content[at] ^= 1 << bit
    write(directory, file, bytes(content))


def files_in(directory):
    """Path from the directory on and content of every file in it; the lock says who had it last, and is left out."""
    return {
        os.path.relpath(os.path.join(at, file), directory): hashlib.sha256(read(at, file)).hexdigest()
        for at, _, files in os.walk(directory)
        for file in files
        if file != "lock"
    }
