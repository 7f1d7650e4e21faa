"""Starts Python in milliseconds: every process is a fork of one that has TensorFlow and Keras loaded and not used.

    with ForkServer() as server:
        done = server.run("-m", "tests.exact_child", folder, "arrays_shuffled")

A process has arguments, a folder, an environment and output of its own, ends as any other does, and has no line of
ckptkit loaded. What Python and TensorFlow read in the environment while they are loaded is the server's.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 200_000  # bytes of a request: code and environment


class ForkServer:
    """The server's side for those that want processes; it starts when the first one is wanted."""

    def __init__(self):
        self._server, self._door = None, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._door is not None:
            self._door.close()  # the server ends with its last child
            self._server.wait()

    def run(self, *arguments, cwd=ROOT, env=None):
        """Run ``python *arguments`` to its end, as ``subprocess.run`` with its output captured as text."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = self._ask(arguments, cwd, env, out, err)
            texts = [file.seek(0) or file.read() for file in (out, err)]
        return subprocess.CompletedProcess(arguments, code, *texts)

    def _ask(self, arguments, cwd, env, out, err):
        if self._door is None:
            self._start()
        request = {"arguments": [str(each) for each in arguments], "cwd": str(cwd), "env": {**(env or os.environ)}}
        ours, theirs = socket.socketpair()
        with ours, theirs:
            files = [out.fileno(), err.fileno(), theirs.fileno()]
            socket.send_fds(self._door, [json.dumps(request).encode()], files)
            theirs.close()
            told = ours.recv(100)
        assert told, "the server has died"
        return int(told)

    def _start(self):
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())]
            self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment)


def serve(door):
    """Fork for each request until the door is closed; return the request in the process that is to become it."""
    while True:
        message, files, _, _ = socket.recv_fds(door, LONGEST, 3)
        if not message:
            break
        if os.fork() == 0:
            door.close()
            return kept(json.loads(message), *files)
        for file in files:
            os.close(file)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
    with suppress(ChildProcessError):
        while True:
            os.wait()


def kept(request, out, err, report):
    """Fork once more, and return the request there; here, tell how that process ended."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.close(report)
    for file, place in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(file, place)
        os.close(file)
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request


def become(arguments):
    """Run what ``python *arguments`` runs: a module, a line of code or a file."""
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name="__main__")


def exit_code_of(arguments):
    """Become what was asked for; return the exit code when all that it has started has ended."""
    code = 0
    try:
        become(arguments)
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    import tensorflow  # noqa: F401

    importlib.import_module("tf_keras" if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True") else "keras")

    gc.freeze()  # a collection in a fork need not look at what it shares with the server
    with socket.socket(fileno=int(sys.argv[1])) as door:
        request = serve(door)
    if request is not None:
        os._exit(exit_code_of(request["arguments"]))  # to take TensorFlow down piece by piece takes a second
