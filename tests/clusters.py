"""Clusters of real worker processes on loopback.

done = run_workers(2, "-m", "tests.worker_child", folder, "{}")
done[0].result["hash"]
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SECS = 120


@dataclass
class Worker:
    """What came of one of them."""

    code: int
    out: str
    err: str

    @property
    def result(self):
        """What it has printed at its end."""
        line = next((line for line in self.out.splitlines() if line.startswith("RESULT ")), None)
        assert line is not None, f"rc {self.code}\n{self.out}\n{self.err[-6000:]}"
        return json.loads(line.removeprefix("RESULT "))


def free_ports(count):
    """Return ports of loopback that nobody listens to."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def start_workers(count, *arguments, env=None):
    """Start so many workers; return their processes, each with the files of its output."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    started = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {
            **os.environ,
            **(env or {}),
            "TF_CONFIG": json.dumps(config),
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        out, err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        command = [sys.executable, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env=environment)
        started.append((process, out, err))
    return started


def ended(started):
    """Wait for workers, and kill those that are left when one has been killed and some time has gone by."""
    began, died_at = time.monotonic(), None
    while any(process.poll() is None for process, *_ in started):
        if died_at is None and any(process.poll() not in (None, 0) for process, *_ in started):
            died_at = time.monotonic()
        now = time.monotonic()
        if now - began > LONGEST_SECS or (died_at is not None and now - died_at > LONGEST_SECS / 4):
            for process, *_ in started:
                process.kill()
        time.sleep(0.05)
    workers = []
    for process, *files in started:
        texts = [file.seek(0) or file.read() for file in files]
        for file in files:
            file.close()
        workers.append(Worker(process.returncode, *texts))
    return workers


def run_workers(count, *arguments, env=None):
    """Run so many workers to their end."""
    return ended(start_workers(count, *arguments, env=env))
