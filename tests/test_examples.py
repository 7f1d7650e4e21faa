"""The examples run as they stand and tell the story that they promise."""

import re

import pytest

pytestmark = pytest.mark.slow


def test_train_digits_is_killed_resumed_and_exported(run_fork):
    told = run_fork("examples/train_digits.py")
    killed = re.search(r"killed by SIGKILL .* newest checkpoint is step (\d+)", told)
    resumed = re.search(r"resumed from step (\d+)", told)
    assert int(killed[1]) == int(resumed[1]) >= 100
    assert "ended at step 360, epochs in the history: 8" in told
    accuracies = re.findall(r"test accuracy (0\.\d+)", told)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
    assert float(accuracies[0]) > 0.9
    assert re.search(r"ckpt-360 \(latest\)", told)


def test_custom_loop_ends_with_the_same_weights_with_and_without_a_kill(run_fork):
    told = run_fork("examples/custom_loop.py")
    ends = re.findall(r"ended at step 270 with test accuracy (0\.\d+), weights (\w+)", told)
    assert len(ends) == 2
    assert ends[0] == ends[1]
    assert "the same weights to the last bit" in told


def test_multi_worker_goes_on_when_one_of_two_workers_was_killed(run_child):
    told = run_child("examples/multi_worker.py")
    assert "which ends with exit code 1" in told
    ends = re.findall(r"worker (\d) of 2 resumed from step (\d+), ended at step 132: (.*)", told)
    assert [number for number, _, _ in ends] == ["0", "1"]
    assert ends[0][1:] == ends[1][1:]


def test_serve_versions_is_followed_by_a_reader_and_rolled_back(run_child):
    told = run_child("examples/serve_versions.py")
    published = dict(re.findall(r"^published version (\d): (\S+)$", told, re.MULTILINE))
    answers = dict(re.findall(r"reader: version (\d) answers (\S+)$", told, re.MULTILINE))
    assert list(published) == ["1", "2", "3"]
    assert answers.pop("4") == published["2"]
    assert answers.items() <= published.items()
    assert "versions (1, 2, 3, 4), labels {'canary': 4, 'stable': 2}" in told


def test_configured_keeps_what_the_file_says_and_tells_what_another_one_changes(run_fork):
    told = run_fork("examples/configured.py")
    first, second = told.split("2. Two more, by another file\n")
    assert "started afresh" in first
    assert {"90", "120", "135"} <= set(re.findall(r"ckpt-(\d+)", first))
    assert (
        "step 135 was saved with: max_to_keep 3 -> None, preservation_policy 'EveryNSteps(n=100)' -> 'Latest(n=2)'"
        in second
    )
    assert "resumed from step 135" in second
    assert {"200", "225"} <= set(re.findall(r"ckpt-(\d+)", second))
    assert told.count("(best)") == 2
    assert "is exported: export.json, model.h5, saved_model" in told
