"""A checkpoint back into live objects: everything is read and compared first, and assigned after.

    with CheckpointFile("run/ckpt-1") as file:
        pending = restore(CheckpointGraph(checkpoint), file, strict=True)
    pending.leftovers()            # [] as soon as every value has found its object

Values whose objects do not exist yet, because a Keras layer or optimizer is not built, are restored when they are made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ckptkit.errors import CheckpointDamagedError, CheckpointMismatchError
from ckptkit.mismatch import Difference, report
from ckptkit.reading import CheckpointFile
from ckptkit.replicas import names_in, replica_count, replicas_of
from ckptkit.snapshot import (
    ADDITION,
    CheckpointGraph,
    ObjectGraph,
    assign,
    copy_graph,
    is_variable,
    plain_keys,
    read_graph,
    resource_variable,
)
from ckptkit.untracked import METRICS, is_lazy, is_unbuilt, when_built

__all__ = ["Pending", "complete", "restore"]

_log = logging.getLogger("ckptkit")


class Pending:
    """Values that wait for objects which do not exist yet.

    TensorFlow's own way, to restore a variable at the moment it is assigned to its owner, breaks Keras 3 layers that
    are built by a symbolic call: the layer ends up with its variables twice. So values below an unbuilt Keras object
    wait here until its ``build()`` is over; only those of lazy ``tf.Module`` are left to TensorFlow.
    """

    def __init__(self, prefix: str, graph: CheckpointGraph, saved: ObjectGraph) -> None:
        self._prefix = prefix
        self._graph = graph
        self._saved = saved
        self._waiting: dict[int, tuple[str, _Value]] = {}
        self._left_to_tensorflow: dict[int, str] = {}
        self._coordinator: Any = None
        self._take_back: list[Callable[[], None]] = []

    def leftovers(self) -> list[str]:
        """Return the names of the values that no object has taken so far."""
        self.settle()
        taken = self._coordinator.matched_proto_ids if self._coordinator is not None else ()
        left = [name for node, name in self._left_to_tensorflow.items() if node not in taken]
        return sorted([name for name, _ in self._waiting.values()] + left)

    def settle(self) -> None:
        """Assign the values whose objects have come into being.

        Raises:
            CheckpointMismatchError: An object was made with another shape or dtype than was saved.
        """
        if not self._waiting:
            return
        live = self._graph.live()
        for at, node in _pair(live, self._saved).items():
            variable = resource_variable(live[at].trackable) if node in self._waiting else None
            if variable is None:
                continue
            name, value = self._waiting[node]
            saved = value.common
            if not variable.shape.is_compatible_with(saved.shape) or variable.dtype != saved.dtype:
                difference = Difference(name, _said(saved.shape, saved.dtype), _said(variable.shape, variable.dtype))
                raise CheckpointMismatchError(report(self._prefix, [difference], len(live)))
            value.put_into(variable)
            del self._waiting[node]
        if not self._waiting:
            for take_back in self._take_back:
                take_back()

    def _wait(self, match: _Match, values: Mapping[str, _Value]) -> None:
        self._waiting = {node: (name, values[match.key(node)]) for node, name in match.until_built.items()}
        self._left_to_tensorflow = match.until_called
        rest = match.rest()
        if rest is not None:
            self._coordinator = self._graph.assign_later(self._prefix, rest)
        if self._waiting:
            self._take_back = [when_built(owner, self.settle) for owner in match.unbuilt]


def restore(
    graph: CheckpointGraph,
    file: CheckpointFile,
    *,
    strict: bool = True,
    foreign: bool = False,
    only: Collection[str] | None = None,
    but: Collection[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> Pending:
    """Restore the objects of ``graph`` from a checkpoint, all of them or none.

    Args:
        graph: The live objects.
        file: The checkpoint, open.
        strict: Whether values without an object, objects without a value, and other shapes or dtypes are an error.
            False restores what fits and logs the rest.
        foreign: Whether plain TensorFlow wrote it, which does not save everything that Keras keeps: what it left out
            is logged and stays as it is.
        only: Names of children of the root whose values are wanted: those that hang on others alone may stay where they
            are. None for all.
        but: Names of children that are not wanted, whatever they hang on.
        ready: Called when everything is read and fits, and before anything is assigned.

    Returns:
        What waits for objects that do not exist yet.

    Raises:
        CheckpointMismatchError: Checkpoint and objects differ; nothing was assigned.
        CheckpointDamagedError: A tensor is not what was written; nothing was assigned.
    """
    saved = read_graph(file)
    if saved is None:
        raise CheckpointMismatchError(
            f"cannot restore {file.prefix}: it holds names and values but no object graph, as TF 1's Saver writes "
            "them.\nRestore it with tf.train.Checkpoint.restore once, and save it again."
        )
    match = _Match(graph.live(), saved, file, foreign, only, but)
    match.report(strict)
    values = match.read(match.keys())
    ready()
    for variable, key in match.direct:
        values[key].put_into(variable)
    match.warn_of_replicas()
    pending = Pending(file.prefix, graph, saved)
    pending._wait(match, values)
    return pending


def complete(graph: CheckpointGraph, prefix: str, done: set[str], index: int = 0) -> None:
    """Restore what TensorFlow's own ``checkpoint.restore`` has left, as far as it fits.

    Args:
        graph: The live objects.
        prefix: Path stem of the checkpoint.
        done: Keys of the values that TensorFlow has restored.
        index: The number of this worker of a cluster.
    """
    with CheckpointFile(prefix, (index, None)) as file:
        saved: ObjectGraph = read_graph(file)
        match = _Match(graph.live(), saved, file, foreign=False)
        plain = plain_keys(saved)
        own = {key for variable, key in match.direct if key in match.replicas}
        own |= file.own & match.keys()
        values = match.read(match.keys().difference(done) | own)
    for variable, key in match.direct:
        if key in values:
            values[key].put_into(variable)
    match.warn_of_replicas()
    # What TensorFlow knows of and has not restored it waits for itself.
    match.until_built = {node: name for node, name in match.until_built.items() if match.key(node) not in plain}
    match.leave_out(plain)
    Pending(prefix, graph, saved)._wait(match, values)


def of_other_workers(prefix: str, saved: int, now: int) -> str:
    """Return what to say where another number of workers goes on."""
    return (
        f"{prefix} was saved by {saved} workers that trained together, and there are {now} now. Exact are step, epoch, "
        "weights, optimizer, and whatever else all workers had in common. Not exact are: BatchNorm statistics and "
        "metrics of the epoch under way, of which each replica takes the common value or its share; the place in the "
        "data, where each worker goes on behind as many batches of its own new share, so that some come twice and some "
        f"not in this epoch; random numbers of a worker's own, {_new_ones(saved, now)}."
    )


def _new_ones(saved: int, now: int) -> str:
    return "of which those of the workers that are gone are lost" if now < saved else "which a new worker begins anew"


@dataclass(frozen=True)
class _Value:
    """A variable's value as it was saved.

    Attributes:
        common: What TensorFlow keeps of it.
        count: How many replicas saved values of their own; 0 if all had the same.
        own: Those values, by replica.
    """

    common: tf.Tensor
    count: int
    own: Mapping[int, tf.Tensor]

    def put_into(self, variable: tf.Variable) -> None:
        assign(variable, self.common)
        if self.count > 1 and replica_count(variable) == self.count:
            for number, replica in replicas_of(variable).items():
                assign(replica, self.own.get(number, self.common))


class _Match:
    """Saved nodes laid beside live objects, by walking both graphs from the root along the same names."""

    def __init__(
        self,
        live: Sequence[Any],
        saved: ObjectGraph,
        file: CheckpointFile,
        foreign: bool,
        only: Collection[str] | None = None,
        but: Collection[str] = (),
    ) -> None:
        self._prefix = file.prefix
        self._file = file
        self.types = file.types
        self._shapes = file.shapes
        self.replicas = names_in(self.types)
        self._saved = saved
        self._live = live
        self.direct: list[tuple[tf.Variable, str]] = []
        self.differences: list[Difference] = []
        self.until_built: dict[int, str] = {}  # saved node -> name, below an unbuilt Keras object
        self.until_called: dict[int, str] = {}  # the same below a lazy tf.Module
        self.left_out: list[str] = []  # live, and never saved by plain TensorFlow
        self.variables = 0
        self._foreign = foreign
        self._only = only
        self._but = but
        self._done: set[int] = set()  # saved nodes that TensorFlow need not look at
        self._pairs = _pair(live, saved)
        self.unbuilt = [live[at].trackable for at in self._pairs if is_unbuilt(live[at].trackable)]
        self._compare()
        self._sort_leftovers()

    def report(self, strict: bool) -> None:
        """Say what does not fit.

        Raises:
            CheckpointMismatchError: Something does not, and ``strict`` says that it must.
        """
        if self.left_out:
            _log.warning(
                "%s was written by plain TensorFlow, which leaves out %d values of this model; they stay as they are: "
                "%s",
                self._prefix,
                len(self.left_out),
                ", ".join(self.left_out),
            )
        if self.differences:
            if strict:
                raise CheckpointMismatchError(report(self._prefix, self.differences, self.variables))
            names = ", ".join(difference.name for difference in self.differences)
            _log.warning("restored %s in part; skipped, as strict=False says: %s", self._prefix, names)

    def keys(self) -> set[str]:
        """Return every key of the saved graph: what TensorFlow assigns later is read and checked now, too."""
        graph_keys = {a.checkpoint_key for node in self._saved.nodes for a in node.attributes}
        return graph_keys & self.types.keys()

    def read(self, keys: set[str]) -> dict[str, _Value]:
        """Read values, those of replicas with them, and check them.

        Raises:
            CheckpointDamagedError: One of them is not what was written.
        """
        own = {key: self.replicas.get(key, (0, {})) for key in keys}
        names = {name for _, names in own.values() for name in names.values()}
        tensors = self._file.read(keys | names)
        for key, (_, names_of_its) in own.items():
            for name in names_of_its.values():
                if (tensors[name].shape, tensors[name].dtype) != (tensors[key].shape, tensors[key].dtype):
                    raise CheckpointDamagedError(f"checkpoint {self._prefix} is damaged: {name!r} is not like {key!r}.")
        return {
            key: _Value(tensors[key], count, {number: tensors[name] for number, name in names.items()})
            for key, (count, names) in own.items()
        }

    def warn_of_replicas(self) -> None:
        """Say so if values of replicas were left out, because there is another number of them now."""
        counts = {(self.replicas[key][0], replica_count(v)) for v, key in self.direct if key in self.replicas}
        for saved, now in sorted(counts):
            if saved != now:
                _log.warning(
                    "%s was saved by %d replicas, and there are %d now: each takes the common value of its variables, "
                    "BatchNorm statistics and metrics of the epoch under way among them.",
                    self._prefix,
                    saved,
                    now,
                )

    def leave_out(self, keys: set[str]) -> None:
        """Take some values for done."""
        for number, node in enumerate(self._saved.nodes):
            if any(attribute.checkpoint_key in keys for attribute in node.attributes):
                self._done.add(number)

    def key(self, node: int) -> str:
        """Return the key of a saved variable."""
        keys = (attribute.checkpoint_key for attribute in self._saved.nodes[node].attributes)
        return str(next(key for key in keys if key in self.types))

    def rest(self) -> ObjectGraph | None:
        """Return the graph of what is left for TensorFlow to restore, now or when its objects are made."""
        rest = copy_graph(self._saved)
        for number in self._done:
            del rest.nodes[number].attributes[:]
        return rest if any(node.attributes for node in rest.nodes) else None

    def _compare(self) -> None:
        for live, data in enumerate(self._live):
            if not is_variable(data.trackable):
                continue
            self.variables += 1
            saved = self._pairs.get(live)
            attributes = [] if saved is None else self._saved.nodes[saved].attributes
            shape, dtype = tf.TensorShape(data.trackable.shape), tf.as_dtype(data.trackable.dtype)
            if saved is None or len(attributes) != 1:
                if self._foreign and data.object_name.startswith(f"{ADDITION}/"):
                    self.left_out.append(_name(data.object_name))
                elif not _is_optional(data.object_name):
                    self.differences.append(Difference(_name(data.object_name), None, _said(shape, dtype)))
                continue
            key = attributes[0].checkpoint_key
            if key not in self.types:  # it had no value when it was saved
                self._done.add(saved)
                continue
            if not shape.is_compatible_with(self._shapes[key]) or dtype != self.types[key]:
                said = _said(tf.TensorShape(self._shapes[key]), self.types[key])
                if not _is_optional(data.object_name):
                    self.differences.append(Difference(_name(data.object_name), said, _said(shape, dtype)))
                self._done.add(saved)
            elif (variable := resource_variable(data.trackable)) is not None:
                self.direct.append((variable, key))
                self._done.add(saved)

    def _sort_leftovers(self) -> None:
        built_later, called_later = self._below(is_unbuilt), self._below(is_lazy)
        paired, wanted = set(self._pairs.values()), self._wanted()
        for number, node in enumerate(self._saved.nodes):
            keys = [a.checkpoint_key for a in node.attributes if a.checkpoint_key in self.types]
            if number in paired or not keys:
                continue
            name = _name(keys[0])
            if number in called_later and number not in built_later:
                self.until_called[number] = name
                continue
            self._done.add(number)
            if _is_optional(keys[0]) or number not in wanted:
                continue
            if number in built_later:
                self.until_built[number] = name
            else:
                said = _said(tf.TensorShape(self._shapes[keys[0]]), self.types[keys[0]])
                self.differences.append(Difference(name, said, None))
                self.variables += 1

    def _below(self, condition: Callable[[Any], bool]) -> set[int]:
        queue = [saved for live, saved in self._pairs.items() if condition(self._live[live].trackable)]
        if queue:  # what TensorFlow does not see may be made then as well, and hangs on a child of the root
            queue.extend(c.node_id for c in self._saved.nodes[0].children if c.local_name == ADDITION)
        return self._reached_from(queue)

    def _wanted(self) -> set[int]:
        """Return the saved nodes whose values have to find an object."""
        if self._only is None:
            return set(range(len(self._saved.nodes)))
        wanted = []
        for child in self._saved.nodes[0].children:
            if child.local_name == ADDITION:  # its names begin with that of a child of the root
                added = self._saved.nodes[child.node_id].children
                wanted += [each.node_id for each in added if each.local_name.partition(":")[0] in self._only]
            elif child.local_name in self._only:
                wanted.append(child.node_id)
        unwanted = {c.node_id for node in self._saved.nodes for c in node.children if c.local_name in self._but}
        return self._reached_from(wanted, without=unwanted)

    def _reached_from(self, queue: list[int], without: Collection[int] = ()) -> set[int]:
        below: set[int] = set()
        for number in queue:
            if number not in below and number not in without:
                below.add(number)
                queue.extend(child.node_id for child in self._saved.nodes[number].children)
                queue.extend(slot.slot_variable_node_id for slot in self._saved.nodes[number].slot_variables)
        return below


def _pair(live: Sequence[Any], saved: ObjectGraph) -> dict[int, int]:
    """Walk both graphs from the root along the same names; return saved nodes by live nodes."""
    pairs: dict[int, int] = {}
    queue = [(0, 0)]
    for at, node in queue:
        if at in pairs:
            continue
        pairs[at] = node
        children = {child.local_name: child.node_id for child in saved.nodes[node].children}
        for child in live[at].children_proto:
            if child.local_name in children:
                queue.append((child.node_id, children[child.local_name]))
    for at, node in list(pairs.items()):  # slots of optimizers that are not Keras 3's
        slots = {(s.original_variable_node_id, s.slot_name): s for s in saved.nodes[node].slot_variables}
        for slot in live[at].slot_variable_proto:
            original = pairs.get(slot.original_variable_node_id)
            if original is not None and (original, slot.slot_name) in slots:
                pairs[slot.slot_variable_node_id] = slots[original, slot.slot_name].slot_variable_node_id
    return pairs


def _is_optional(key: str) -> bool:
    # The counter is TensorFlow's own bookkeeping; metrics come and go with compile() and are reset every epoch.
    name = key.split("/.ATTRIBUTES/")[0]
    return name == "save_counter" or (name.startswith(f"{ADDITION}/") and METRICS in name)


def _name(key: str) -> str:
    return key.split("/.ATTRIBUTES/")[0].removeprefix(f"{ADDITION}/").replace(":", "/")


def _said(shape: tf.TensorShape, dtype: tf.DType) -> str:
    return f"{tuple(shape.as_list())} {dtype.name}"
