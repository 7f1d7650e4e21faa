"""Clusters of real worker processes on loopback.

workers = run_workers(fork_server, 2, folder, {"kill": [1, 9]})
workers[0].result["hash"]
"""

import json
import os
import socket
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

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
        assert line is not None, f"exit code {self.code}\n{self.out}\n{self.err[-6000:]}"
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


def run_workers(fork_server, count, folder, case, *, module="tests.worker_child", patience_secs=1.0):
    """Run so many workers to their end; as a scheduler does, those that are left when one has died are ended as well.

    Args:
        fork_server: What starts them.
        count: How many.
        folder: Where they save.
        case: What the child is to do.
        module: The child.
        patience_secs: How long those that are left may take to end by themselves.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    stop = f"{folder}.{addresses[0].rpartition(':')[2]}.stop"

    def run(index):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env = {**os.environ, "TF_CONFIG": json.dumps(config), "STOP_FILE": stop, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = fork_server.run("-m", module, str(folder), json.dumps(case), env=env)
        return Worker(done.returncode, done.stdout, done.stderr)

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(run, index) for index in range(count)]
        began, left = time.monotonic(), set(running)
        while left:
            done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
            if any(each.result().code for each in done) and left:
                _, left = wait(left, timeout=patience_secs)
                open(stop, "w").close()
            if time.monotonic() - began > LONGEST_SECS:
                open(stop, "w").close()
        return [each.result() for each in running]
