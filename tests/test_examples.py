"""The examples run as they stand, tell the story that they promise, and are short enough to be read."""

import logging
import re
import runpy
import sys

import pytest

from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))

slow = pytest.mark.slow


@pytest.fixture
def run_here(monkeypatch, tmp_path, capfd, checked_by_forks):
    """Return a function that runs an example in this process and returns what it printed; forks check what it saves."""

    def run(path):
        monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest would be in the way of the example's
        runpy.run_path(str(ROOT / path), run_name="__main__")
        return capfd.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    monkeypatch.setattr(sys, "argv", ["example"])
    return run


def test_the_examples_are_a_path_from_one_to_six():
    assert [path.name[:3] for path in EXAMPLES] == ["01_", "02_", "03_", "04_", "05_", "06_"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_less_than_80_lines_says_how_to_run_it_and_is_in_the_readme(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert f"python examples/{path.name}" in text.split('"""')[1]
    assert f"examples/{path.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@slow
def test_01_a_fit_is_killed_and_goes_on_where_it_was(run_fork):
    told = run_fork("examples/01_fit.py")
    killed, resumed = re.findall(r"(?:newest checkpoint is|resumed from) step (\d+)", told)
    assert int(killed) == int(resumed) >= 100
    assert "ended at step 225, epochs in the history: 5" in told
    assert float(re.search(r"test accuracy (0\.\d+)", told)[1]) > 0.9
    assert "ckpt-225" in told
    assert "(latest)" in told


@slow
def test_02_a_loop_of_ones_own_ends_with_the_same_model_with_and_without_a_kill(run_fork):
    told = run_fork("examples/02_custom_loop.py")
    killed, resumed = re.findall(r"(?:newest checkpoint is|resumed from) step (\d+)", told)
    assert int(killed) == int(resumed) >= 60
    one, other = re.findall(r"ended at step 180, model (\w+)", told)
    assert one == other
    assert "the same model to the last bit" in told
    assert "3 checkpoints, latest ckpt-180 (step 180, " in told


@slow
def test_03_a_file_says_what_is_saved_and_kept_and_another_one_changes_it(run_here):
    told = run_here("examples/03_policies_and_yaml.py")
    asked, first, second = re.split(r"^[23]\. .*\n", told, flags=re.MULTILINE)
    assert re.findall(r": (yes|no)$", asked, re.MULTILINE) == ["no", "yes", "yes"]
    assert "started afresh" in first
    assert {"90", "120", "135"} <= set(re.findall(r"ckpt-(\d+)", first))
    changes = "max_to_keep 3 -> None, preservation_policy 'EveryNSteps(n=100)' -> 'Latest(n=2)'"
    assert f"step 135 was saved with: {changes}" in second
    assert "resumed from step 135" in second
    assert {"200", "225"} <= set(re.findall(r"ckpt-(\d+)", second))
    assert told.count("(best)") == 2
    assert "is exported: export.json, model.h5, saved_model" in told


@slow
def test_04_exports_and_versions_are_served_without_ckptkit_and_rolled_back(run_here):
    told = run_here("examples/04_exports_and_versions.py")
    assert "export.json, model.h5, model.yaml, saved_model" in told
    assert "its optimizer at step 90" in told
    accuracies = re.findall(r"server: (?:SavedModel|\.h5) has test accuracy (\S+)$", told, re.MULTILINE)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
    published = dict(re.findall(r"published version (\d), which answers (\S+)$", told, re.MULTILINE))
    answers = dict(re.findall(r"server: version (\d) answers (\S+)$", told, re.MULTILINE))
    assert list(published) == ["1", "2", "3"]
    assert answers.pop("4") == published["2"]
    assert answers.items() <= published.items()
    assert "versions (1, 2, 3, 4), labels {'canary': 4, 'stable': 2}" in told


@slow
def test_05_a_run_that_is_told_to_end_saves_that_very_step_and_goes_on_from_it(run_fork):
    told = run_fork("examples/05_preemption.py")
    step = re.search(r"preempted by SIGTERM at step (\d+); newest checkpoint .*/ckpt-\1$", told, re.MULTILINE)[1]
    assert "ended with exit code 143" in told
    assert f"resumed from step {step}" in told
    assert "ended at step 180" in told


@slow
def test_06_two_workers_go_on_when_one_of_them_was_killed(run_child):
    told = run_child("examples/06_multi_worker.py")
    assert "which ends with exit code 1" in told
    ends = re.findall(r"worker (\d) of 2 resumed from step (\d+), ended at step 66: (.*)", told)
    assert [number for number, _, _ in ends] == ["0", "1"]
    assert ends[0][1:] == ends[1][1:]
