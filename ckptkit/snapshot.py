"""Object graph → held tensors → files, and back. The only module that touches TensorFlow's private API.

    graph = CheckpointGraph(checkpoint)         # of a tf.train.Checkpoint
    held = graph.take()                         # microseconds a variable: nothing is copied
    held.write("run/ckpt-1", buffers)           # any thread, any time later: the values of the moment of take()
    restoring.restore(graph, file)              # of a CheckpointFile: reads and checks everything first, assigns after

Reading a resource variable returns a tensor that shares the variable's buffer, and an update op that finds the buffer
shared writes to a fresh one: copy on write, done by TensorFlow itself. Holding the tensors is a consistent snapshot.

What Keras keeps and TensorFlow does not track (see ``untracked``) goes into the same files under keys of its own and is
described by a second object graph. TensorFlow's own graph stays as TensorFlow would write it, so that
``tf.train.Checkpoint.restore(path).assert_consumed()`` holds in a process without ckptkit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2
from tensorflow.python.checkpoint import checkpoint as tf_checkpoint
from tensorflow.python.checkpoint import checkpoint_options, graph_view, save_util, util
from tensorflow.python.checkpoint import restore as tf_restore
from tensorflow.python.distribute import values as distributed_values
from tensorflow.python.eager import context, execute
from tensorflow.python.ops import resource_variable_ops, stateful_random_ops
from tensorflow.python.trackable import base
from tensorflow.python.training.saving import saveable_object, saveable_object_util

from ckptkit.cluster import Cluster, cluster_of, is_in_cluster
from ckptkit.errors import CheckpointDamagedError, CheckpointError
from ckptkit.graph_watch import GraphWatch
from ckptkit.held import Held, HeldValue
from ckptkit.reading import CheckpointFile
from ckptkit.replicas import is_distributed, name_of, reduction_of, replica_count, replicas_of
from ckptkit.untracked import untracked
from ckptkit.which_keras import WRAPPERS, unwrapped

__all__ = [
    "ADDITION",
    "CheckpointGraph",
    "ObjectGraph",
    "assign",
    "captures_dataset",
    "copy_graph",
    "eager_random_state",
    "inputs_of",
    "is_seeded",
    "is_variable",
    "obstacle_of",
    "pick_up_iterator",
    "plain_keys",
    "put_down_iterator",
    "read_extras",
    "read_graph",
    "resource_variable",
    "set_eager_random_state",
    "shuffles_in",
    "stateful_operation",
    "variables_in",
]

GRAPH_KEY = base.OBJECT_GRAPH_PROTO_KEY
WHOLE_GRAPH_KEY = "_CKPTKIT_OBJECT_GRAPH"
EXTRA = "_CKPTKIT/"
ADDITION = "_ckptkit"
_LARGE = 1 << 20  # bytes of a variable that it pays to do something for by itself
_POSITION = "_STATE"  # what TensorFlow calls an iterator's only value

# A TrackableObjectGraph proto; generated classes are Any to a type checker.
ObjectGraph: TypeAlias = Any
_PLAIN_SERIALIZER = resource_variable_ops.BaseResourceVariable._serialize_to_tensors
_WRAPPERS_SERIALIZERS = tuple(wrapper._serialize_to_tensors for wrapper in WRAPPERS)
# Whose value is in their replicas' variables, and nowhere else.
_DISTRIBUTED = (distributed_values.MirroredVariable, distributed_values.SyncOnReadVariable)
_new_graph = trackable_object_graph_pb2.TrackableObjectGraph


class CheckpointGraph:
    """The objects that a ``tf.train.Checkpoint`` reaches, and those that it should."""

    def __init__(self, checkpoint: tf.train.Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._plan: _Plan | None = None
        if not isinstance(checkpoint._saver, _WholeSaver):
            checkpoint._saver = _WholeSaver(checkpoint._saver._graph_view)

    @property
    def view(self) -> graph_view.ObjectGraphView:
        """TensorFlow's view of the objects, with what it misses attached under a child of its own."""
        return self._checkpoint._saver.whole_view()

    def after_restore(self, complete: Callable[[str, set[str]], None]) -> None:
        """Call ``complete`` after ``checkpoint.restore``, with the prefix and the keys that TensorFlow has restored."""
        self._checkpoint._saver.complete = complete

    def take(self, extras: Mapping[str, Any] | None = None) -> Held:
        """Hold every value as it is now, and ``extras`` (bytes, arrays or tensors by name) with them."""
        values = self._plan.values() if self._plan is not None and self._plan.watch.is_unchanged() else None
        if values is None:
            self._plan = None  # should collecting fail, it is tried again
            self._plan, values = self._collect()
        with tf.device("cpu:0"):
            more = [HeldValue(EXTRA + name, "", tf.convert_to_tensor(value)) for name, value in (extras or {}).items()]
        return Held(itertools.chain(values, more))

    def _collect(self) -> tuple[_Plan, Iterable[HeldValue]]:
        view = self.view
        data, node_ids = save_util._gather_trackable_data(view, None)
        tensors, states, registered = save_util._split_trackables(data)
        if registered:
            raise CheckpointError(
                f"cannot save objects with a saver of their own ({', '.join(sorted(registered))}): it writes files "
                "that cannot be committed together with the rest. Save them with tf.train.Checkpoint."
            )
        whole = save_util._fill_object_graph_proto(data)
        savables = [*tensors, *states]
        serialized = save_util._get_and_write_tensors_to_serialize(savables, node_ids, None, None, whole)
        util.add_checkpoint_values_check(whole)
        plain = {id(owner): key for owner, key in _readable_variables(serialized)}
        others = [each for each in savables if id(each.trackable) not in plain and _may_have_values(each.trackable)]
        objects = [each.trackable for each in data if not isinstance(each.trackable, _Addition)]
        plan = _Plan(
            GraphWatch([self._checkpoint, *objects], view.children),  # it has the counter, whatever the root is
            _reads([(each.trackable, plain[id(each.trackable)]) for each in savables if id(each.trackable) in plain]),
            tuple(others),
            _attributes_of(others, whole),
            node_ids,
            _graph_values(whole),
        )
        return plan, plan.together([row for row in serialized.items() if id(_owner(row[0])) not in plain])

    def variables(self) -> list[tuple[Any, tf.Tensor]]:
        """Return every variable with its value, held as it is now; of a distributed one, those of its replicas."""
        found = [data.trackable for data in self.live() if is_variable(data.trackable)]
        parts = [part for variable in found for part in replicas_of(variable).values() or (variable,)]
        return [(part, tf.convert_to_tensor(part)) for part in parts]

    def cluster(self) -> Cluster | None:
        """Return the workers that train these objects together, None if it is this process alone."""
        if not is_in_cluster():
            return None
        # Models of Keras 2 know their strategy as variables do, and may have none of these yet.
        return cluster_of(unwrapped(data.trackable) for data in self.live())

    def live(self) -> list[Any]:
        """Return TensorFlow's description of each live object: ``trackable``, ``object_name`` and more."""
        _ = self._checkpoint.save_counter  # made when it is asked for; a restore has to bring it back as well
        return list(save_util._gather_trackable_data(self.view, None)[0])

    def assign_later(self, prefix: str, graph: ObjectGraph) -> Any:
        """Let TensorFlow restore the values that ``graph`` still names, now or when their objects are created.

        Returns:
            TensorFlow's coordinator; its ``matched_proto_ids`` grow as objects take their values.
        """
        return _coordinate(self.view, prefix, graph)


@dataclass(frozen=True)
class _Read:
    """Plain variables of one device: their keys, and the arguments of the op that reads them all at once."""

    device: str
    keys: tuple[str, ...]
    handles: tuple[tf.Tensor, ...]
    large: tuple[tf.Tensor, ...]
    attributes: tuple[Any, ...]
    reductions: tuple[str, ...]

    def values(self) -> Iterator[HeldValue]:
        with tf.device(self.device):  # their own: the copy to the host is the writer's work
            for handle in self.large:  # after a sparse update they would be copied, now, by being read
                tf.raw_ops.DisableCopyOnRead(resource=handle)
            tensors = execute.execute(
                b"_ReadVariablesOp", len(self.handles), list(self.handles), self.attributes, context.context()
            )
        return map(HeldValue, self.keys, itertools.repeat(""), tensors, self.reductions)


@dataclass(frozen=True)
class _Plan:
    """How to hold the values of an object graph, for as long as it is the one that was collected.

    Attributes:
        watch: Tells whether it is.
        reads: The plain variables.
        others: TensorFlow's description of what is asked for its values each time anew.
        attributes: What the graph says of the values of these.
        node_ids: Numbers of all objects, as TensorFlow wants them.
        graph: The graph itself, as it goes into the file.
    """

    watch: GraphWatch
    reads: tuple[_Read, ...]
    others: tuple[Any, ...]
    attributes: tuple[bytes, ...]
    node_ids: Any
    graph: tuple[HeldValue, ...]

    def values(self) -> Iterable[HeldValue] | None:
        """Return all values; None if some object does not have those any more that the graph tells of."""
        if not self.others:
            return self.together(())
        graph = _new_graph(nodes=[_new_graph.TrackableObject()] * len(self.node_ids))
        serialized = save_util._get_and_write_tensors_to_serialize(self.others, self.node_ids, None, None, graph)
        return self.together(serialized.items()) if _attributes_of(self.others, graph) == self.attributes else None

    def together(self, serialized: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterable[HeldValue]:
        """Return all values, given TensorFlow's table of those of the others."""
        # Read here and now; only what is made of the tensors is left to who writes them.
        return itertools.chain(*[read.values() for read in self.reads], list(_read(serialized)), self.graph)


def read_graph(file: CheckpointFile) -> ObjectGraph:
    """Return the whole object graph of a checkpoint; None for one that TF 1's Saver wrote, which has none."""
    key = next((key for key in (WHOLE_GRAPH_KEY, GRAPH_KEY) if key in file.types), None)
    if key is None:
        return None
    content = file.read([key])[key]
    try:
        graph = _new_graph.FromString(content.numpy())
    except (DecodeError, TypeError) as error:
        raise CheckpointDamagedError(f"checkpoint {file.prefix} is damaged: {error}") from error
    if not _is_closed(graph):
        raise CheckpointDamagedError(f"checkpoint {file.prefix} is damaged: its object graph leads out of itself.")
    return graph


def plain_keys(graph: ObjectGraph) -> set[str]:
    """Return the keys of the values that TensorFlow finds by itself."""
    return {key for node in _without_addition(graph).nodes for key in _keys(node)}


def copy_graph(graph: ObjectGraph) -> ObjectGraph:
    """Return a copy of an object graph that may be changed."""
    return _new_graph.FromString(graph.SerializeToString())


def read_extras(file: CheckpointFile) -> dict[str, tf.Tensor]:
    """Return what was saved beside the objects, as tensors on the host, by name."""
    keys = sorted(key for key in file.types if key.startswith(EXTRA))
    return {key[len(EXTRA) :]: value for key, value in file.read(keys).items()}


def resource_variable(trackable: Any) -> tf.Variable | None:
    """Return the resource variable behind a trackable, be it one or one a replica; None where there is none."""
    variable = unwrapped(trackable)
    return variable if resource_variable_ops.is_resource_variable(variable) else None


def is_variable(trackable: Any) -> bool:
    """Say whether a trackable is a variable of any kind."""
    return isinstance(trackable, (*WRAPPERS, tf.Variable)) or is_distributed(trackable)


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Assign a value that was read; on the host the variable takes over its memory, nothing is copied."""
    variable = unwrapped(variable)
    if is_distributed(variable):
        variable.assign(value, read_value=False)  # reading one would ask all workers
    else:
        variable._restore_from_tensors({base.VARIABLE_VALUE_KEY: value})


def pick_up_iterator(iterator: tf.data.Iterator) -> tf.Tensor:
    """Return the position of an iterator, shuffle buffer included, as a scalar variant tensor, which stays as it is.

    Raises:
        tf.errors.OpError: Its pipeline holds state that cannot be saved.
        NotImplementedError: It is of a kind that TensorFlow does not save.
    """
    with tf.device("cpu:0"):
        return iterator._serialize_to_tensors()[_POSITION]


def shuffles_in(content: bytes) -> int:
    """Return how many shuffles are alive in a position that :func:`pick_up_iterator` returned, given its bytes."""
    return content.count(b"epoch_num_random_samples")


def put_down_iterator(iterator: tf.data.Iterator, state: tf.Tensor) -> None:
    """Move a fresh iterator over the same dataset to a position that :func:`pick_up_iterator` returned."""
    if state.dtype == tf.string:  # as it was saved before ckptkit left making bytes of it to the background
        state = tf.io.parse_tensor(state, tf.variant)
    iterator._restore_from_tensors({_POSITION: state})


def inputs_of(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Return the datasets that a dataset is made of."""
    inside = getattr(dataset, "_dataset", None)  # of TF 1's adapter, which gives out the inside's inputs as its own
    return [inside] if isinstance(inside, tf.data.Dataset) else list(dataset._inputs())


def variables_in(dataset: tf.data.Dataset) -> list[tf.Variable]:
    """Return the variables that a dataset's own functions use: a Keras layer's seed, or a random generator's state."""
    return [variable for function in dataset._functions() for variable in function.function.variables]


def captures_dataset(dataset: tf.data.Dataset) -> bool:
    """Say whether a dataset's own functions use another dataset from outside, which :func:`inputs_of` does not tell."""
    captured = [value for function in dataset._functions() for value in function.function.captured_inputs]
    return any(value.dtype == tf.variant for value in captured)


def stateful_operation(dataset: tf.data.Dataset) -> str | None:
    """Say which operation of a dataset keeps state that no iterator's state holds; None if there is none."""
    options = tf.data.Options()
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.FAIL
    try:  # the dataset's own policy goes before that of the call
        dataset.with_options(options)._as_serialized_graph(
            external_state_policy=options.experimental_external_state_policy
        )
    except tf.errors.FailedPreconditionError as error:
        return obstacle_of(error)
    return None


def obstacle_of(error: Exception) -> str:
    """Return the one clause of a TensorFlow error that says what is in the way."""
    return str(error).split("\n")[0].split("}} ")[-1].split(" [Op:")[0].rstrip(".")


def eager_random_state() -> dict[str, Any]:
    """Return the state of TensorFlow's random numbers outside of graphs, as far as there is one."""
    generator = _seeds_of_operations()
    state: dict[str, Any] = {} if generator is None else {"operations": generator.getstate()}
    if stateful_random_ops.global_generator is not None:
        state["generator"] = stateful_random_ops.global_generator.state.numpy()
    return state


def is_seeded() -> bool:
    """Say whether TensorFlow's global seed is set."""
    return context.context()._seed is not None


def set_eager_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`eager_random_state` returned."""
    generator = _seeds_of_operations()
    if generator is not None and "operations" in state:
        generator.setstate(state["operations"])
        # An operation that has run with the same seeds before would go on where it was.
        context.context().clear_kernel_cache()
    if "generator" in state:
        tf.random.get_global_generator().state.assign(state["generator"])


def _seeds_of_operations() -> Any:
    """Return the ``random.Random`` that eager operations take their seeds from; None if no global seed was set."""
    return getattr(context.context(), "_rng", None)


class _Addition(base.Trackable):
    """The child that what TensorFlow misses hangs on."""

    def __init__(self) -> None:
        self.children: dict[str, Any] = {}

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        return self.children


class _WholeSaver(tf_checkpoint.TrackableSaver):
    """Behind ``checkpoint.restore`` and ``.read``: has what TensorFlow left restored as well."""

    def __init__(self, view: graph_view.ObjectGraphView) -> None:
        super().__init__(view)
        self._addition = _Addition()
        self.complete: Callable[[str, set[str]], None] | None = None

    def whole_view(self) -> graph_view.ObjectGraphView:
        view = self._graph_view
        self._addition.children = untracked(view.children, view.root)
        attached = list(view.attached_dependencies or ())
        if self._addition.children:
            attached.append(base.TrackableReference(ADDITION, self._addition))
        return graph_view.ObjectGraphView(view.root, attached_dependencies=attached)

    def restore(self, save_path: Any, options: Any = None) -> Any:
        status = super().restore(save_path, options)
        if self.complete is not None and save_path is not None and _has_more(save_path):
            done = status._checkpoint
            nodes = done.object_graph_proto.nodes
            self.complete(save_path, {key for number in list(done.object_by_proto_id) for key in _keys(nodes[number])})
        return status


def _has_more(prefix: str) -> bool:
    with CheckpointFile(prefix) as file:
        return WHOLE_GRAPH_KEY in file.types


def _is_closed(graph: ObjectGraph) -> bool:
    """Say whether a graph has a root, and every number in it is that of one of its objects."""
    known = range(len(graph.nodes))
    numbers = [0]
    for node in graph.nodes:
        numbers.extend(child.node_id for child in node.children)
        for slot in node.slot_variables:
            numbers.extend((slot.original_variable_node_id, slot.slot_variable_node_id))
    return all(number in known for number in numbers)


def _keys(node: Any) -> list[str]:
    return [attribute.checkpoint_key for attribute in node.attributes]


def _may_have_values(trackable: Any) -> bool:
    """Say whether an object is of a kind that has values of its own, like a table, and not just children."""
    gather = trackable._gather_saveables_for_checkpoint
    is_usual = getattr(gather, "__func__", None) is base.Trackable._gather_saveables_for_checkpoint
    return saveable_object_util.trackable_has_serialize_to_tensor(trackable) or not is_usual or bool(gather())


def _readable_variables(serialized: Mapping[Any, Any]) -> Iterator[tuple[Any, str]]:
    """Yield each variable that can be read with the others in one go, and its key."""
    for each, tensors in serialized.items():
        owner = _owner(each)
        variable = _plain_variable(owner)
        if (variable is not None and not _is_empty(variable)) or type(unwrapped(owner)) in _DISTRIBUTED:
            (key,) = tensors
            yield owner, key


def _plain_variable(trackable: Any) -> tf.Variable | None:
    """Return the resource variable whose value is all that TensorFlow saves of an object; None if it is not so."""
    variable = resource_variable(trackable)
    if variable is None:
        return None
    inside, outside = (getattr(each._serialize_to_tensors, "__func__", None) for each in (variable, trackable))
    is_plain = inside is _PLAIN_SERIALIZER and (trackable is variable or outside in _WRAPPERS_SERIALIZERS)
    return variable if is_plain else None


def _parts(owner: Any, key: str) -> Iterator[tuple[tf.Variable, str, str]]:
    """Yield the variables that an object's value is in, each with its key and how the value is made of all."""
    variable = unwrapped(owner)
    if not is_distributed(variable):
        yield variable, key, ""
        return
    replicas, reduction = replicas_of(variable) or {0: variable.values[0]}, reduction_of(variable)
    yield next(iter(replicas.values())), key, reduction
    for number, replica in replicas.items():
        if reduction or number:  # else it is the common value
            yield replica, name_of(key, number, replica_count(variable)), ""


def _reads(variables: Iterable[tuple[Any, str]]) -> tuple[_Read, ...]:
    by_device: dict[str, list[tuple[tf.Variable, str, str]]] = {}
    for owner, key in variables:
        for part in _parts(owner, key):
            by_device.setdefault(part[0].device, []).append(part)
    return tuple(
        _Read(
            device,
            tuple(key for _, key, _ in found),
            tuple(variable.handle for variable, _, _ in found),
            tuple(variable.handle for variable, _, _ in found if _is_large(variable)),
            ("N", len(found), "dtypes", [variable.dtype.as_datatype_enum for variable, _, _ in found]),
            tuple(reduction for _, _, reduction in found),
        )
        for device, found in by_device.items()
    )


def _is_large(variable: tf.Variable) -> bool:
    count = variable.shape.num_elements()
    return count is None or count * variable.dtype.size >= _LARGE


def _graph_values(whole: ObjectGraph) -> tuple[HeldValue, ...]:
    plain = _without_addition(whole)
    with tf.device("cpu:0"):
        values = [HeldValue(GRAPH_KEY, "", tf.constant(plain.SerializeToString()))]
        if len(plain.nodes) != len(whole.nodes):
            values.append(HeldValue(WHOLE_GRAPH_KEY, "", tf.constant(whole.SerializeToString())))
    return tuple(values)


def _attributes_of(trackables: Iterable[Any], graph: ObjectGraph) -> tuple[bytes, ...]:
    """Return what a graph says of the values of some objects."""
    nodes = [graph.nodes[each.node_id] for each in trackables]
    return tuple(attribute.SerializeToString() for node in nodes for attribute in node.attributes)


def _owner(serialized: Any) -> Any:
    """Return the object that a key of TensorFlow's table of values stands for."""
    is_wrapped = isinstance(serialized, saveable_object_util.SaveableCompatibilityConverter)
    return serialized.obj if is_wrapped else serialized


def _read(serialized: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[HeldValue]:
    for each, tensors in serialized:
        variable, owner = _plain_variable(each), _owner(each)
        replicas, reduction = replicas_of(owner), reduction_of(owner)
        for key, value in tensors.items():
            if reduction:  # made by who writes it, of what all replicas hold, perhaps in other processes
                yield HeldValue(key, "", _hold(next(iter(replicas.values())), None), reduction)
                value = {}
            for slice_spec, item in (value if isinstance(value, dict) else {"": value}).items():
                tensor = _hold(variable, item)
                if tensor is not None:
                    yield HeldValue(key, slice_spec, tensor)
            for number, replica in replicas.items():
                yield HeldValue(name_of(key, number, replica_count(owner)), "", _hold(replica, None))


def _hold(variable: tf.Variable | None, item: Any) -> tf.Tensor | None:
    if variable is not None:
        with tf.device(variable.device):
            return None if _is_empty(variable) else variable.read_value_no_copy()
    if isinstance(item, saveable_object.SaveSpec):
        with tf.device(item.device):
            return item.tensor  # None for an uninitialized variable
    return tf.convert_to_tensor(item)


def _without_addition(whole: ObjectGraph) -> ObjectGraph:
    """Return the graph that TensorFlow sees: all that is reached without our child, renumbered."""
    kept: dict[int, int] = {}
    queue = [0]
    for old in queue:
        if old in kept:
            continue
        kept[old] = len(kept)
        queue.extend(c.node_id for c in whole.nodes[old].children if old != 0 or c.local_name != ADDITION)
        queue.extend(slot.slot_variable_node_id for slot in whole.nodes[old].slot_variables)
    plain = _new_graph()
    for old in kept:
        node = plain.nodes.add()
        node.CopyFrom(whole.nodes[old])
        children = [c for c in node.children if c.node_id in kept and (old != 0 or c.local_name != ADDITION)]
        slots = [s for s in node.slot_variables if s.original_variable_node_id in kept]
        for child in children:
            child.node_id = kept[child.node_id]
        for slot in slots:
            slot.slot_variable_node_id = kept[slot.slot_variable_node_id]
            slot.original_variable_node_id = kept[slot.original_variable_node_id]
        _replace(node.children, children)
        _replace(node.slot_variables, slots)
    return plain


def _replace(field: Any, messages: list[Any]) -> None:
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    del field[:]
    field.extend(copies)


def _is_empty(variable: tf.Variable) -> bool:
    # Asking costs as much as reading; only this kind can be without a value in eager mode.
    return isinstance(variable, resource_variable_ops.UninitializedVariable) and not variable.is_initialized()


def _mark_values(graph: ObjectGraph) -> None:
    """Say of each node whether a value lies below it, for TensorFlow to pass by what has none.

    Otherwise an object that is made later is taken for restored by whoever asked last, and an earlier restore that does
    have a value for it comes to nothing.
    """
    parents: dict[int, list[int]] = {}
    for number, node in enumerate(graph.nodes):
        for child in node.children:
            parents.setdefault(child.node_id, []).append(number)
        for slot in node.slot_variables:
            parents.setdefault(slot.slot_variable_node_id, []).append(number)
    queue = [number for number, node in enumerate(graph.nodes) if node.attributes or node.registered_saver.name]
    above: set[int] = set()
    for number in queue:
        if number not in above:
            above.add(number)
            queue.extend(parents.get(number, ()))
    for number, node in enumerate(graph.nodes):
        node.has_checkpoint_values.value = number in above


def _coordinate(view: graph_view.ObjectGraphView, prefix: str, graph: ObjectGraph) -> Any:
    _mark_values(graph)
    reader = tf.train.load_checkpoint(prefix)
    with tf.device("cpu:0"):
        prefix_tensor = tf.constant(prefix)
    coordinator = tf_checkpoint._CheckpointRestoreCoordinator(
        object_graph_proto=graph,
        save_path=prefix,
        save_path_tensor=prefix_tensor,
        reader=reader,
        restore_op_cache={},
        graph_view=view,
        options=checkpoint_options.CheckpointOptions(),
        saveables_cache=None,
    )
    coordinator.expect_partial = True  # leftovers are our error to raise, not TensorFlow's wall of warnings
    tf_restore.CheckpointPosition(checkpoint=coordinator, proto_id=0).restore(view.root, reader)
    ids = {child.local_name: child.node_id for child in graph.nodes[0].children}
    for name, attached in view.attached_dependencies or ():
        if name in ids and ids[name] not in coordinator.object_by_proto_id:
            tf_restore.CheckpointPosition(checkpoint=coordinator, proto_id=ids[name]).restore(attached, reader)
    return coordinator
