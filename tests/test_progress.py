"""The progress bar: where somebody looks on and it is worth it, and nowhere else; and the line in the log."""

import builtins
import io
import logging
import re
import sys
import threading
import types

import pytest
from rich.console import Console
from rich.live import Live

from ckptkit.progress import progress
from tests.screen import Screen

LARGE = 10**9


@pytest.fixture
def lines(caplog):
    """Return a function that returns what was logged."""
    caplog.set_level(logging.INFO, "ckptkit")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


# On a terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_how_far_what_is_large_is_and_a_line_stays_in_the_log(lines):
    with Screen() as screen, progress("restoring ckpt-1", "restored run/ckpt-1", size_bytes=LARGE) as work:
        work.advance(LARGE // 2)
        work.advance(LARGE // 4)
    assert "restoring ckpt-1" in screen.text
    assert "0.8/1.0 GB" in screen.text
    assert screen.text.rindex("\x1b[?25h") > screen.text.rindex("restoring"), "the cursor is back"
    assert screen.text.endswith("\x1b[2K"), "nothing of it stays"
    (line,) = lines()
    assert re.fullmatch(r"restored run/ckpt-1: 1 GB in [0-9.]+ m?s", line)


@pytest.mark.parametrize(("size_bytes", "is_shown"), [(99_999_999, False), (100_000_000, True)])
def test_a_bar_is_shown_from_a_hundred_megabytes_on(lines, size_bytes, is_shown):
    with Screen() as screen, progress("restoring", "restored", size_bytes=size_bytes):
        pass
    assert ("restoring" in screen.text) is is_shown
    assert len(lines()) == 1


def test_steps_are_shown_by_their_names(lines):
    with Screen() as screen, progress("saving model.keras", "saved model.keras", steps=3) as work:
        for name in ("writing", "loading it again", "noting checksums"):
            work.step(name)
        (task,) = work._shown[0].tasks
        assert (task.completed, task.total) == (2, 3)
    assert "saving model.keras" in screen.text
    assert "noting checksums" in screen.text
    (line,) = lines()
    assert re.fullmatch(r"saved model.keras in [0-9.]+ m?s", line)


@pytest.mark.parametrize(("size_bytes", "is_shown"), [(LARGE, True), (99_999_999, False)])
def test_a_single_step_is_shown_where_it_is_large_and_claims_no_part_of_it(size_bytes, is_shown):
    with Screen() as screen, progress("loading model.h5", "loaded model.h5", size_bytes=size_bytes, steps=1) as work:
        work.step("loading")
        assert work._shown is None or work._shown[0].tasks[0].total is None
    assert ("loading model.h5" in screen.text) is is_shown
    assert "GB" not in screen.text


def test_what_is_known_only_at_the_end_is_in_the_line(lines):
    with progress("publishing serving/digits", "published serving/digits", steps=2) as work:
        work.done, work.size_bytes = "published version 7 of serving/digits", 2500
    assert lines()[0].startswith("published version 7 of serving/digits: 2.5 kB in ")


def test_a_name_does_nothing_to_a_terminal():
    with Screen() as screen, progress("restoring [bold]\x1b[2J", "restored", size_bytes=LARGE):
        pass
    assert r"restoring [bold]\x1b[2J" in screen.text
    assert "\x1b[2J" not in screen.text


def test_what_fails_takes_its_bar_away_and_has_no_line(lines):
    with (
        Screen() as screen,
        pytest.raises(KeyError, match="rotten"),
        progress("restoring", "restored", size_bytes=LARGE),
    ):
        raise KeyError("rotten")
    assert screen.text.endswith("\x1b[2K")
    assert lines() == []


def test_silence_is_silent_wherever_it_is(lines):
    with Screen() as screen, progress("restoring", "restored", size_bytes=LARGE, verbose=0) as work:
        work.advance(1)
    assert (screen.text, lines()) == ("", [])


# Beside others -----------------------------------------------------------------------------------------------------


def test_what_others_print_goes_where_it_would_have_gone():
    with Screen() as screen, Screen("stdout") as out:
        before = sys.stdout, sys.stderr
        with progress("restoring", "restored", size_bytes=LARGE):
            assert (sys.stdout, sys.stderr) == before
            sys.stdout.write("\r3/10 loss: 0.5")  # as the bar of a fit does
    assert out.text == "\r3/10 loss: 0.5"
    assert "restoring" in screen.text


def test_of_two_at_once_one_has_the_bar_and_both_have_their_line(lines):
    def inner():
        with progress("inner", "inner is done", size_bytes=LARGE) as work:
            work.advance(1)

    with Screen() as screen:
        with progress("outer", "outer is done", size_bytes=LARGE):
            thread = threading.Thread(target=inner)
            thread.start()
            thread.join()
            with progress("nested", "nested is done", steps=2) as work:
                work.step("writing")
        with progress("later", "later is done", size_bytes=LARGE):
            pass
    assert "outer" in screen.text
    assert "later" in screen.text
    assert not re.search("inner|nested|writing", screen.text)
    assert [line.split()[0] for line in lines()] == ["inner", "nested", "outer", "later"]


@pytest.mark.parametrize("where", ["stderr", "stdout"])
@pytest.mark.parametrize("leads", ["stderr", "stdout"])
def test_another_display_of_rich_is_not_drawn_over(lines, where, leads):
    with (
        Screen("stdout") as out,
        Screen() as screen,
        Live(
            "theirs",
            console=Console(file=getattr(sys, where)),
            redirect_stdout=leads == "stdout",
            redirect_stderr=leads == "stderr",
        ),
        progress("ours", "our line", size_bytes=LARGE),
    ):
        pass
    assert "theirs" in out.text + screen.text
    assert "ours" not in out.text + screen.text
    assert len(lines()) == 1


# Where nobody looks on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TTY_COMPATIBLE", "0")])
def test_a_terminal_that_can_draw_no_bar_is_left_alone(lines, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with Screen() as screen, progress("restoring", "restored", size_bytes=LARGE):
        pass
    assert screen.text == ""
    assert len(lines()) == 1


class Gone(io.StringIO):
    """A terminal that was hung up."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")


def closed():
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize("make", [io.StringIO, Gone, closed, lambda: None], ids=["file", "gone", "closed", "none"])
@pytest.mark.parametrize("how", [{"size_bytes": LARGE}, {"steps": 3}], ids=["bytes", "steps"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of rich's own thread, perhaps
def test_where_nobody_looks_on_there_is_one_line_in_the_log_and_nothing_else(capsys, monkeypatch, lines, make, how):
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours where there is a log, perhaps, and no terminal
    monkeypatch.setattr(sys, "stderr", stream := make())
    with progress("doing", "done", **how) as work:
        work.advance(1)
        work.step("writing")
    assert len(lines()) == 1
    assert capsys.readouterr().out == ""
    assert not isinstance(stream, io.StringIO) or stream.closed or stream.getvalue() == ""


def test_rich_is_not_loaded_where_there_is_no_bar(run_child):
    script = """
import sys
from ckptkit.progress import progress
from tests.screen import Screen
with progress("doing", "done", size_bytes=10**12) as work:
    work.advance(10**12)
print(sorted(name for name in sys.modules if name.partition(".")[0] == "rich"))
"""
    assert run_child("-c", script) == "[]\n"


def test_a_notebook_shows_a_bar_as_rich_does(monkeypatch):
    class Output:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def clear_output(self, wait):
            pass

        def close(self):
            pass

    displayed = []
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    display = types.SimpleNamespace(display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", types.SimpleNamespace(Output=Output))
    with progress("restoring", "restored", size_bytes=LARGE):
        pass
    assert any(isinstance(each, Output) for each in displayed)
