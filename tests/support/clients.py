"""Client commands as processes, without starting Python anew for each.

Starting Python and importing what a command needs takes most of a command's time. One process imports it, and each
command is a fork of that one: a process of its own, with its own environment, streams and exit code. That commands
start from nothing is shown by the tests that run those of the documents in a shell.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
# What client commands import while they run; none of it starts a thread, which a fork would lose.
_NEEDED = (
    *("ask", "audit", "audit_verify", "caller", "client", "collections", "delete", "documents", "ingest", "keys"),
    "on_record",
    *("progress", "rpc_errors", "search", "status", "token"),
)


class Clients:
    """The process that commands are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        timeout: float,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `groundwire` with ``arguments`` and exactly this environment; TimeoutExpired after ``timeout`` seconds."""
        with tempfile.TemporaryDirectory() as folder, self._lock:
            streams = [Path(folder, name) for name in ("in", "out", "err")]
            for path in streams:
                path.write_bytes(b"")
            streams[0].write_bytes(stdin)
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            order = {
                "arguments": arguments,
                "environment": dict(environment),
                "streams": [str(path) for path in streams],
            }
            late = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
            late.start()
            try:
                process.stdin.write(f"{json.dumps(order)}\n")
                process.stdin.flush()
                line = process.stdout.readline()
            finally:
                late.cancel()
            if not line:
                process.wait()
                self._process = None
                raise subprocess.TimeoutExpired(["groundwire", *arguments], timeout)
            out, err = (path.read_bytes() for path in streams[1:])
            return subprocess.CompletedProcess(["groundwire", *arguments], int(line), out, err)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.clients"],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "generated")))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # A command that hangs is killed together with the process that waits for it.
                start_new_session=True,
            )
        return self._process


@cache
def clients() -> Clients:
    """The one of this process."""
    return Clients()


def _serve() -> None:
    for name in _NEEDED:
        import_module(f"cli.{name}")
    import_module("services.runtime.development")
    while line := os.read(0, 1 << 20):
        while not line.endswith(b"\n"):
            line += os.read(0, 1 << 20)
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(order: Mapping[str, Any]) -> None:
    from cli.main import main

    code = 1
    try:
        for descriptor, path in enumerate(order["streams"]):
            os.dup2(os.open(path, os.O_RDWR), descriptor)
        os.environ.clear()
        os.environ.update(order["environment"])
        code = main(order["arguments"])
    except BaseException:  # noqa: BLE001 - as Python shows what nobody catches
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
