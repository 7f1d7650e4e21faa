"""Whatever becomes of the files: a restore takes the newest that is whole and says why, or changes nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

import ckptkit
from ckptkit import CheckpointManager, cli
from ckptkit.bundle_writer import BundleWriter
from ckptkit.preservation import All, Best
from ckptkit.records import CheckpointRecord
from tests.conftest import ROOT
from tests.plain_tf import digest, make_checkpoint, make_model, train

DATA, INDEX, MANIFEST = "ckpt-3.data-00000-of-00001", "ckpt-3.index", "ckpt-3.manifest.json"
BEST = Best("loss", "min")
KEEP_ALL = BEST | All()


def whole_digest(model: Any) -> str:
    """Hash every variable there is, seeds and metrics, too."""
    return digest([*model.variables, *model.metrics_variables, *model.optimizer.variables])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A directory with ckpt-1 to ckpt-3, each better than the one before, and what is in them."""
    directory, digests, model = tmp_path_factory.mktemp("saved") / "run", {}, make_model()
    with CheckpointManager(make_checkpoint(model), directory, None, preservation_policy=KEEP_ALL) as manager:
        for step in (1, 2, 3):
            train(model, step)
            manager.save(step, metrics={"loss": 1 / step})
            digests[step] = whole_digest(model)
    return directory, digests


class Run:
    """A copy of the directory to damage, and a model to restore into."""

    model = None

    def __init__(self, directory: Path, digests: dict[int, str]) -> None:
        self.directory = directory
        self.digests = digests
        Run.model = Run.model or make_model()
        self._start = [np.asarray(value) for value in self.values()]

    def values(self) -> list[Any]:
        return [*self.model.variables, *self.model.metrics_variables, *self.model.optimizer.variables]

    def manager(self) -> CheckpointManager:
        return CheckpointManager(make_checkpoint(self.model), self.directory, None, preservation_policy=KEEP_ALL)

    def restored(self, which: Any = "latest") -> CheckpointRecord:
        """Restore; all of it is there then."""
        record = self.manager().restore(which)
        assert whole_digest(self.model) == self.digests[record.step]
        return record

    def refused(self, which: Any) -> str:
        """Try to restore what cannot be; return what is said. Nothing is changed."""
        for value, start in zip(self.values(), self._start):
            value.assign(start)
        before = whole_digest(self.model)
        with pytest.raises(ckptkit.CheckpointError) as caught:
            self.manager().restore(which)
        assert whole_digest(self.model) == before
        return str(caught.value)


@pytest.fixture
def run(saved: tuple[Path, dict[int, str]], tmp_path: Path) -> Run:
    shutil.copytree(saved[0], tmp_path / "run")
    return Run(tmp_path / "run", saved[1])


def falls_back(run: Run, caplog: pytest.LogCaptureFixture, step: int = 2) -> None:
    """See that ckpt-3 is left for another, which is said, and that it is never taken for what it is not."""
    caplog.clear()
    assert run.restored().step == step
    warned = [r.getMessage() for r in caplog.records if r.name == "ckptkit" and r.levelname == "WARNING"]
    assert any("ckpt-3" in message for message in warned)
    for which in (3, str(run.directory / "ckpt-3"), run.directory / "ckpt-3", "best"):
        assert "ckpt-3" in run.refused(which)
    assert cli.main(["ls", str(run.directory)]) in (0, 1)
    assert cli.main(["ls", "--json", str(run.directory)]) in (0, 1)
    assert {record.step for record in run.manager().records()} <= {1, 2, 3}


# Bits ----------------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("file", [DATA, INDEX, MANIFEST])
@pytest.mark.slow
def test_wherever_a_bit_is_flipped_the_newest_is_restored_whole_or_left_for_the_one_before(run: Run, file: str) -> None:
    path, steps = run.directory / file, []
    size = path.stat().st_size
    for number, at in enumerate(range(0, size, max(1, size // 24))):
        flip(path, at, number % 8)
        steps.append(run.restored().step)
        flip(path, at, number % 8)
    # All of an index is checked as one; of the data a second object graph is TensorFlow's alone, and a manifest that
    # does not call its checksum by its name has none.
    assert set(steps) <= {2, 3}
    assert steps.count(3) <= {INDEX: 0, MANIFEST: 1, DATA: len(steps) - 6}[file]


@pytest.mark.parametrize("file", [DATA, INDEX, MANIFEST])
def test_a_file_that_is_cut_short_anywhere_leaves_the_one_before(run: Run, file: str) -> None:
    content = (run.directory / file).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 9):
        (run.directory / file).write_bytes(content[:length])
        assert run.restored().step == 2
        assert "ckpt-3" in run.refused(3)


def test_a_flipped_bit_of_a_tensor_is_found_before_anything_is_assigned_and_said(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    content = (run.directory / DATA).read_bytes()
    value = np.asarray(CheckpointFileOf(run.directory / "ckpt-3")["model/out/_kernel/.ATTRIBUTES/VARIABLE_VALUE"])
    flip(run.directory / DATA, content.index(value.tobytes()), 0)
    falls_back(run, caplog)
    assert "has checksum 0x" in caplog.text
    assert "Falling back to the one before it" in caplog.text


class CheckpointFileOf(dict):  # type: ignore[type-arg]
    """The plain tensors of a checkpoint, by their names."""

    def __init__(self, prefix: Path) -> None:
        super().__init__(
            (name, tf.train.load_variable(str(prefix), name)) for name, _ in tf.train.list_variables(prefix)
        )


# Files ---------------------------------------------------------------------------------------------------------------


def of_a_newer_format(path: Path) -> None:
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


def of_other_files(path: Path) -> None:
    path.write_text(path.read_text().replace("ckpt-3.data-00000-of-00001", "ckpt-3.data-00000-of-00002"))


def of_another(path: Path) -> None:
    shutil.copy(path.with_name("ckpt-2.manifest.json"), path)


def of_nothing(path: Path) -> None:
    path.write_bytes(b"")


def of_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def missing(path: Path) -> None:
    path.unlink()


def of_8_terabytes(path: Path) -> None:
    os.truncate(path, 1 << 43)


ANY = [of_nothing, of_zeros, a_folder, a_pipe, a_socket, a_link_to_itself, missing, of_8_terabytes]
DAMAGES = [
    *((MANIFEST, damage) for damage in (of_a_newer_format, of_other_files, of_another, of_nothing, of_zeros)),
    (MANIFEST, of_8_terabytes),
    *((file, damage) for file in (DATA, INDEX) for damage in ANY),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_a_newest_that_is_damaged_is_left_for_the_one_before_and_refused_by_its_name(
    run: Run, file: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(run.directory / file)
    falls_back(run, caplog)


def test_a_manifest_of_a_newer_format_says_what_to_do(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    of_a_newer_format(run.directory / MANIFEST)
    run.restored()
    told = "written by a newer ckptkit in format 2, and this one reads format 1: upgrade ckptkit to use it"
    assert told in caplog.text
    assert told in run.refused(3)


@pytest.mark.parametrize("damage", [a_folder, a_pipe, a_link_to_itself, missing], ids=lambda damage: damage.__name__)
def test_a_newest_without_a_manifest_that_the_state_file_lists_is_read_and_checked_all_the_same(
    run: Run, damage: Callable[[Path], None]
) -> None:
    damage(run.directory / MANIFEST)
    assert run.restored().step == 3
    flip(run.directory / INDEX, 50, 3)
    assert run.restored().step == 2


def of_garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00garbage\n\n")


def of_a_number_without_end(path: Path) -> None:
    path.write_text(f'model_checkpoint_path: "ckpt-{"9" * 5000}"\n')


@pytest.mark.parametrize("damage", [*ANY, of_garbage, of_a_number_without_end], ids=lambda damage: damage.__name__)
def test_whatever_becomes_of_the_state_file_the_newest_is_restored(run: Run, damage: Callable[[Path], None]) -> None:
    damage(run.directory / "checkpoint")
    assert run.restored().step == 3


@pytest.mark.parametrize("damage", [a_folder, of_8_terabytes, of_garbage], ids=lambda damage: damage.__name__)
def test_a_state_file_that_is_passed_over_is_said(
    run: Run, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(run.directory / "checkpoint")
    run.restored()
    assert "/checkpoint cannot be read (" in caplog.text


# Disks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [DATA, INDEX, MANIFEST])
def test_a_disk_that_fails_to_read_a_file_leaves_the_one_before(
    run: Run, file: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, real_pread = os.open, os.preadv

    def is_hit(descriptor: int) -> bool:
        return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) == file

    def fail(*arguments: Any, **named: Any) -> int:
        raise OSError(errno.EIO, "Input/output error", file)

    def opening(path: Any, *arguments: Any, **named: Any) -> int:
        return fail() if os.path.basename(path) == file and file != DATA else real_open(path, *arguments, **named)

    def reading(descriptor: int, *arguments: Any) -> int:
        return fail() if is_hit(descriptor) else real_pread(descriptor, *arguments)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "preadv", reading)
    if file != DATA:
        real = open
        monkeypatch.setattr(
            "builtins.open",
            lambda path, *arguments, **named: (
                fail() if os.path.basename(str(path)) == file else real(path, *arguments, **named)
            ),
        )
    falls_back(run, caplog)
    assert "Input/output error" in caplog.text


def test_a_clock_that_goes_back_does_not_change_which_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = tf.Variable(0.0)
    manager = CheckpointManager(tf.train.Checkpoint(value=value), tmp_path, 2)
    for step, now in ((1, 4e9), (2, 1e9), (3, 1.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        value.assign(step)
        manager.save(step)
    again = CheckpointManager(tf.train.Checkpoint(value=value), tmp_path, 2)
    assert [record.step for record in again.records()] == [2, 3]
    assert again.restore().step == 3
    assert float(value) == 3.0
    assert cli.main(["ls", str(tmp_path)]) == 0


# All of them ---------------------------------------------------------------------------------------------------------


def test_where_nothing_is_whole_all_of_it_is_said_and_nothing_is_changed(run: Run) -> None:
    for step, damage in ((1, of_zeros), (2, of_nothing), (3, of_8_terabytes)):
        damage(run.directory / f"ckpt-{step}.data-00000-of-00001")
    flip(run.directory / "ckpt-1.index", 9, 1)
    told = run.refused("latest")
    assert "checkpoints are in" in told
    assert all(f"ckpt-{step}: " in told for step in (1, 2, 3))


@pytest.mark.parametrize("loss", [1.0, 0.0])
def test_a_damaged_checkpoint_that_is_worse_does_not_keep_the_best_from_being_restored(
    tmp_path: Path, loss: float
) -> None:
    value = tf.Variable(0.0)
    manager = CheckpointManager(tf.train.Checkpoint(value=value), tmp_path, None, preservation_policy=KEEP_ALL)
    manager.save(1, metrics={"loss": 0.5})
    manager.save(2, metrics={"loss": loss})
    missing(tmp_path / "ckpt-2.index")
    if loss == 1.0:
        assert manager.restore("best").step == 1
    else:
        with pytest.raises(ckptkit.CheckpointDamagedError, match=r"the best checkpoint in .* may be ckpt-2, which is"):
            manager.restore("best")


def test_a_fit_leaves_a_damaged_newest_for_the_one_before_and_a_model_alone_where_nothing_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(epochs: int) -> keras.Model:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
        model.compile("adam", "mse")
        callback = ckptkit.TrainingCheckpoint(tmp_path, async_save=False)
        before.append(digest(model.variables))
        try:
            model.fit(np.ones((8, 3)), np.ones((8, 2)), batch_size=4, epochs=epochs, verbose=0, callbacks=[callback])
        finally:
            after.append(digest(model.variables))
        return callback.resumed_from

    before: list[str] = []
    after: list[str] = []
    fit(3)
    flip(tmp_path / "ckpt-6.data-00000-of-00001", 2, 2)
    resumed_from = fit(3)
    assert resumed_from is not None
    assert resumed_from.step == 4
    assert "ckpt-6" in caplog.text
    for data in tmp_path.glob("*.data-*"):
        of_zeros(data)
    with pytest.raises(ckptkit.CheckpointDamagedError, match="none of them can be restored"):
        fit(4)
    assert after[-1] == before[-1]


# While others write --------------------------------------------------------------------------------------------------


def counted(directory: Path, **options: Any) -> tuple[CheckpointManager, tf.Variable]:
    value = tf.Variable(tf.zeros(10))
    return CheckpointManager(tf.train.Checkpoint(value=value), directory, 1, durable=False, **options), value


def test_a_checkpoint_that_is_read_is_not_deleted_by_a_save_of_the_same_manager(tmp_path: Path) -> None:
    manager, value = counted(tmp_path)
    manager.save(1)

    def save_meanwhile(record: CheckpointRecord, state: Any) -> None:
        value.assign(tf.ones(10))
        manager.save(2)
        assert (tmp_path / "ckpt-1.index").exists()

    assert manager.restore(1, before=save_meanwhile).step == 1
    assert value.numpy().tolist() == [0.0] * 10
    manager.restore()
    manager.save(3)
    assert [record.step for record in manager.records()] == [2, 3]


@pytest.mark.parametrize("which", ["latest", "best"])
def test_a_reader_that_loses_its_checkpoint_to_a_writer_takes_the_newer_one(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, value = counted(tmp_path, preservation_policy=BEST)
    writer.save(1, metrics={"loss": 1.0})
    reader, copy = counted(tmp_path, preservation_policy=BEST, read_only=True)
    saves = iter([2, 3])
    verify = reader._reader._store.verify

    def overtaken(record: CheckpointRecord) -> None:
        for step in saves:
            value.assign(tf.fill([10], float(step)))
            writer.save(step, metrics={"loss": 1 / step})
            break
        verify(record)

    monkeypatch.setattr(reader._reader._store, "verify", overtaken)
    assert reader.restore(which).step == 3
    assert copy.numpy().tolist() == [3.0] * 10


def test_a_reader_is_told_that_the_one_it_named_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, _ = counted(tmp_path)
    writer.save(1)
    reader, _ = counted(tmp_path, read_only=True)
    verify = reader._reader._store.verify
    monkeypatch.setattr(reader._reader._store, "verify", lambda record: (writer.save(2), verify(record)))
    with pytest.raises(ckptkit.CheckpointNotFoundError, match=r"no checkpoint 1 in .*; steps there, newest first: 2"):
        reader.restore(1)


def test_a_reader_that_has_begun_reads_on_when_its_checkpoint_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, value = counted(tmp_path)
    value.assign(tf.ones(10))
    writer.save(1, state={"note": "kept"})
    reader, copy = counted(tmp_path, read_only=True)
    verify, notes = reader._reader._store.verify, []
    monkeypatch.setattr(reader._reader._store, "verify", lambda record: (verify(record), writer.save(2)))
    reader.restore(before=lambda record, state: notes.append(state["note"].numpy()))
    assert not (tmp_path / "ckpt-1.index").exists()
    assert copy.numpy().tolist() == [1.0] * 10
    assert notes == [b"kept"]


# Object graphs -------------------------------------------------------------------------------------------------------

KEY = "value/.ATTRIBUTES/VARIABLE_VALUE"


def put_graph(directory: Path, change: Callable[[Any], object], **more: Any) -> tuple[CheckpointManager, tf.Variable]:
    """Write a checkpoint of one value with an object graph that was changed; return a manager of such a value."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    root, leaf = graph.nodes.add(), graph.nodes.add()
    root.children.add(node_id=1, local_name="value")
    leaf.attributes.add(name="VARIABLE_VALUE", full_name="value", checkpoint_key=KEY)
    change(graph)
    with BundleWriter(directory / "ckpt-1") as writer:
        writer.add("_CHECKPOINTABLE_OBJECT_GRAPH", np.array(graph.SerializeToString(), object))
        for name, value in {KEY: np.ones(2, np.float32), **more}.items():
            writer.add(name, value)
    value = tf.Variable([0.0, 0.0])
    return CheckpointManager(tf.train.Checkpoint(value=value), directory, None), value


GRAPHS: dict[str, Callable[[Any], object]] = {
    "a child that is not there": lambda graph: graph.nodes[0].children.add(node_id=7, local_name="value2"),
    "a child before the first": lambda graph: graph.nodes[0].children.add(node_id=-1, local_name="value2"),
    "a slot that is not there": lambda graph: graph.nodes[0].slot_variables.add(slot_variable_node_id=7),
    "a slot of what is not there": lambda graph: graph.nodes[0].slot_variables.add(original_variable_node_id=7),
    "nothing": lambda graph: graph.Clear(),
}


@pytest.mark.parametrize("change", GRAPHS.values(), ids=GRAPHS)
def test_an_object_graph_that_leads_out_of_itself_is_damage(change: Callable[[Any], object], tmp_path: Path) -> None:
    manager, value = put_graph(tmp_path, change)
    with pytest.raises(ckptkit.CheckpointDamagedError, match="is damaged: its object graph leads out of itself"):
        manager.restore(1)
    assert value.numpy().tolist() == [0.0, 0.0]


def test_an_object_graph_that_goes_round_in_circles_is_restored(tmp_path: Path) -> None:
    def circles(graph: Any) -> None:
        for at, to in ((0, 0), (1, 0), (1, 1)):
            graph.nodes[at].children.add(node_id=to, local_name=f"to{to}")

    manager, value = put_graph(tmp_path, circles)
    manager.restore(1)
    assert value.numpy().tolist() == [1.0, 1.0]


def test_values_of_replicas_that_are_not_like_the_common_one_are_damage(tmp_path: Path) -> None:
    more = {f"_CKPTKIT_REPLICA/0-of-2/{KEY}": np.ones(3, np.float32)}
    manager, value = put_graph(tmp_path, lambda graph: None, **more)
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"'_CKPTKIT_REPLICA/0-of-2/.*' is not like 'value/"):
        manager.restore(1)
    assert value.numpy().tolist() == [0.0, 0.0]


def test_numbers_of_replicas_without_end_are_none(tmp_path: Path) -> None:
    more = {f"_CKPTKIT_REPLICA/{'9' * 5000}-of-2/{KEY}": np.ones(2, np.float32)}
    manager, value = put_graph(tmp_path, lambda graph: None, **more)
    manager.restore(1)
    assert value.numpy().tolist() == [1.0, 1.0]


def test_a_value_that_waits_to_be_built_is_found_beside_one_that_was_not_saved(tmp_path: Path) -> None:
    def of_a_layer(graph: Any) -> None:
        graph.nodes[0].children[0].local_name = "model"
        kernel = graph.nodes.add()
        graph.nodes[1].children.add(node_id=2, local_name="_kernel")
        kernel.attributes.add(name="NOTHING", checkpoint_key="nowhere")
        kernel.attributes.add(name="VARIABLE_VALUE", checkpoint_key=KEY)
        del graph.nodes[1].attributes[:]

    put_graph(tmp_path, of_a_layer)
    layer = keras.layers.Dense(2)
    manager = CheckpointManager(tf.train.Checkpoint(model=layer), tmp_path, None)
    manager.restore(1)
    assert manager.leftovers() == ["value"]


# In processes of their own -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def child() -> Any:
    """What rot_child.py says; its folder is one that anybody may enter."""
    folder = tempfile.mkdtemp()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.rot_child", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_readers_beside_a_writer_that_keeps_one_checkpoint_see_whole_ones_in_order(child: dict[str, Any]) -> None:
    restored = child["race"]["restored"]
    assert child["race"]["odd"] == []
    assert restored == sorted(restored)
    assert len(set(restored)) > 10


@pytest.mark.slow
def test_who_may_only_read_restores_what_can_be_read_and_is_told_why_nothing_is_saved(child: dict[str, Any]) -> None:
    found = child["rights"]
    assert (found["latest"], found["value"], found["listed"]) == ("ckpt-1", 1.0, [1, 2])
    assert "ckpt-2.data-00000-of-00001 cannot be opened: [Errno 13] Permission denied" in found["named"]
    assert found["named"].startswith("CheckpointDamagedError: ")
    assert found["save"].startswith("CheckpointSaveError: cannot write checkpoints to ")
    assert "PermissionError EACCES Permission denied: " in found["save"]
    assert "ckpt-2 is the newest complete checkpoint. Let this user write there or save to another" in found["save"]


@pytest.mark.slow
def test_no_file_ends_the_process_that_reads_it(child: dict[str, Any]) -> None:
    ours = child["hostile"]["ours"]
    assert len(ours) > 20
    assert {name: ended_by for name, (_, ended_by) in ours.items() if ended_by} == {}
    is_read = {name for name, (said, _) in ours.items() if said.startswith("(")}
    assert all(name.startswith("type ") for name in is_read)
    refused = [said for name, (said, _) in ours.items() if name not in is_read]
    assert all(said.startswith("CheckpointDamagedError: ") for said in refused)
    assert child["hostile"]["theirs"] != 0, "TensorFlow reads such files by now: this guard may go"
