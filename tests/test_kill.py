"""SIGKILL at every operation of a save, of a prune and of a replacement; see kill_child.py."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sync", "async", "replace"])
def deaths(request, tmp_path_factory):
    import os
    import subprocess
    import sys

    from tests.conftest import ROOT

    command = [sys.executable, "-m", "tests.kill_child", str(tmp_path_factory.mktemp("killed")), request.param]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return request.param, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_save_is_killed_at_more_than_ten_places(deaths):
    _, cases = deaths
    assert sum(case["killed"] for case in cases) > 10
    assert not cases[-1]["killed"], "the last one is the save that gets through"


def test_the_newest_checkpoint_after_a_kill_is_the_old_or_the_new_one_whole(deaths):
    way, cases = deaths
    old, new = ("ckpt-3", [3.0]), ("ckpt-3" if way == "replace" else "ckpt-4", [4.0])
    left = [(case["latest"], case["value"]) for case in cases]
    commit = left.index(new)
    assert left == [old] * commit + [new] * (len(left) - commit)
    assert 5 < commit < len(left) - 5, "kills before and after the commit were tried"
    assert not any(case["damaged"] for case in cases), "a manifest was there before what it describes"


def test_plain_tensorflow_never_reads_a_mixture_after_a_kill(deaths):
    way, cases = deaths
    # While one checkpoint takes the place of another of the same name, TensorFlow sees none of that name.
    allowed = {3.0, 4.0, None} if way == "replace" else {3.0, 4.0}
    assert {case["plain_value"] for case in cases} <= allowed


def test_the_next_save_after_a_kill_works_and_leaves_no_litter(deaths):
    _, cases = deaths
    assert [case["countdown"] for case in cases if case["next_value"] != [9.0] or not case["next_is_latest"]] == []
    assert [(case["countdown"], case["litter"]) for case in cases if case["litter"]] == []
