"""SIGKILL at every call of a save, of the pruning after it and of a replacement; see kill_child.py."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import strace
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

WAYS = ["sync", "async", "replace"]
STRACED = ["strace-async", "strace-replace"]
with_strace = pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
every_way = pytest.mark.parametrize("way", [*WAYS, *(pytest.param(way, marks=with_strace) for way in STRACED)])


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Return what the child printed, by way; it runs once for all workers of a test run."""
    folder = Path(tmp_path_factory.getbasetemp())
    if "PYTEST_XDIST_TESTRUNUID" in os.environ:
        folder = folder.parent  # the workers' common one
    told = [] if strace.why_not() else [f"told-{way}" for way in WAYS] + STRACED
    output = folder / "kills.json"
    with open(folder / "kills.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            command = [sys.executable, "-m", "tests.kill_child", str(folder / "kills"), *WAYS, *told]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
            assert done.returncode == 0, done.stderr
            output.write_text(done.stdout)
    by_way = {}
    for line in output.read_text().splitlines():
        case = json.loads(line)
        by_way.setdefault(case["way"], []).append(case)
    return by_way


@with_strace
@pytest.mark.parametrize("way", WAYS)
def test_the_calls_that_a_save_dies_at_are_all_that_strace_sees(printed, way):
    (watched,) = printed[f"told-{way}"]
    assert len(watched["told"]) > 30
    assert sorted(watched["told"]) == sorted(watched["seen"])


@every_way
def test_a_save_is_killed_before_its_commit_and_after(printed, way):
    cases = printed[way]
    assert len(cases) > (40 if way in WAYS else 20)
    (survivor,) = [case for case in cases if not case["killed"]]
    assert survivor["reported"] == "4"
    assert sum(case["value"] == [3.0] for case in cases) > 10
    assert sum(case["value"] == [4.0] and case["reported"] == "" for case in cases) >= 1
    assert sum(case["value"] == [4.0] and case["reported"] == "4" for case in cases) > 4


@every_way
def test_the_newest_checkpoint_after_a_kill_is_the_old_or_the_new_one_whole(printed, way):
    old, new = ("ckpt-3", [3.0]), ("ckpt-3" if way.endswith("replace") else "ckpt-4", [4.0])
    left = [(case["latest"], case["value"]) for case in printed[way]]
    assert [each for each in left if each not in (old, new)] == []
    if way in WAYS:  # one call after another: once it is committed it stays
        commit = left.index(new)
        assert left == [old] * commit + [new] * (len(left) - commit)
    assert [case["damaged"] for case in printed[way] if case["damaged"]] == []


@every_way
def test_what_was_reported_committed_before_a_kill_is_what_is_restored(printed, way):
    reported = [case for case in printed[way] if case["reported"]]
    assert [case["value"] for case in reported] == [[4.0]] * len(reported)


@every_way
def test_the_next_writer_goes_on_from_what_a_reader_saw_after_a_kill(printed, way):
    assert [case for case in printed[way] if case["value_to_go_on_from"] != case["value"]] == []


@every_way
def test_plain_tensorflow_never_reads_a_mixture_after_a_kill(printed, way):
    # While one checkpoint takes the place of another of the same name, TensorFlow sees none of that name.
    allowed = {3.0, 4.0, None} if way.endswith("replace") else {3.0, 4.0}
    assert {case["plain_value"] for case in printed[way]} <= allowed


@every_way
def test_the_next_save_after_a_kill_works_and_leaves_no_litter(printed, way):
    cases = printed[way]
    assert [case for case in cases if case["next_value"] != [9.0] or not case["next_is_latest"]] == []
    assert [case["litter"] for case in cases if case["litter"]] == []
