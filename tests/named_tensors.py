"""Checkpoints of a few tensors with the names of their variables, and the table that a command has printed of them."""

from __future__ import annotations

import numpy as np

from ckptkit.bundle_protos import ObjectGraph
from ckptkit.bundle_writer import BundleWriter
from ckptkit.checksums import crc32c
from ckptkit.records import Manifest
from ckptkit.store import Store

END = "/.ATTRIBUTES/VARIABLE_VALUE"
PLAIN, WHOLE = "_CHECKPOINTABLE_OBJECT_GRAPH", "_CKPTKIT_OBJECT_GRAPH"
NOW = 1_000_000.0
KERNEL, BIAS = f"optimizer/_variables/0{END}", f"model/out/bias{END}"
NAMES = {KERNEL: "net/dense_1/kernel", BIAS: "net/out/bias"}


def graph_of(names):
    graph = ObjectGraph()
    for key, name in names.items():
        graph.nodes.add().attributes.add(full_name=name.encode(), checkpoint_key=key.encode())
    return graph.SerializeToString()


def save(directory, step, tensors, **facts):
    """Commit a checkpoint of some tensors."""
    store, name = Store(directory, durable=False), f"ckpt-{step}"
    lock = store.lock()
    pending = store.begin(name)
    with BundleWriter(pending.prefix) as writer:
        for key, values in tensors.items():
            writer.add(key, np.array(values, object) if isinstance(values, bytes) else np.asarray(values))
    with open(pending.prefix + ".index", "rb") as file:
        checksum = crc32c(file.read())
    facts = {"sequence": step, "run_id": "cafe", "created_at": NOW - 7200.0, **facts}
    manifest = Manifest(name, step, files=store.sizes(pending), index_crc32c=checksum, **facts)
    record = store.commit(pending, manifest)
    lock.release()
    return record


def table(text):
    """The cells of the table that was printed, a list a row."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
