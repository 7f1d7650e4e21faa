"""Promise 1: a script that is killed anywhere and started again ends with the same bits as one that was left alone.

Real scripts, real SIGKILLs; see exact_cases.py for the scripts and exact_child.py for their lives.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.exact_cases import CASES
from tests.exact_child import SPOILERS

pytestmark = pytest.mark.slow

AT_ONCE = 6  # cases that one child runs: TensorFlow is loaded once for them
ENDS = ("variables", "optimizer", "histories", "callbacks", "random")


def run(folder, names):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.exact_child", str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def groups(names):
    return [names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE)]


def wrong(result):
    """Return what is not as it must be, a tuple each."""
    whole, life = result["whole"], result["killed"]
    at = str(life["kills"])
    assert all(life["died"]), f"{result['case']}: something of {at} was not killed: {life['died']}"
    found = [(result["case"], at, end) for end in ENDS if life[end] != whole[end]]
    if life["resumed"] != life["newest"]:
        found.append((result["case"], at, f"resumed at {life['resumed']}, could at {life['newest']}"))
    if life["newest"] is not None and not life["trained"] < whole["trained"]:
        found.append((result["case"], at, f"trained {life['trained']} batches"))
    return found


@pytest.mark.parametrize("names", groups(list(CASES)), ids=lambda names: names[0])
def test_killed_runs_end_with_the_bits_of_the_run_that_was_not(tmp_path, names):
    results = run(tmp_path, names)
    found = []
    for result in results:
        whole, plain, again = result["whole"], result["plain"], result["again"]
        found += wrong(result)
        found += [(result["case"], "without ckptkit", end) for end in (*ENDS, "trained") if plain[end] != whole[end]]
        found += [(result["case"], "started again when it was over", end) for end in ENDS if again[end] != whole[end]]
        if again["trained"]:
            found.append((result["case"], "started again when it was over", f"trained {again['trained']} batches"))
    assert found == []
    assert [result["case"] for result in results] == names


def test_a_resume_that_is_broken_by_very_little_is_caught(tmp_path):
    results = run(tmp_path, SPOILERS)
    assert [result["case"] for result in results if not wrong(result)] == []
    assert len(results) == len(SPOILERS)
