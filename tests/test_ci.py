"""What .ci/versions asks for and says, with a Python of straw in place of the real one."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

PYTHON = """#!/usr/bin/env bash
echo "$@" >> "$LOG"
case "$2" in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    pip) [ "$FAILS" != "pip $6" ] ;;
    pytest) echo "7 passed"; [ "$FAILS" != "pytest $(basename "$(dirname "$(dirname "$0")")")" ] ;;
    *) echo "$2: $3" ;;
esac
"""


@pytest.fixture
def run_versions(tmp_path):
    """Return a function that runs the script; what it runs fails if it is asked to."""
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    log = tmp_path / "log"

    def run(fails="nothing"):
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "FAILS": fails}
        done = subprocess.run([ROOT / ".ci/versions"], capture_output=True, text=True, env=environment)
        return done, log.read_text().splitlines()

    return run


def test_the_oldest_and_the_newest_are_installed_as_setup_cfg_says_and_the_core_is_run_on_both(run_versions):
    floors = dict(
        line.split(">=") for line in (ROOT / "setup.cfg").read_text().split() if line.startswith(("keras>", "tensor"))
    )
    done, asked = run_versions()
    assert [line for line in asked if "pip" in line] == [
        f"-m pip install -q .[test] tensorflow=={floors['tensorflow']}.* keras=={floors['keras']}.*",
        "-m pip install -q .[test] tensorflow keras",
    ]
    assert asked.count("-m pytest -q -n 2 -m core") == 2
    assert (done.returncode, done.stdout) == (0, "oldest: 7 passed\nnewest: 7 passed\n")


@pytest.mark.parametrize(
    ("fails", "printed"),
    [
        ("pytest oldest", ["7 passed", "oldest: 7 passed", "newest: 7 passed"]),
        ("pytest newest", ["oldest: 7 passed", "7 passed", "newest: 7 passed"]),
        ("pip tensorflow", ["oldest: 7 passed"]),
    ],
)
def test_what_fails_on_one_version_is_shown_and_fails_the_script_when_both_were_tried(run_versions, fails, printed):
    done, _ = run_versions(fails)
    assert (done.returncode, done.stdout.splitlines()) == (1, printed)
