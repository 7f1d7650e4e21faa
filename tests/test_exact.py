"""Promise 1: a script that is ended anywhere and started again ends with the same bits as one that was left alone.

The one that is left alone has no ckptkit in it: a save that disturbs the training is seen as well. Real scripts, real
SIGKILLs, and in validations SIGTERMs that make them save; see exact_cases.py for the scripts and exact_child.py for
their lives.
"""

import json

import pytest

from ckptkit.which_keras import IS_LEGACY
from tests.exact_cases import CASES
from tests.exact_child import SPOILERS

pytestmark = pytest.mark.slow

# Those that run on Keras 2 as well, where all but a few of the others hold, too.
CORE = ("arrays_shuffled", "python_generator", "own_train_step_and_not_built", "early_stopping_and_plateau")
CORE += ("scaled_loss_in_mixed_precision", "two_fits_over_a_stream")
OF_THE_CORE = ("one_seed_off",)  # of what is broken

ENDS = ("variables", "optimizer", "histories", "callbacks", "random")


@pytest.fixture
def result_of(run_fork, tmp_path):
    return lambda name: json.loads(run_fork("-m", "tests.exact_child", str(tmp_path), name))[0]


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


def marked(names, of_the_core):
    """The names, those of the core with its mark."""
    return [pytest.param(name, marks=[pytest.mark.core] if name in of_the_core else []) for name in names]


@pytest.mark.parametrize("name", marked(CASES, CORE))
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not_and_knows_nothing_of_ckptkit(result_of, name):
    result = result_of(name)
    whole, again = result["whole"], result["again"]
    found = wrong(result)
    found += [(result["case"], "started again when it was over", end) for end in ENDS if again[end] != whole[end]]
    if again["trained"]:
        found.append((result["case"], "started again when it was over", f"trained {again['trained']} batches"))
    assert found == []
    assert result["case"] == name


@pytest.fixture(scope="module")
def spoilt(run_fork, tmp_path_factory):
    """What resumes end with that are broken: those that were whole and those that were killed are shared."""
    names = OF_THE_CORE if IS_LEGACY else SPOILERS
    lives = json.loads(run_fork("-m", "tests.exact_child", str(tmp_path_factory.mktemp("spoilt")), *names))
    return {life["case"]: life for life in lives}


@pytest.mark.parametrize("name", marked(SPOILERS, OF_THE_CORE))
def test_a_resume_that_is_broken_by_very_little_is_caught(spoilt, name):
    assert wrong(spoilt[name]) != []
