"""ENOSPC, EIO, EACCES, EROFS and EDQUOT in every operation of a save: told, without harm, gone with the next save."""

import os
import re
import shutil
from dataclasses import dataclass

import pytest
import tensorflow as tf

import ckptkit
from ckptkit.bundle import Bundle
from ckptkit.listing import DirectoryReader
from tests.failing_disk import NUMBERS, FailingDisk

pytestmark = pytest.mark.slow

KEY = "value/.ATTRIBUTES/VARIABLE_VALUE"
KINDS = {"first": (0, 1), "next": (3, 4), "replace": (3, 3)}  # checkpoints that are there, and the one to be saved
MOST = 400  # operations of a save, by far


class Run:
    """A variable, and managers that save it."""

    def __init__(self):
        self.value = tf.Variable(tf.zeros(100))
        self._checkpoint = tf.train.Checkpoint(value=self.value)

    def manager(self, directory, way="sync", max_to_keep=2):
        return ckptkit.CheckpointManager(self._checkpoint, directory, max_to_keep, async_save=way == "async")

    def set(self, number):
        self.value.assign(tf.fill([100], float(number)))

    def get(self):
        (number,) = set(self.value.numpy().tolist())
        return number


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def templates(run, tmp_path_factory):
    """Directories by how many checkpoints they hold, each with its number as the value."""
    made = {}
    for before in {before for before, _ in KINDS.values()}:
        made[before] = str(tmp_path_factory.mktemp("template") / "run")
        manager = run.manager(made[before], max_to_keep=None)
        for number in range(1, before + 1):
            run.set(number)
            manager.save(number)
        manager.close()
    return made


@pytest.fixture
def disk(monkeypatch):
    return FailingDisk(monkeypatch)


@dataclass(frozen=True)
class Case:
    """What failed, and what was told of it; None if nothing had to be."""

    failed: str
    told: str | None


def try_to_save(manager, step):
    try:
        manager.save(step)
        manager.wait_until_finished()
    except ckptkit.CheckpointSaveError as error:
        return str(error)
    return None


def newest(directory):
    """What a reader that comes along finds: the newest prefix, and its value; all of it checked."""
    reader = DirectoryReader(directory)
    listing = reader.scan()
    assert listing.damaged == {}
    if not listing.records or listing.records[-1].foreign:  # the first one, all of it there, and not committed
        return None, None
    record = listing.records[-1]
    reader.verify(record)
    with Bundle(record.prefix) as bundle:
        (value,) = set(bundle.read(KEY).tolist())
    return record.prefix, value


def litter(directory, steps):
    ends = (".index", ".manifest.json", ".data-00000-of-00001")
    known = {"checkpoint", ".ckptkit"} | {f"ckpt-{step}{end}" for step in steps for end in ends}
    inside = set(os.listdir(os.path.join(directory, ".ckptkit"))) - {"history.jsonl", "lock"}
    return (set(os.listdir(directory)) ^ known) | inside


def check_message(case, directory, number, prefix):
    name = {value: key for key, value in NUMBERS.items()}[number]
    what, do = case.told.split("\n")
    assert directory in what
    assert re.search(rf"Error {name} {os.strerror(number)}", what)
    if "is saved, but" in what:
        assert what.startswith(f"{prefix} is saved, but the directory could not be brought up to date: ")
        assert do.endswith("; the next save tries again.")
    else:
        stands = "There is no complete checkpoint yet." if prefix is None else f"{prefix} is the newest complete"
        assert do.startswith(stands) or case.failed.startswith("open to list")  # it could not be read, then
        assert do.endswith(" or save to another directory, then save again; training state is unharmed.")


def check_retry(run, manager, step, case):
    """Save again, and see that nothing is left of the save that failed."""
    directory = manager.directory
    assert try_to_save(manager, step) is None
    assert newest(directory) == (os.path.join(directory, f"ckpt-{step}"), 9.0)
    there = [record.step for record in DirectoryReader(directory).scan().records]
    assert litter(directory, there) == set()
    if case.failed.startswith("open to list"):
        return  # one that could not be read when the directory was opened is nobody's, and stays
    kept = [each for each in (step - 1, step) if each]
    assert there == kept
    prefixes = [os.path.join(directory, f"ckpt-{each}") for each in kept]
    assert manager.checkpoints == prefixes
    run.set(0)
    assert manager.restore().step == step
    assert run.get() == 9.0
    assert tf.train.get_checkpoint_state(directory).all_model_checkpoint_paths == prefixes


def check_failure(run, manager, disk, before, step, at, number, lasting):
    """Let one operation of a save fail, and see that it is told and does no harm."""
    run.set(9)
    with disk.failing(at, number, lasting):
        told = try_to_save(manager, step)
        case = Case(disk.failed, told)
    assert run.get() == 9.0
    prefix, found = newest(manager.directory)
    is_new = told is None or "failed after its commit" in told or "is saved, but" in told
    assert found == (9.0 if is_new else float(before) if before else None)
    if told is not None:
        check_message(case, manager.directory, number, prefix)
    return case


def check_all(run, tmp_path, templates, disk, way, kind, numbers, lasting=False, retry=True):
    """Let each operation of a save fail in turn; return what was seen."""
    before, step = KINDS[kind]
    cases = []
    for at in range(1, MOST):
        directory = str(tmp_path / str(at) / "run")
        if before:
            shutil.copytree(templates[before], directory)
        try:
            manager = run.manager(directory, way)
            case = check_failure(run, manager, disk, before, step, at, numbers[at % len(numbers)], lasting)
            if retry:
                check_retry(run, manager, step, case)
            manager.close()
        except BaseException as error:
            raise AssertionError(f"operation {at}, {disk.failed}") from error
        if not case.failed:
            assert case.told is None
            return cases
        cases.append(case)
    raise AssertionError("the save did not end")


def told_of(cases):
    """The names of the operations whose failure was told, and how the messages begin."""
    names = {case.failed.split()[0] for case in cases if case.told is not None}
    texts = ["is saved, but", "failed after its commit", "failed: ", "cannot write checkpoints to"]
    return names, {text for text in texts for case in cases if case.told is not None and text in case.told}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_each_error_in_any_operation_is_told_and_harms_nothing(run, tmp_path, templates, disk, number):
    names, texts = told_of(check_all(run, tmp_path, templates, disk, "sync", "next", [number], retry=False))
    assert names >= {"open", "fsync", "pwrite", "rename", "replace", "unlink", "makedirs", "mkdir", "write", "lstat"}
    assert len(texts) == 4


@pytest.mark.parametrize(
    ("way", "kind"), [("sync", "first"), ("sync", "next"), ("sync", "replace"), ("async", "replace")]
)
def test_after_an_error_in_any_operation_the_retry_saves_and_leaves_nothing_behind(
    run, tmp_path, templates, disk, way, kind
):
    _, texts = told_of(check_all(run, tmp_path, templates, disk, way, kind, list(NUMBERS.values())))
    assert len(texts) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_on_which_nothing_can_be_written_any_more_loses_nothing_and_is_tidy_when_it_can_again(
    run, tmp_path, templates, disk, kind
):
    _, texts = told_of(check_all(run, tmp_path, templates, disk, "sync", kind, list(NUMBERS.values()), lasting=True))
    assert len(texts) == 4
