"""The error tree: one root, and each branch also the built-in that it refines."""

from __future__ import annotations

import inspect
import pickle

import pytest

import ckptkit
from ckptkit import errors

TREE = {
    errors.CheckpointNotFoundError: FileNotFoundError,
    errors.CheckpointDamagedError: OSError,
    errors.UnsupportedBundleError: NotImplementedError,
    errors.CheckpointMismatchError: ValueError,
    errors.CheckpointSaveError: OSError,
    errors.DirectoryLockedError: OSError,
    errors.ReadOnlyError: PermissionError,
    errors.WorkerError: RuntimeError,
    errors.ExportError: RuntimeError,
    errors.ArtifactError: ValueError,
    errors.ConfigError: ValueError,
    errors.MissingExtraError: ImportError,
}
by_name = pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)


@by_name
def test_an_error_is_caught_as_checkpoint_error_and_as_the_builtin_it_refines(error):
    assert issubclass(error, errors.CheckpointError)
    assert issubclass(error, TREE[error])


@by_name
def test_the_message_of_an_error_comes_out_as_it_went_in(error):
    message = "cannot restore 'a':\n  [Errno 2] kernel"
    assert str(error(message)) == message


@by_name
def test_an_error_survives_a_trip_through_another_process(error):
    again = pickle.loads(pickle.dumps(error("what and why")))
    assert type(again) is error
    assert str(again) == "what and why"


@by_name
def test_an_error_is_drawn_in_the_tree_at_the_top_of_the_module(error):
    lines = [line for line in errors.__doc__.splitlines() if f"─ {error.__name__} " in line]
    assert len(lines) == 1
    assert f"({TREE[error].__name__})" in lines[0]


def test_every_error_of_the_module_is_in_the_tree_and_at_the_top_of_the_package():
    classes = {error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception)}
    assert classes == {errors.CheckpointError, *TREE}
    assert {error.__name__ for error in classes} == set(errors.__all__)
    assert all(getattr(ckptkit, error.__name__) is error for error in classes)


def test_what_is_no_error_stands_beside_the_tree():
    assert ":class:`ckptkit.Preempted` (SystemExit)" in errors.__doc__
    assert issubclass(ckptkit.Preempted, SystemExit)
    assert not issubclass(ckptkit.Preempted, Exception), "what catches errors lets it pass"
