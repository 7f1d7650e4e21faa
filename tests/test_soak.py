"""The soak runs, finds nothing in the library as it is, and finds what is planted; see soak/__main__.py."""

import builtins
import errno
import json
import os
import random
import subprocess
import sys

import pytest
import tensorflow as tf

import ckptkit
from ckptkit.held import Held
from ckptkit.preservation import Best
from ckptkit.store import Store
from tests.conftest import ROOT
from tests.soak import life, rot
from tests.soak.expected import Expected
from tests.soak.faults import OPERATIONS, Fault, Faults
from tests.soak.plan import Plan

CYCLES = 3

# The parent's book ----------------------------------------------------------------------------------------------------


def told(*commits, resumed=None):
    expected = Expected(kept=2)
    expected.resumed(resumed)
    for step, metric in commits:
        expected.committed(step, metric)
    return expected


def test_the_newest_the_best_and_the_one_resumed_from_must_stay():
    assert told((1, None), (2, 0.5), (3, 0.1), (4, None), (5, 0.1), (6, 0.2), (7, None)).steps == (3, 6, 7)
    run = told((1, None), (2, None))
    run.resumed(1)
    for step in (3, 4, 5):
        run.committed(step, None)
    assert run.steps == (1, 4, 5)
    run.resumed(5)
    run.committed(6, None)
    assert run.steps == (5, 6)


def test_a_checkpoint_that_is_committed_again_is_the_newest():
    assert told((1, None), (2, None), (1, None)).steps == (2, 1)


def test_a_commit_that_nobody_reported_must_stay_and_lets_none_go():
    expected = told((1, None), (2, None))
    expected.found(3, None)
    assert expected.steps == (1, 2, 3)


def test_of_a_damaged_newest_the_one_before_will_do_until_a_commit():
    expected = told((1, None), (2, 0.3))
    expected.rotted()
    assert expected.is_doubtful
    assert expected.to_resume_from == (1, 2)
    unharmed = told((1, None), (2, 0.3))
    unharmed.rotted()
    unharmed.resumed(2)
    assert (unharmed.steps, unharmed.to_resume_from) == ((1, 2), (2,))
    expected.resumed(1)
    expected.committed(3, None)
    assert (expected.steps, expected.to_resume_from) == ((1, 3), (3,))


def test_the_best_that_is_sound_must_stay_in_every_life_after_a_better_one_has_rotted():
    expected = told((1, 0.5), (2, 0.1))
    expected.rotted()
    for step in range(3, 8):
        expected.resumed(expected.steps[-1])
        expected.committed(step, 0.6)
    assert expected.steps == (1, 6, 7)


def test_nothing_to_resume_from_is_a_start_from_nothing():
    assert told().to_resume_from == (None,)


@pytest.fixture
def observed(monkeypatch):
    """Be a life that is observed, until the test is over; return what it tells."""
    told = []
    for owner, names in (
        (Store, ("lock", "write_state", "delete", "commit", "committed")),
        (ckptkit.CheckpointManager, ("save", "restore", "close")),
        (Held, ("write",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))  # as it is, to be put back
    life.observe(lambda **facts: told.append(facts))
    return told


@pytest.mark.parametrize("operation", ["rmdir", "fsync"])
def test_a_commit_is_told_though_what_follows_it_fails(tmp_path, observed, monkeypatch, operation):
    value = tf.Variable(1.0)
    policy = Best(life.MONITOR, "min")
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(model=value), tmp_path, 1, preservation_policy=policy)
    monkeypatch.setattr(life, "facts_of", lambda *arguments: {})
    manager.save(1, state={}, metrics={life.MONITOR: 0.5})
    rename, real = os.rename, getattr(os, operation)

    def fail(*arguments, **named):
        raise OSError(errno.EIO, "Input/output error")

    def rename_manifest(source, target):
        rename(source, target)
        if os.fspath(target) == str(tmp_path / "ckpt-2.manifest.json"):
            monkeypatch.setattr(os, operation, fail)

    monkeypatch.setattr(os, "rename", rename_manifest)
    with pytest.raises(ckptkit.CheckpointSaveError, match="failed after its commit"):
        manager.save(2, state={}, metrics={life.MONITOR: 0.7})
    monkeypatch.setattr(os, operation, real)
    manager.save(3, state={}, metrics={})
    commits = [(line["committed"], line["metrics"]) for line in observed if "committed" in line]
    assert commits == [(1, {life.MONITOR: 0.5}), (2, {life.MONITOR: 0.7}), (3, {})]


# What befalls a life --------------------------------------------------------------------------------------------------


def plans(seed, count=300):
    chosen = random.Random(seed)
    return [Plan.draw(chosen) for _ in range(count)]


def test_a_seed_chooses_the_same_things_again_and_everything_there_is():
    drawn = plans(7)
    assert drawn == plans(7) != plans(8)
    assert {fault.operation for plan in drawn for fault in plan.faults} == set(OPERATIONS)
    assert {plan.rot for plan in drawn} == {None, "flip", "truncate", "no state file", "move", "copy"}
    for name in ("async_save", "second_writer", "reader", "full_disk"):
        assert {getattr(plan, name) for plan in drawn} == {True, False}
    assert {None if plan.kill is None else plan.kill.in_a_save for plan in drawn} == {None, True, False}


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """Return a function that makes operations in a folder fail, until the test is over."""
    for name in set(OPERATIONS) - {"write"}:
        monkeypatch.setattr(os, name, getattr(os, name))  # as it is, to be put back
    monkeypatch.setattr(builtins, "open", open)
    told = []

    def fail(*faults):
        return Faults(faults, str(tmp_path), lambda fault: told.append(fault)), told

    return fail


def create(path):
    with open(path, "w"):
        pass


@pytest.mark.parametrize("operation", [create, os.mkdir, lambda path: os.close(os.open(path, os.O_CREAT))])
def test_operations_fail_as_often_as_they_are_told_to(tmp_path, failing, operation):
    name = {create: "write", os.mkdir: "mkdir"}.get(operation, "open")
    faults, told = failing(Fault(name, after=1, times=2, error=errno.ENOSPC))
    operation = {"mkdir": lambda path: os.mkdir(path)}.get(name, operation)
    operation(tmp_path / "before")
    faults.arm()
    operation(str(tmp_path / "one"))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left on device"):
            operation(str(tmp_path / "two"))
    operation(str(tmp_path / "three"))
    assert sorted(os.listdir(tmp_path)) == ["before", "one", "three"]
    assert told == [f"{name} No space left on device"] * 2


def test_operations_elsewhere_and_reading_go_well(tmp_path, failing, tmp_path_factory):
    faults, told = failing(Fault("write", 0, 99, errno.EIO), Fault("mkdir", 0, 99, errno.EROFS))
    create(str(tmp_path / "file"))
    faults.arm()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    create(str(elsewhere / "file"))
    os.mkdir(str(elsewhere / "folder"))
    with open(str(tmp_path / "file")) as file:
        assert file.read() == ""
    assert told == []


def test_what_rots_is_one_bit_or_the_end_of_one_file(tmp_path):
    names = ["ckpt-1.index", "ckpt-1.data-00000-of-00001", "ckpt-1.manifest.json"]
    for seed in range(20):
        for damage in (rot.flip, rot.truncate):
            for name in names:
                (tmp_path / name).write_bytes(bytes(range(200)))
            damage(str(tmp_path), "ckpt-1", random.Random(seed))
            changed = [content for name in names if (content := (tmp_path / name).read_bytes()) != bytes(range(200))]
            assert len(changed) == 1
            if damage is rot.truncate:
                assert bytes(range(200)).startswith(changed[0])
            else:
                assert sum((a ^ b).bit_count() for a, b in zip(changed[0], range(200))) == 1


# The soak -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.soak.plants", str(tmp_path_factory.mktemp("soaked")), str(CYCLES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_a_short_soak_loses_nothing(soaked):
    (found, *_), said = soaked
    assert found["broken"] == []
    assert (found["losses"], found["unexpected"]) == ([], []), said
    assert sum(found["counts"]["cycles"].values()) == CYCLES
    assert sum(found["counts"]["saves committed"].values()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "what", "told"),
    [
        ("deletes_before_the_commit", "losses", "is gone"),
        ("writes_other_bytes", "losses", "does not hold the variables of that step"),
        ("resumes_a_batch_off", "losses", "training is at other values than the undisturbed run"),
        ("does_not_clean_up", "unexpected", "the next writer left .ckptkit/tmp-"),
        ("lets_anybody_write", "unexpected", "a second writer was let in"),
        ("hangs", "unexpected", "has hung"),
    ],
)
def test_what_is_planted_is_found(soaked, plant, what, told):
    results, said = soaked
    lines = [line for result in results if plant in result["broken"] for line in result[what]]
    assert any(told in line for line in lines), (results, said)
    assert "to see it again: python -m tests.soak --minutes" in said
