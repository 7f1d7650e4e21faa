"""The watch over signals: what it notes, whom it calls, and that nothing of it is left when it ends. Real signals."""

from __future__ import annotations

import gc
import logging
import pickle
import signal
import sys
import threading
import time
import weakref

import pytest

from ckptkit.preemption import Preempted, PreemptionWatch, request_preemption

pytestmark = pytest.mark.core

TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


@pytest.fixture(autouse=True)
def script():
    """Handle signals as a script of its own would, and look that it gets its handlers back."""
    seen = []

    def handle(number, frame):
        seen.append(signal.Signals(number).name)

    before = [signal.signal(number, handle) for number in (TERM, USR1)]
    yield seen
    assert [signal.getsignal(number) for number in (TERM, USR1)] == [handle, handle]
    for number, handler in zip((TERM, USR1), before):
        signal.signal(number, handler)


@pytest.fixture
def watching():
    """Return a function that makes a watch and begins; all end with the test, the last one first."""
    begun = []

    def begin(*names, is_running=lambda frame: True, **options):
        watch = PreemptionWatch(names, **options)
        watch.begin(is_running)
        begun.insert(0, watch)
        return watch

    yield begin
    for watch in begun:
        watch.heed()


def send(number):
    signal.raise_signal(number)  # to this thread: one to the process may come some instructions later


# What it notes --------------------------------------------------------------------------------------------------------


def test_a_signal_is_noted_with_its_name_and_its_time(watching):
    watch = watching("SIGTERM", "SIGUSR1")
    assert watch.request is None
    before = time.monotonic()
    send(USR1)
    assert watch.request.cause == "SIGUSR1"
    assert before <= watch.request.came_at <= time.monotonic()


def test_later_signals_change_nothing(watching):
    watch = watching("SIGTERM", "SIGUSR1")
    send(TERM)
    first = watch.request
    send(USR1)
    send(TERM)
    assert watch.request is first


def test_a_signal_that_is_not_watched_is_none_of_ours(watching, script):
    watch = watching("SIGTERM")
    send(USR1)
    assert watch.request is None
    assert script == ["SIGUSR1"]


def test_what_is_left_of_the_time_of_grace_counts_from_the_signal(watching, monkeypatch):
    watch = watching("SIGTERM", grace_secs=30.0)
    assert watch.secs_left is None
    send(TERM)
    came_at = watch.request.came_at
    monkeypatch.setattr(time, "monotonic", lambda: came_at + 12.0)
    assert watch.secs_left == pytest.approx(18.0)
    monkeypatch.setattr(time, "monotonic", lambda: came_at + 31.0)
    assert watch.secs_left == 0
    watch.grace_secs = None
    assert watch.secs_left is None


def test_a_watch_that_begins_again_knows_nothing_of_before(watching):
    watch = watching("SIGTERM")
    send(TERM)
    watch.heed()
    watch.begin(lambda frame: True)
    assert watch.request is None
    send(TERM)
    assert watch.request is not None


# Handlers that were there ---------------------------------------------------------------------------------------------


def test_the_handler_that_was_there_is_called_at_each_signal_and_put_back_at_the_end(watching, script):
    watch = watching("SIGTERM", "SIGUSR1")
    send(TERM)
    send(TERM)
    send(USR1)
    assert script == ["SIGTERM", "SIGTERM", "SIGUSR1"]
    watch.heed()
    send(TERM)
    assert script[3:] == ["SIGTERM"]


def test_what_the_handler_that_was_there_raises_is_kept_and_the_first_of_several(watching):
    first, later = SystemExit(3), KeyError("later")
    errors = [later, first]

    def raises(number, frame):
        raise errors.pop()

    before = signal.signal(TERM, raises)
    watch = watching("SIGTERM")
    send(TERM)
    send(TERM)
    assert errors == []
    assert watch.raised is first
    watch.heed()
    assert signal.signal(TERM, before) is raises


def test_ctrl_c_raises_nothing_while_it_is_watched(watching):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = watching("SIGINT")
    send(signal.SIGINT)
    assert (watch.request.cause, watch.raised) == ("SIGINT", None)
    watch.heed()
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_a_handler_that_was_installed_meanwhile_stays_and_what_it_hands_on_goes_through(watching, script):
    watch = watching("SIGTERM")
    ours = signal.getsignal(TERM)

    def theirs(number, frame):
        ours(number, frame)

    signal.signal(TERM, theirs)
    watch.end()
    assert signal.getsignal(TERM) is theirs
    send(TERM)
    assert (script, watch.request) == (["SIGTERM"], None)
    signal.signal(TERM, watch._previous[TERM])


def test_a_handler_that_python_did_not_install_is_left_and_it_is_said(watching, monkeypatch, caplog, script):
    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: None)  # what Python says of such a handler
        watch = watching("SIGTERM")
    assert "SIGTERM: not watched, for its handler was not installed by Python" in caplog.text
    assert "ckptkit.request_preemption()" in caplog.text
    send(TERM)
    assert (script, watch.request) == (["SIGTERM"], None)


# What is not running any more -----------------------------------------------------------------------------------------


def test_a_signal_after_the_run_ended_unnoticed_goes_to_the_handler_that_was_there(watching, script):
    watch = watching("SIGTERM", "SIGUSR1", is_running=lambda frame: False)
    send(TERM)
    assert (script, watch.request) == (["SIGTERM"], None)
    send(USR1)
    assert script == ["SIGTERM", "SIGUSR1"]


def test_whether_it_is_running_is_asked_of_the_frame_that_is_interrupted(watching):
    frames = []
    watching("SIGTERM", is_running=lambda frame: frames.append(frame) or True)
    send(TERM)
    while frames[0] is not sys._getframe():
        frames[0] = frames[0].f_back


def test_a_watch_that_begins_takes_the_place_of_one_whose_run_ended_unnoticed(watching, script):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    first = watching("SIGTERM", "SIGINT", is_running=lambda frame: False)
    second = watching("SIGTERM", "SIGINT")
    send(TERM)
    send(signal.SIGINT)
    assert (first.request, second.request.cause, second.raised) == (None, "SIGTERM", None)
    assert script == ["SIGTERM"]
    second.heed()
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_a_run_inside_of_another_tells_both_and_both_put_back_what_was_there(watching, script):
    outer = watching("SIGTERM")
    inner = watching("SIGTERM")
    send(TERM)
    assert (outer.request.cause, inner.request.cause, script) == ("SIGTERM", "SIGTERM", ["SIGTERM"])
    inner.heed()
    outer.end()
    assert script == ["SIGTERM"]


def test_a_handler_that_has_seen_a_signal_is_not_called_again_when_the_run_ends_without_heeding_it(watching, script):
    watch = watching("SIGTERM")
    send(TERM)
    watch.end()
    assert script == ["SIGTERM"]


UNHEEDED = """
import logging, signal, sys
from ckptkit.preemption import PreemptionWatch
logging.basicConfig()
how = sys.argv[1]
if how == "raises":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
outer, watch = PreemptionWatch(["SIGTERM"]), PreemptionWatch(["SIGTERM"])
outer.begin(lambda frame: True)
watch.begin(lambda frame: True)
signal.raise_signal(signal.SIGTERM)
print("noted", flush=True)
if how == "heeded":
    watch.heed()
else:
    watch.end()
outer.end()
print("on", flush=True)
"""


@pytest.mark.parametrize(
    ("how", "code", "printed", "said"),
    [
        ("ends", -TERM, "noted\n", ""),
        ("heeded", 0, "noted\non\n", ""),
        ("raises", 0, "noted\non\n", "the handler of SIGTERM raised SystemExit(3), and the run ended before"),
    ],
)
def test_a_signal_that_nobody_heeded_does_what_it_would_have_done(fork_server, how, code, printed, said):
    done = fork_server.run("-c", UNHEEDED, how)
    assert (done.returncode, done.stdout) == (code, printed)
    assert said in done.stderr


# Other threads --------------------------------------------------------------------------------------------------------


def in_a_thread(work):
    thread = threading.Thread(target=work, name="trainer")
    thread.start()
    thread.join()


def test_in_another_thread_nothing_is_installed_and_it_is_said_what_to_do(script, caplog):
    watch, seen = PreemptionWatch(["SIGTERM", "SIGUSR1"]), []

    def run():
        watch.begin(lambda frame: True)
        seen.append(watch.request)
        request_preemption()
        seen.append(watch.request.cause)
        watch.end()

    handler = signal.getsignal(TERM)
    in_a_thread(run)
    assert seen == [None, "request_preemption"]
    assert signal.getsignal(TERM) is handler
    (line,) = caplog.messages
    assert "SIGTERM, SIGUSR1: not watched, for this run is in the thread trainer" in line
    assert "signal.signal(signal.SIGTERM, lambda *_: ckptkit.request_preemption())" in line


def test_a_call_from_any_thread_is_noted_by_all_that_watch_and_by_no_other(watching):
    first, second, ended = watching("SIGTERM"), watching(), watching("SIGTERM")
    ended.heed()
    in_a_thread(request_preemption)
    assert [watch.request.cause for watch in (first, second)] == ["request_preemption"] * 2
    assert ended.request is None


def test_a_call_where_nothing_is_watched_does_nothing(script):
    request_preemption()
    assert script == []


def test_a_watch_that_ends_in_another_thread_hands_on_what_comes_to_its_handler(watching, script):
    watch = watching("SIGTERM")
    in_a_thread(watch.end)
    send(TERM)
    assert (script, watch.request) == (["SIGTERM"], None)


def test_a_watch_without_signals_says_nothing_and_is_forgotten_with_its_owner(caplog):
    def begin():
        watch = PreemptionWatch([])
        watch.begin(lambda frame: True)
        gone.append(weakref.ref(watch))

    gone = []
    in_a_thread(begin)
    gc.collect()
    assert (gone[0](), caplog.messages) == (None, [])
    request_preemption()


# How a run leaves -----------------------------------------------------------------------------------------------------


def test_preempted_is_a_system_exit_that_tells_what_happened_and_survives_another_process():
    preempted = Preempted(99, "SIGUSR1", 1200, "runs/a/ckpt-1200")
    assert isinstance(preempted, SystemExit)
    assert not isinstance(preempted, Exception)
    again = pickle.loads(pickle.dumps(preempted))
    for each in (preempted, again):
        assert (each.code, each.cause, each.step, each.checkpoint) == (99, "SIGUSR1", 1200, "runs/a/ckpt-1200")
        assert str(each) == "preempted by SIGUSR1 at step 1200; newest checkpoint runs/a/ckpt-1200"
    assert Preempted().code == 143
    assert str(Preempted(step=3)).endswith("newest checkpoint none")


def test_the_log_is_not_written_in_a_handler(watching, caplog):
    watching("SIGTERM")
    with caplog.at_level(logging.DEBUG):
        send(TERM)
    assert caplog.messages == []
