"""Promise 1: a script that is ended anywhere and started again ends with the same bits as one that was left alone.

The one that is left alone has no ckptkit in it: a save that disturbs the training is seen as well. Real scripts, real
SIGKILLs, and in validations SIGTERMs that make them save; see exact_cases.py for the scripts and exact_child.py for
their lives.
"""

import json

import pytest

from tests.exact_cases import CASES
from tests.exact_child import SPOILERS

pytestmark = pytest.mark.slow

ENDS = ("variables", "optimizer", "histories", "callbacks", "random")


@pytest.fixture
def result_of(run_fork, tmp_path):
    return lambda name: json.loads(run_fork("-m", "tests.exact_child", str(tmp_path), name))


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


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not_and_knows_nothing_of_ckptkit(result_of, name):
    result = result_of(name)
    whole, again = result["whole"], result["again"]
    found = wrong(result)
    found += [(result["case"], "started again when it was over", end) for end in ENDS if again[end] != whole[end]]
    if again["trained"]:
        found.append((result["case"], "started again when it was over", f"trained {again['trained']} batches"))
    assert found == []
    assert result["case"] == name


@pytest.mark.parametrize("name", SPOILERS)
def test_a_resume_that_is_broken_by_very_little_is_caught(result_of, name):
    result = result_of(name)
    assert result["case"] == name
    assert wrong(result) != []
