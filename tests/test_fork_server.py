"""A fork of the server is as good as a process that was started: what it is given, how it ends, what it has loaded."""

import json
import os
import signal

import pytest

ASKED = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "word": os.environ.get("WORD"), "stdin": sys.stdin.read(),
    "leads a session": os.getsid(0) == os.getpid(), "main": __name__, "pid": os.getpid(),
}))
print("aside", file=sys.stderr)
"""
THREAD = """
import sys, threading

def wait_and_write():
    threading.main_thread().join()
    sys.stderr.write("by a thread")

threading.Thread(target=wait_and_write).start()
"""
LOADED = """
import sys
from tensorflow.python.eager import context
print("keras" in sys.modules, "ckptkit" in sys.modules, context.context()._initialized)
"""


def test_a_fork_has_arguments_a_folder_an_environment_and_output_of_its_own(fork_server, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ASKED)
    (tmp_path / "module.py").write_text(ASKED)
    commands = {("-c", ASKED): "-c", ("-m", "module"): str(tmp_path / "module.py"), (str(script),): str(script)}
    pids = set()
    for command, name in commands.items():
        done = fork_server.run(*command, "more", cwd=tmp_path, env={**os.environ, "WORD": "hello"})
        assert (done.returncode, done.stderr) == (0, "aside\n")
        said = json.loads(done.stdout)
        pids.add(said.pop("pid"))
        expected = {"argv": [name, "more"], "cwd": str(tmp_path), "word": "hello", "stdin": ""}
        assert said == {**expected, "leads a session": True, "main": "__main__"}
    assert len(pids) == 3


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('last words')", 1, "last words"),
        ("raise RuntimeError('broken')", 1, "RuntimeError: broken"),
        (f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(sys.stderr.write, 'at the end')", 0, "at the end"),
        (THREAD, 0, "by a thread"),
    ],
    ids=["code", "words", "error", "signal", "atexit", "thread"],
)
def test_a_fork_ends_as_a_process_does(fork_server, code, status, said):
    done = fork_server.run("-c", code)
    assert done.returncode == status
    assert said in done.stderr


def test_a_fork_has_keras_loaded_no_ckptkit_and_tensorflow_not_in_use(fork_server):
    assert fork_server.run("-c", LOADED).stdout == "True False False\n"


def test_what_one_fork_does_another_does_not_see(fork_server):
    fork_server.run(
        "-c", "import os, sys, tensorflow as tf; tf.ones([1]); sys.modules['left'] = os.environ['LEFT'] = '1'"
    )
    seen = "import os, sys; print('left' in sys.modules, 'LEFT' in os.environ)"
    assert fork_server.run("-c", seen).stdout == "False False\n"
    assert fork_server.run("-c", LOADED).stdout == "True False False\n"
