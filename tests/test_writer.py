"""The background thread: at most one save in flight and one waiting, in order, no error lost or told twice."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import pytest

from ckptkit.writer import BackgroundWriter

LONG = 20  # seconds; nothing here takes that long unless it hangs


class Gate:
    """A job that says when it began and goes on when it is let."""

    def __init__(self, log=None, name=None):
        self.began, self.go, self._log, self._name = threading.Event(), threading.Event(), log, name

    def __call__(self):
        self.began.set()
        assert self.go.wait(LONG)
        if self._log is not None:
            self._log.append(self._name)


@pytest.fixture
def writer():
    writer = BackgroundWriter()
    yield writer
    assert writer.wait(LONG)


@pytest.fixture
def busy(writer):
    """A writer with one job in flight and one waiting, the two jobs' gates, and the log they write to."""
    log = []
    flying, waiting = Gate(log, "first"), Gate(log, "second")
    writer.submit(flying)
    assert flying.began.wait(LONG)
    writer.submit(waiting)
    yield writer, flying, waiting, log
    flying.go.set()
    waiting.go.set()


def raising(error):
    def job():
        raise error

    return job


def test_a_job_runs_in_a_thread_of_its_own(writer):
    ran = []
    writer.submit(lambda: ran.append(threading.current_thread()))
    assert writer.wait(LONG)
    assert ran[0].name.startswith("ckptkit-writer")
    assert ran[0] is not threading.current_thread()
    assert not ran[0].daemon


def test_submit_returns_while_a_job_is_in_flight_and_one_is_waiting(busy):
    _, flying, waiting, log = busy
    assert log == []
    assert flying.began.is_set()
    assert not waiting.began.is_set()


def test_jobs_run_one_after_the_other_in_the_order_they_came(busy):
    writer, flying, waiting, log = busy
    waiting.go.set()
    assert not waiting.began.is_set()
    flying.go.set()
    assert writer.wait(LONG)
    assert log == ["first", "second"]


def test_a_writer_is_busy_exactly_while_no_further_job_would_be_taken(writer):
    flying, waiting = Gate(), Gate()
    assert not writer.busy
    writer.submit(flying)
    assert flying.began.wait(LONG)
    assert not writer.busy
    writer.submit(waiting)
    assert writer.busy
    flying.go.set()
    assert waiting.began.wait(LONG)
    assert not writer.busy
    waiting.go.set()


def test_a_writer_is_running_until_its_last_job_has_ended(busy):
    writer, flying, waiting, _ = busy
    assert writer.is_running
    flying.go.set()
    assert waiting.began.wait(LONG)
    assert writer.is_running
    waiting.go.set()
    assert writer.wait(LONG)
    assert not writer.is_running


def test_a_third_job_waits_for_the_first_to_end(busy, monkeypatch):
    writer, flying, waiting, log = busy
    held_up = threading.Event()
    wait = threading.Condition.wait

    def tell(condition, timeout=None):
        if threading.current_thread() is third:
            held_up.set()
        return wait(condition, timeout)

    def submit():
        writer.submit(lambda: log.append("third"))
        log.append("taken")

    third = threading.Thread(target=submit)
    monkeypatch.setattr(threading.Condition, "wait", tell)
    third.start()
    assert held_up.wait(LONG)
    assert log == []
    flying.go.set()
    third.join(LONG)
    assert log == ["first", "taken"]
    waiting.go.set()
    assert writer.wait(LONG)
    assert log == ["first", "taken", "second", "third"]


def test_waiting_with_nothing_to_do_returns_at_once(writer):
    assert writer.wait() is True
    assert writer.wait(0) is True


def test_waiting_ends_when_its_time_is_over(busy):
    writer, *_ = busy
    assert writer.wait(0) is False


def test_an_error_is_kept_and_told_once(writer):
    error = OSError("No space left on device")
    writer.submit(raising(error))
    assert writer.wait(LONG)
    assert writer.take_errors() == (error,)
    assert writer.take_errors() == ()


def test_of_several_errors_none_is_lost(writer):
    errors = tuple(ValueError(message) for message in ("first", "second", "third"))
    for error in errors:
        writer.submit(raising(error))
        assert writer.wait(LONG)
    assert writer.take_errors() == errors
    assert writer.take_errors() == ()


def test_an_error_that_nobody_will_ask_for_is_logged_be_it_there_already_or_not(writer, caplog):
    writer.submit(raising(OSError("before")))
    assert writer.wait(LONG)
    writer.abandon()
    writer.submit(raising(OSError("after")))
    assert writer.wait(LONG)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "before"),
        ("ERROR", "after"),
    ]
    assert writer.take_errors() == ()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no"), KeyboardInterrupt("no")], ids=repr)
def test_a_job_that_fails_does_not_stop_the_next_one(writer, error):
    ran, gate = [], Gate()
    writer.submit(gate)
    writer.submit(raising(error))
    gate.go.set()
    writer.submit(lambda: ran.append(True))
    assert writer.wait(LONG)
    assert ran == [True]
    assert writer.take_errors() == (error,)


def test_no_error_is_told_before_it_happened_nor_by_waiting(busy):
    writer, flying, waiting, _ = busy
    assert writer.take_errors() == ()
    flying.go.set()
    waiting.go.set()
    assert writer.wait(LONG) is True


def threads_of(writer, jobs):
    """Run some jobs one after the other; return the thread of each."""
    threads = []
    for _ in range(jobs):
        writer.submit(lambda: threads.append(threading.current_thread()))
        assert writer.wait(LONG)
    return threads


def test_the_thread_waits_for_the_next_job(writer):
    first, second = threads_of(writer, 2)
    assert first is second
    assert first.is_alive()


def test_closing_ends_the_thread_and_a_later_job_starts_another_one(writer):
    (first,) = threads_of(writer, 1)
    writer.close()
    writer.close()
    first.join(LONG)
    assert not first.is_alive()
    (second,) = threads_of(writer, 1)
    assert second is not first


def test_closing_does_not_end_the_jobs_under_way(busy):
    writer, flying, waiting, log = busy
    writer.close()
    flying.go.set()
    waiting.go.set()
    assert writer.wait(LONG)
    assert log == ["first", "second"]


def test_a_writer_that_is_dropped_leaves_no_thread_behind():
    writer = BackgroundWriter()
    (thread,) = threads_of(writer, 1)
    del writer
    gc.collect()
    thread.join(LONG)
    assert not thread.is_alive()


def test_what_a_job_held_is_let_go_before_another_one_is_taken_in_its_place(writer):
    held, waiting, busy = Gate(), Gate(), []
    weakref.finalize(held, lambda: busy.append(writer.busy))
    began, go = held.began, held.go
    writer.submit(held)
    del held
    assert began.wait(LONG)
    writer.submit(waiting)
    go.set()
    assert waiting.began.wait(LONG)
    waiting.go.set()
    assert busy == [True]


def test_an_interpreter_that_ends_finishes_the_saves_under_way_first():
    script = """
import sys
from ckptkit.writer import BackgroundWriter

def job():
    sys.stdin.readline()
    print("written", flush=True)

writer = BackgroundWriter()
writer.submit(job)
writer.submit(job)
print("the end of the script", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "the end of the script\n"
        rest, _ = child.communicate("go on\ngo on\n", timeout=60)
    assert (child.returncode, rest) == (0, "written\nwritten\n")


LET_GO = """
import sys, threading
from ckptkit.writer import BackgroundWriter

how = sys.argv[1]
writer, go = BackgroundWriter(), threading.Event()
writer.submit(go.wait)
writer.let_go(99)
assert writer.wait() is False
if how != "hangs":
    go.set()
if how == "comes to its end":
    (thread,) = [each for each in threading.enumerate() if each.name.startswith("ckptkit")]
    writer.close()
    thread.join()
if how == "goes on":
    writer.submit(lambda: print("written"))
    writer.wait()
print("the end of the script", end="")
"""


@pytest.mark.parametrize(
    ("how", "code", "printed"),
    [
        ("hangs", 99, "the end of the script"),
        ("comes to its end", 0, "the end of the script"),
        ("goes on", 0, "written\nthe end of the script"),
    ],
)
def test_jobs_that_are_let_go_are_not_waited_for_neither_here_nor_at_the_end(how, code, printed):
    done = subprocess.run([sys.executable, "-c", LET_GO, how], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, printed, "")


def test_an_interpreter_that_ends_tells_of_errors_that_nobody_has_asked_for():
    script = """
import weakref
from ckptkit.writer import BackgroundWriter

class Owner:
    pass

def job():
    raise OSError("No space left on device")

writer, owner = BackgroundWriter(), Owner()
weakref.finalize(owner, writer.abandon)
writer.submit(job)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "No space left on device\n"


def test_a_thread_that_cannot_be_started_is_told_and_hangs_nobody(writer, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    ran = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            writer.submit(lambda: ran.append("refused"))
    assert not writer.busy
    if not writer.wait(0):
        writer._running = False  # so that the fixture does not hang as well
        pytest.fail("wait() would have hung for ever")
    writer.submit(lambda: ran.append("taken"))
    assert writer.wait(LONG)
    assert ran == ["taken"]
