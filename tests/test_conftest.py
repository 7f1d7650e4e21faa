"""What keeps the suite quick is at work: nothing is made twice, nothing is looked through that does not change."""

import gc
import os

import pytest

from tests import conftest


@pytest.fixture(scope="module", params=["one", "other"])
def made_once(request):
    return request.param


def group_of(request):
    marker = request.node.get_closest_marker("xdist_group")
    return marker and marker.args


def test_tests_that_share_what_is_made_once_a_module_stay_on_one_worker(made_once, request):
    assert group_of(request) == (f"test_conftest made_once {made_once}",)


def test_a_test_that_shares_nothing_may_run_anywhere(request):
    assert group_of(request) is None


def test_what_was_there_before_the_first_test_is_left_out_of_garbage_collections():
    assert gc.get_freeze_count() > len(gc.get_objects())


def test_temporary_folders_are_in_memory_where_it_takes_what_a_disk_takes(tmp_path, monkeypatch):
    assert not conftest.in_memory() or tmp_path.is_relative_to(os.environ["PYTEST_DEBUG_TEMPROOT"])
    assert not conftest.in_memory(tmp_path / "missing")
    monkeypatch.setattr(conftest, "ROOM", 2**60)
    assert not conftest.in_memory(tmp_path)
