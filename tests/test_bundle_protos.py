"""Our protocol buffers against TensorFlow's, both in one process."""

from __future__ import annotations

import pytest
from tensorflow.core.protobuf import tensor_bundle_pb2 as theirs
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from ckptkit.bundle_protos import BundleEntry, Header, ObjectGraph


def fill(entry):
    entry.dtype, entry.shard_id, entry.offset, entry.size, entry.crc32c = 1, 3, 2**40, 2**33, 2**32 - 1
    for size in (2, 0, 2**40):
        entry.shape.dim.add(size=size)
    extents = entry.slices.add().extent
    extents.add(start=5, length=7)
    extents.add()
    extents.add(length=0)
    return entry


def test_an_entry_is_the_same_bytes_to_both():
    assert fill(BundleEntry()).SerializeToString() == fill(theirs.BundleEntryProto()).SerializeToString()


def test_an_entry_of_theirs_is_read_field_by_field():
    read = BundleEntry.FromString(fill(theirs.BundleEntryProto()).SerializeToString())
    assert read == fill(BundleEntry())
    assert [extent.HasField("length") for extent in read.slices[0].extent] == [True, False, True]


@pytest.mark.parametrize("producer", [0, 1])
def test_a_header_is_the_same_bytes_to_both(producer):
    ours, others = Header(num_shards=7, endianness=1), theirs.BundleHeaderProto(num_shards=7, endianness=1)
    for header in (ours, others):
        header.version.producer, header.version.min_consumer = producer, 2
        header.version.bad_consumers.extend([3, 4])
    assert ours.SerializeToString() == others.SerializeToString()
    assert Header.FromString(others.SerializeToString()) == ours


def test_fields_that_we_do_not_know_are_passed_over():
    entry = theirs.BundleEntryProto(dtype=1)
    entry.shape.dim.add(size=2, name="batch")
    assert BundleEntry.FromString(entry.SerializeToString()).shape.dim[0].size == 2


def test_a_graph_of_objects_of_theirs_says_what_variables_are_called():
    graph = TrackableObjectGraph()
    graph.nodes.add().children.add(node_id=1, local_name="model")
    node = graph.nodes.add()
    node.attributes.add(name="VARIABLE_VALUE", full_name="dense/kernel", checkpoint_key="model/kernel")
    node.slot_variables.add(original_variable_node_id=1, slot_name="m", slot_variable_node_id=1)
    (value,) = ObjectGraph.FromString(graph.SerializeToString()).nodes[1].attributes
    assert (value.full_name, value.checkpoint_key) == (b"dense/kernel", b"model/kernel")


@pytest.mark.slow
def test_they_come_without_tensorflow_and_live_with_it_when_it_comes_later(run_child, tmp_path):
    script = """
import sys
import numpy as np
from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter

prefix = sys.argv[1]
with BundleWriter(prefix) as writer:
    writer.add("x", np.arange(3.0))
assert not {"tensorflow", "keras", "h5py"} & set(sys.modules)

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

assert tf.train.load_checkpoint(prefix).get_tensor("x").tolist() == [0, 1, 2]
tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["y"], shape_and_slices=[""], tensors=[tf.constant([4.0])])
with Bundle(prefix) as bundle:
    print(bundle.read("y").tolist())
"""
    assert run_child("-c", script, str(tmp_path / "x")) == "[4.0]\n"
