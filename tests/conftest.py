"""Shared fixtures: quiet TensorFlow, and children that run this repository's code."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run_child():
    """Return a function that runs a Python command in the repository and returns what it printed."""

    def run(*arguments, cwd=ROOT):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def gate(monkeypatch):
    """Return an event; nothing is written before the test sets it."""
    from ckptkit.held import Held

    opened, write = threading.Event(), Held.write

    def wait_and_write(*arguments, **named):
        assert opened.wait(60)
        return write(*arguments, **named)

    monkeypatch.setattr(Held, "write", wait_and_write)
    yield opened
    opened.set()
