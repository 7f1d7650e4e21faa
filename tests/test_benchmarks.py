"""The benchmarks run and count right; how fast anything is on this machine is nothing to assert."""

import io
import json
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.benchmarks import table
from tests.benchmarks.figures import Figure, Target, against_best, best, lost, median, ratio, spread
from tests.conftest import ROOT

TINY = ["--state-mb", "1", "--rounds", "1", "--variables", "24", "--batches", "20", "--checkpoints", "8"]

# Arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "middle", "ends"),
    [([], None, None), ([3.0], 3.0, (3.0, 3.0)), ([5.0, 1.0, 2.0], 2.0, (1.0, 5.0)), ((1.0, 2.0), 1.5, (1.0, 2.0))],
    ids=["nothing", "one", "three", "two"],
)
def test_median_and_spread_of_samples(samples, middle, ends):
    assert (median(samples), spread(samples)) == (middle, ends)


def test_what_a_save_has_lost_is_its_window_without_the_steps_it_would_have_been_anyway():
    assert lost(window=2.5, steps=4, step=0.5) == 0.5
    assert lost(window=0.8, steps=0, step=0.5) == 0.8


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [(1.0, 4.0, 0.25), (None, 1.0, None), (1.0, None, None), (1.0, 0.0, None), (1, -1, None)],
)
def test_a_ratio_to_nothing_is_none(ours, theirs, told):
    assert ratio(ours, theirs) == told


def test_the_best_peer_is_the_one_with_the_least_median_of_those_that_took_part():
    samples = {"ours": [0.1], "slow": [3.0, 1.0, 2.0], "fast": [0.5, 9.0, 1.0], "absent": []}
    assert best(samples, ["slow", "fast", "absent", "unknown"]) == "fast"
    assert best(samples, ["absent"]) is None
    assert against_best(["ours", "nobody"], samples, ["slow", "fast"], 0.01) == (Target("ours", 0.01, "fast"),)
    assert against_best(["ours"], samples, ["absent"], 0.01) == ()


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (Target("ours", 0.5, "theirs"), 0.5, True),
        (Target("ours", 0.4, "theirs"), 0.5, False),
        (Target("ours", 0.5, "theirs", at_least=True), 0.5, True),
        (Target("ours", 0.6, "theirs", at_least=True), 0.5, False),
        (Target("ours", 2.0), 2.0, True),
        (Target("ours", 2.0, worst=True), 3.0, False),
        (Target("ours", 1.0, "none"), None, None),
        (Target("none", 1.0), None, None),
        (Target("none", 1.0, worst=True), None, None),
    ],
    ids=str,
)
def test_a_target_is_held_against_the_median_the_ratio_of_medians_or_the_greatest(target, value, reached):
    figure = Figure("f", "s", {"ours": [1.0, 2.0, 3.0], "theirs": [4.0], "none": []}, (target,))
    assert (figure.value(target), figure.reached(target)) == (value, reached)


# Table and file ----------------------------------------------------------------------------------------------------


def test_the_table_shows_median_spread_ratio_target_and_whether_it_is_reached():
    figures = [Figure("blocking", "s", {"ours": [0.25, 0.5, 1.0], "theirs": [1.0]}, (Target("ours", 0.01, "theirs"),))]
    file = io.StringIO()
    table.show(figures, "title", file)
    told = [[cell.strip() for cell in line.split("│")[1:-1]] for line in file.getvalue().splitlines() if "│" in line]
    assert told == [
        ["blocking", "ours", "0.5 s", "0.25 – 1", "0.5", "≤ 0.01 × theirs", "no"],
        ["", "theirs", "1 s", "1 – 1", "", "", ""],
    ]


def test_the_file_holds_raw_samples_and_verdicts():
    figure = Figure("restore", "s", {"ours": [1.0, 3.0], "theirs": []}, (Target("ours", 2.0),), {"state, bytes": 7})
    told = json.loads(table.to_json([figure], state_mb=4))
    assert (told["format"], told["state_mb"]) == (1, 4)
    target = {"contestant": "ours", "must": "at most", "limit": 2.0, "against": None, "value": 2.0, "reached": True}
    assert told["figures"] == [
        {
            "name": "restore",
            "unit": "s",
            "samples": {"ours": [1.0, 3.0], "theirs": []},
            "medians": {"ours": 2.0, "theirs": None},
            "targets": [target],
            "notes": {"state, bytes": 7},
        }
    ]


@pytest.mark.parametrize(("large", "reached"), [([1.9, 3.0, 5.0], True), ([2.1, 3.0, 5.0], False)])
@pytest.mark.parametrize("is_first", [True, False], ids=["large first", "small first"])
def test_two_sizes_compare_as_equal_where_their_spreads_overlap(large, reached, is_first):
    small, targets = [0.5, 1.0, 2.0], (Target("ours", 0.01, "peer"),)
    ours, theirs = (large, small) if is_first else (small, large)
    figures = [Figure("blocking (XLA)", "s", {"ours": ours}, targets), Figure("lost (XLA)", "s", {"ours": ours})]
    other = {
        "state_mb": 400 if is_first else 1200,
        "figures": [{"name": "blocking (XLA)", "samples": {"ours": theirs}}],
    }
    (figure,) = table.compared(figures, 1200 if is_first else 400, other)
    assert figure.name == "blocking (XLA), 1200 MB over 400 MB"
    assert figure.samples == {"ours": [3.0]}
    assert [figure.reached(target) for target in figure.targets] == [reached]


def test_the_arithmetic_starts_without_tensorflow(run_child):
    script = "import sys, tests.benchmarks.table, tests.benchmarks.figures; print('tensorflow' in sys.modules)"
    assert run_child("-c", script) == "False\n"


def test_a_figure_that_is_not_there_is_refused_with_those_that_are():
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "lost,blokking"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "no such figure: blokking (have: blocking, lost, step, memory," in done.stderr


# End to end --------------------------------------------------------------------------------------------------------


@pytest.fixture
def training():
    from tests.benchmarks.state import Training

    return Training(0.1, jit_compile=False)


def test_the_state_has_the_size_that_was_asked_for_and_a_step_changes_all_of_it():
    from tests.benchmarks.state import Training

    training = Training(1, jit_compile=False)
    assert training.size_bytes == pytest.approx(1e6, rel=0.05)
    training.step()
    before = training.to_host()
    training.step()
    same = [(old == new).all() for old, new in zip(before, training.to_host()) if old.size > 1]
    assert same == [False] * len(same)


def test_on_a_gpu_the_plain_copy_to_the_host_takes_part(training, tmp_path, monkeypatch):
    from tests.benchmarks import contestants, saving

    monkeypatch.setattr(saving, "has_gpu", lambda: True)
    monkeypatch.setattr(contestants, "contestants", lambda: {contestants.TENSORFLOW: contestants.TensorFlow})
    monkeypatch.setattr(contestants, "PEERS", (contestants.TENSORFLOW,))
    with ExitStack() as opened:
        rivals = saving.open_all(training, str(tmp_path), opened, print)
        assert list(rivals) == [contestants.TENSORFLOW, contestants.TO_HOST]
        one = saving.one_save(rivals[contestants.TO_HOST])
    assert one["during"] == []
    assert one["window"] == one["blocked"] == one["lost"] > 0


def test_orbax_is_left_out_with_a_line_where_it_is_not_installed(training, tmp_path, monkeypatch):
    from tests.benchmarks import contestants, saving

    said = []
    monkeypatch.setattr(contestants, "has_orbax", lambda: False)
    with ExitStack() as opened:
        rivals = saving.open_all(training, str(tmp_path), opened, said.append)
    assert contestants.ORBAX not in rivals
    assert len(rivals) == 7
    assert said == ["  OrbaxCheckpoint is left out: orbax-checkpoint is not installed, see the extra `benchmark`."]


@pytest.mark.slow
def test_all_but_memory_runs_end_to_end_and_leaves_nothing_behind(run_fork, tmp_path):
    from tests.benchmarks import contestants

    folder, file = tmp_path / "folder", tmp_path / "told.json"
    folder.mkdir()
    only = "blocking,lost,step,durable,restore,variables,batch,directory,import"
    options = ["--only", only, "--json", str(file), "--directory", str(folder), "--jit-compile", "on"]
    printed = run_fork("-m", "tests.benchmarks", *TINY, *options)
    assert os.listdir(folder) == []
    told = json.loads(file.read_text())
    assert [figure["name"] for figure in told["figures"]] == [
        "blocking (XLA)",
        "lost (XLA)",
        "step during a save (XLA)",
        "durable throughput",
        "restore",
        "blocking a variable (flat list)",
        "restore a variable (flat list)",
        "blocking a variable (Keras, Adam)",
        "restore a variable (Keras, Adam)",
        "a batch without a save",
        "a batch without a save, on top",
        "directory of checkpoints",
        "import",
    ]
    left_out = set() if contestants.has_orbax() else {contestants.ORBAX}
    everybody = {*contestants.OURS, contestants.CKPTKIT_SYNC, *contestants.PEERS} - left_out
    assert set(told["figures"][0]["samples"]) == everybody | {"floor: memcpy"}
    assert all(len(samples) == 1 for samples in told["figures"][0]["samples"].values())
    files = {name: told["figures"][0]["notes"][f"files of {name}, bytes"] for name in everybody}
    assert [name for name, size in files.items() if size < 0.8e6] == [], "somebody did not save it all"
    assert all(figure["targets"] for figure in told["figures"] if figure["name"] != "a batch without a save")
    assert told["machine"]["cores"] > 0
    assert told["versions"]["tensorflow"] is not None
    assert all(figure["name"].split()[0] in printed for figure in told["figures"])


@pytest.mark.slow
def test_memory_is_measured_in_a_child(tmp_path, monkeypatch):
    from tests.benchmarks import __main__, contestants, memory

    monkeypatch.setattr(memory, "TAKING_PART", (contestants.CKPTKIT,))
    peak, left = memory.memory(str(tmp_path), __main__.parse(TINY), False, print)
    assert (peak.name, left.name) == ("memory (no XLA)", "memory after close() (no XLA)")
    assert len(peak.samples[contestants.CKPTKIT]) == 2  # the first save counts as well
    assert len(left.samples) == 2
    assert [target.limit for target in peak.targets + left.targets] == [1.3, 1.3, 0.1, 0.1]
