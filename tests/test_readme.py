"""The README's blocks run, and print what it says they print."""

import re
import shutil

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
BLOCKS = [text for language, text in FENCES if language == "python"]
PRINTED = re.findall(r"^```$\n\n^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)  # right below a block
COMMANDS = dict(re.findall(r"^## (Run it|Test it)\n\n    (.+)$", README, re.MULTILINE))

pytestmark = pytest.mark.slow


def test_every_block_runs_and_prints_what_stands_below_it(run_fork, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = tmp_path / "blocks.py"
    script.write_text("\nprint('=====')\n".join(BLOCKS), encoding="utf-8")
    printed = run_fork(str(script), cwd=tmp_path).split("=====\n")
    assert len(printed) == len(BLOCKS) == 13
    assert len(PRINTED) == 4
    assert [text for text in printed if text in PRINTED] == PRINTED
    assert sorted(path.name for path in (tmp_path / "export" / "best").iterdir()) == [
        "export.json",
        "model.h5",
        "saved_model",
    ]


@pytest.mark.core
def test_the_block_for_keras_2_runs_on_either_keras(run_fork, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(next(block for block in BLOCKS if "TF_USE_LEGACY_KERAS" in block), encoding="utf-8")
    run_fork(str(script), cwd=tmp_path)
    assert (tmp_path / "runs" / "tf_keras" / "checkpoint").exists()


def test_the_first_block_is_a_model_fit_of_twelve_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 12
    assert "model.fit" in BLOCKS[0]


def test_there_is_one_command_to_run_it_and_one_to_test_it():
    assert COMMANDS["Run it"].endswith("examples/01_fit.py")
    assert "pytest" in COMMANDS["Test it"]


def test_every_test_that_the_promises_name_is_there():
    named = set(re.findall(r"tests/\w+\.py", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
