"""``ckptkit report``: the page, the same as JSON, and what it says of a directory with which something is wrong."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys

import pytest

from ckptkit import cli
from ckptkit.report import page as module
from tests import checkpoint_dirs
from tests.report_cases import measured, write

CHART_LIBRARY = module.chart_library


@pytest.fixture(autouse=True)
def small_library(monkeypatch):
    monkeypatch.setattr(module, "chart_library", lambda: "library")


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("digits")
    return "digits"


def test_the_page_is_written_where_it_is_wanted(directory, capsys):
    assert cli.main(["report", directory, "-o", "page.html"]) == 0
    assert capsys.readouterr() == ("wrote page.html\n", "")
    with open("page.html", encoding="utf-8") as file:
        content = file.read()
    assert "<h1>Checkpoints of digits</h1>" in content
    assert "<script>library</script>" in content
    assert sorted(os.listdir()) == ["digits", "page.html"], "no temporary file is left"


def test_without_a_name_it_is_report_html_and_what_was_there_is_replaced(directory):
    with open("report.html", "w") as file:
        file.write("old")
    assert cli.main(["report", directory]) == 0
    with open("report.html", encoding="utf-8") as file:
        assert file.read().startswith("<!DOCTYPE html>")


def test_json_is_what_the_page_is_made_of_and_makes_no_page(directory, capsys):
    with open(os.path.join(directory, ".ckptkit", "history.jsonl"), "a") as file:
        file.write(measured(5105, 500, "c", loss=math.nan).to_json() + "\n")
    assert cli.main(["report", directory, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [turn["ended"] for turn in found["turns"]] == ["killed", "preempted", "ended"]
    assert found["totals"]["repeated_steps"] == 100
    assert found["curves"][0]["values"] == [0.9, 0.5, 0.4, 0.35, "NaN"]
    assert os.listdir() == ["digits"]


def test_json_and_a_page_may_be_had_at_once(directory, capsys):
    assert cli.main(["report", directory, "--json", "-o", "page.html"]) == 0
    json.loads(capsys.readouterr().out)
    assert os.path.exists("page.html")


def test_a_damaged_checkpoint_is_a_problem_and_the_page_is_written(directory, capsys):
    os.unlink("digits/ckpt-380.data-00000-of-00001")
    assert cli.main(["report", directory]) == 1
    assert capsys.readouterr().err == "ckpt-380 is damaged: ckpt-380.data-00000-of-00001 is missing\n"
    assert os.path.exists("report.html")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_where_no_checkpoints_are_no_page_is_written(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", name]) == 1
    assert capsys.readouterr() == ("", f"no checkpoints in {name}\n")
    assert os.listdir() == []


def test_a_page_that_cannot_be_written_is_wrong_usage_and_leaves_the_old_one(directory, capsys):
    assert cli.main(["report", directory, "-o", "missing/page.html"]) == 2
    assert capsys.readouterr().err == "cannot write missing/page.html: No such file or directory\n"
    assert cli.main(["report", directory, "-o", "digits"]) == 2
    assert capsys.readouterr().err == "cannot write digits: Is not a file\n"
    assert os.listdir() == ["digits"]


def test_a_device_or_a_pipe_is_not_replaced_and_a_link_stays_one(directory):
    os.mkfifo("pipe")
    assert cli.main(["report", directory, "-o", "pipe"]) == 2
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    os.symlink("page.html", "link.html")
    assert cli.main(["report", directory, "-o", "link.html"]) == 0
    assert os.path.islink("link.html")
    assert os.path.isfile("page.html")


def test_without_plotly_the_command_says_what_to_install_and_json_still_works(directory, capsys, monkeypatch):
    monkeypatch.setattr(module, "chart_library", CHART_LIBRARY)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert cli.main(["report", directory]) == 2
    assert "pip install 'keras-ckptkit[report]'" in capsys.readouterr().err
    assert os.listdir() == ["digits"]
    assert cli.main(["report", directory, "--json"]) == 0


def test_a_directory_of_plain_tensorflow_is_reported_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint_dirs.save_foreign("tf", "ckpt-1")
    checkpoint_dirs.put_state("tf", ["ckpt-1"])
    assert cli.main(["report", "tf"]) == 0
    with open("report.html", encoding="utf-8") as file:
        content = file.read()
    assert "written by plain TensorFlow, not verified" in content
    assert "No history lies in this directory" in content
    assert capsys.readouterr().err == ""


def test_a_report_is_made_without_tensorflow(directory):
    script = """
import sys
from ckptkit.report import page
page.chart_library = lambda: ""
from ckptkit.cli import main
assert main(["report", "digits"]) == 0
assert not {"tensorflow", "keras", "tf_keras"} & {name.partition(".")[0] for name in sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
