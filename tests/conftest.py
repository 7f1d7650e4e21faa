"""Shared fixtures: quiet TensorFlow, and children that run this repository's code."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fork_server import ForkServer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")  # without loading it
ROOT = Path(__file__).resolve().parent.parent
MEMORY, ROOM = "/dev/shm", 4 * 2**30


def in_memory(folder=MEMORY):
    """Say whether tests can write to a folder in memory, where a flush takes no time: one with room, and direct writes.

    What a flush is good for is asked of recorded system calls, in test_power_loss.py, and of no disk.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.close(os.open(file.name, os.O_WRONLY | getattr(os, "O_DIRECT", 0)))
        return shutil.disk_usage(folder).free > ROOM
    except OSError:
        return False


if in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)  # where tmp_path is


def pytest_ignore_collect(collection_path):
    """Leave out what is not of the core, on Keras 2: ``TF_USE_LEGACY_KERAS=1 python -m pytest``."""
    if IS_LEGACY and collection_path.name.startswith("test_"):
        return None if "mark.core" in collection_path.read_text() else True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Deselect what is not of the core, on Keras 2, and keep together what is made once."""
    if IS_LEGACY:
        outside = [item for item in items if item.get_closest_marker("core") is None]
        items[:] = [item for item in items if item.get_closest_marker("core") is not None]
        config.hook.pytest_deselected(items=outside)
    _keep_together(items)


def _keep_together(items):
    """Keep tests that share what is made once a module on one worker: each that has one of them makes it."""
    for item in items:
        parameters = getattr(item, "callspec", SimpleNamespace(params={})).params
        for name, definitions in item._fixtureinfo.name2fixturedefs.items():
            if definitions[-1].scope == "module":
                item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {name} {parameters.get(name, '')}".strip()))


def pytest_collection_finish():
    """Take TensorFlow, Keras and all tests out of every later garbage collection: that is half a million objects."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    """Take what a module has left out of the collections of the next one's tests."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def printed(done):
    """Return what a process has printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session", autouse=IS_LEGACY)
def random_numbers_in_variables():
    """Let Keras 2 keep the state of random numbers in variables, as Keras 3 does."""
    import tf_keras

    tf_keras.backend.experimental.enable_tf_random_generator()


@pytest.fixture(scope="session")
def run_child():
    """Return a function that runs a Python command in the repository and returns what it printed."""

    def run(*arguments, cwd=ROOT):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, *arguments]
        return printed(subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment))

    return run


@pytest.fixture(scope="session")
def fork_server():
    """Return what starts Python processes in milliseconds, with TensorFlow loaded and not used."""
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def run_fork(fork_server):
    """Return a function that does what ``run_child`` returns does, in a process that has TensorFlow loaded already."""

    def run(*arguments, cwd=ROOT):
        return printed(fork_server.run(*arguments, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}))

    return run


@pytest.fixture
def checked_by_forks(fork_server, monkeypatch):
    """Let the processes that check artifacts be forks: to start TensorFlow is most of what a check takes."""
    from ckptkit.export import verification

    def run(command, *, env, **options):
        return fork_server.run(*command[1:], cwd=os.getcwd(), env=env)

    monkeypatch.setattr(verification, "subprocess", SimpleNamespace(run=run))


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
