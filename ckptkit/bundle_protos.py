"""The protocol buffers of a TensorFlow checkpoint, without TensorFlow.

header = Header(num_shards=1)
Header.FromString(header.SerializeToString()).num_shards  # 1

They have the fields that a reader needs, by TensorFlow's numbers, and live in a pool of their own: TensorFlow, loaded
before or after, registers its own classes in the common one.

Source: tensorflow/core/protobuf/tensor_bundle.proto and the three files it imports; trackable_object_graph.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["BundleEntry", "Header", "ObjectGraph"]

_PACKAGE = "ckptkit"
# A star marks a list, a question mark a field of which one can tell whether it was set.
_MESSAGES = {
    "Version": ["1 producer int32", "2 min_consumer int32", "3 bad_consumers int32*"],
    "Header": ["1 num_shards int32", "2 endianness int32", "3 version Version"],
    "Dim": ["1 size int64"],
    "Shape": ["2 dim Dim*", "3 unknown_rank bool"],
    "Extent": ["1 start int64", "2 length int64?"],
    "Slice": ["1 extent Extent*"],
    "BundleEntry": [
        "1 dtype int32",
        "2 shape Shape",
        "3 shard_id int32",
        "4 offset int64",
        "5 size int64",
        "6 crc32c fixed32",
        "7 slices Slice*",
    ],
    # What TensorFlow stores under _CHECKPOINTABLE_OBJECT_GRAPH, as far as it says what a variable is called.
    "StoredValue": ["2 full_name bytes", "3 checkpoint_key bytes"],
    "Node": ["2 attributes StoredValue*"],
    "ObjectGraph": ["1 nodes Node*"],
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="ckptkit/bundle.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in fields:
            _add_field(message, line)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, line: str) -> None:
    number, name, kind = line.split()
    field = message.field.add(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
    if kind.endswith("?"):
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"has_{name}")
    kind = kind.rstrip("*?")
    if kind in _MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = field.Type.Value(f"TYPE_{kind.upper()}")


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
Header: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.Header"))
BundleEntry: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.BundleEntry"))
ObjectGraph: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.ObjectGraph"))
