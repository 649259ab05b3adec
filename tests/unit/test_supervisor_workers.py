"""Keeping several processes of one service running: restarts, replacements, and when to give up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cli.errors import CliError, ExitCode, usage
from cli.options import Globals
from cli.report import Report
from cli.supervisor import Backoff, Child, Supervisor
from cli.workers import count_workers, workers_of
from tests.support.serving import until

# What a worker does, without a service: it says through the pipe how it is, and obeys SIGTERM and SIGHUP.
SERVES = """
import os, signal, sys
fd, log = int(sys.argv[1]), sys.argv[2]
def end(number, _):
    with open(log, "a") as file: file.write(f"{signal.Signals(number).name} {os.getpid()}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGHUP, end)
os.write(fd, b"SR")
while True: signal.pause()
"""
FAILS = "import sys; sys.exit(3)"
REFUSES = "import sys; sys.exit(2)"
NEVER_READY = SERVES.replace('b"SR"', 'b"S"')


class Scripted(Supervisor):
    """Runs scripts in place of services: ``script(number, start)`` is that of a worker's n-th start."""

    script: Callable[[int, int], str]
    log: Path
    starts: dict[int, int]

    def _command(self, child: Child, *report: int) -> Sequence[str]:
        number = child.worker or 0
        self.starts[number] = self.starts.get(number, 0) + 1
        return (
            sys.executable,
            "-S",
            "-E",
            "-c",
            self.script(number, self.starts[number]),
            str(report[0]),
            str(self.log),
        )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@asynccontextmanager
async def supervised(
    log: Path, script: Callable[[int, int], str], count: int = 2
) -> AsyncIterator[tuple[Scripted, list[str]]]:
    said: list[str] = []

    async def nobody(_: Child) -> None:
        raise AssertionError("workers tell by themselves")

    children = [Child(f"echo worker {n}", (), ("echo",), n) for n in range(1, count + 1)]
    running = Scripted(
        [children], nobody, environment=os.environ, patience=30, say=said.append, backoff=Backoff(0.001, 0.01)
    )
    running.script, running.log, running.starts = staticmethod(script), log, {}
    try:
        yield running, said
    finally:
        await running.stop()


async def test_workers_are_ready_when_they_say_so_and_end_on_a_signal(log: Path) -> None:
    async with supervised(log, lambda _n, _start: SERVES) as (running, _):
        await running.start()
        await until(lambda: len(running.pids) == 2)
        await asyncio.gather(*(worker.up.wait() for worker in running._all()))
        pids = [worker.process.pid for worker in running._all() if worker.process]
    assert sorted(log.read_text().split()) == sorted(["SIGTERM"] * 2 + [str(pid) for pid in pids])


async def test_a_dead_worker_is_started_again(log: Path) -> None:
    async with supervised(log, lambda _n, _start: SERVES) as (running, said):
        await running.start()
        first = running._all()[0]
        await first.up.wait()
        assert first.process
        dead = first.process.pid
        os.kill(dead, signal.SIGKILL)
        await until(lambda: any("is ready again" in line for line in said))
        assert first.process.pid != dead
        assert said[0].startswith("echo worker 1 was ended by SIGKILL; starting it again in ")


@pytest.mark.parametrize("script", [FAILS, REFUSES])
async def test_one_that_never_starts_is_tried_for_as_long_as_another_may_serve(log: Path, script: str) -> None:
    async with supervised(log, lambda n, _start: SERVES if n == 1 else script) as (running, said):
        await running.start()
        ended = asyncio.ensure_future(running.run())
        await until(lambda: running.starts[2] > 10)
        assert not ended.done()
        assert len([line for line in said if line.startswith("echo worker 2 ended")]) >= 10
        ended.cancel()


@pytest.mark.parametrize(("script", "code", "tries"), [(FAILS, ExitCode.UNAVAILABLE, 4), (REFUSES, ExitCode.USAGE, 1)])
async def test_when_none_starts_the_reason_is_their_exit_code(
    log: Path, script: str, code: ExitCode, tries: int
) -> None:
    async with supervised(log, lambda _n, _start: script) as (running, _):
        with pytest.raises(CliError) as ended:
            await running.start()
        assert ended.value.code is code
        assert min(running.starts.values()) == tries


async def test_each_worker_is_replaced_by_one_that_is_ready(log: Path) -> None:
    async with supervised(log, lambda _n, _start: SERVES, 3) as (running, said):
        await running.start()
        await asyncio.gather(*(worker.up.wait() for worker in running._all()))
        before = [worker.process.pid for worker in running._all() if worker.process]
        assert await running.replace(within=60, patience=60)
        after = [worker.process.pid for worker in running._all() if worker.process and worker.up.is_set()]
        assert len(after) == 3
        assert not set(before) & set(after)
        # One after another, and told to leave rather than to end.
        assert log.read_text().split("\n")[:-1] == [f"SIGHUP {pid}" for pid in before]
        assert said == [f"echo worker {number} was replaced" for number in (1, 2, 3)]


@pytest.mark.parametrize("script", [NEVER_READY, FAILS, REFUSES])
async def test_an_old_worker_goes_on_when_there_is_no_new_one(log: Path, script: str) -> None:
    async with supervised(log, lambda _n, start: SERVES if start == 1 else script) as (running, said):
        await running.start()
        await asyncio.gather(*(worker.up.wait() for worker in running._all()))
        before = [worker.process for worker in running._all()]
        ended = asyncio.ensure_future(running.run())
        assert not await running.replace(within=0.3, patience=60)
        assert [worker.process for worker in running._all()] == before
        assert not ended.done()
        assert said[-1] == "a new echo worker 1 was not ready within 0.3 s: the old one goes on"
        ended.cancel()


async def test_a_stop_in_the_middle_of_a_replacement_leaves_nothing(log: Path) -> None:
    async with supervised(log, lambda _n, start: SERVES if start == 1 else NEVER_READY) as (running, _):
        await running.start()
        replacing = asyncio.ensure_future(running.replace(within=60, patience=60))
        await until(lambda: len(running.pids) and len(running._all()) == 3 and running._all()[2].process is not None)
        processes = [worker.process for worker in running._all()]
        replacing.cancel()
        with suppress(asyncio.CancelledError):
            await replacing
        await running.stop()
        assert all(process is not None and process.returncode is not None for process in processes)


async def test_a_report_is_what_was_said_last() -> None:
    served: list[bool] = []
    report = Report(lambda: served.append(True))
    other = os.dup(report.descriptor)
    report.begin()
    os.write(other, b"SR")
    await report.ready.wait()
    assert (served, report.serving) == ([True], True)
    os.write(other, b"NRN")
    await until(lambda: not report.ready.is_set())
    assert report.serving
    os.close(other)  # as its process ends
    await until(lambda: not report.serving)
    report.close()


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_unix_socket_cannot_be_shared() -> None:
    with pytest.raises(CliError, match=r"query\.workers: 2 processes cannot share a unix socket"):
        workers_of("query", 2, "unix:/run/query.sock")


@pytest.mark.parametrize("address", ["127.0.0.1", "here", ":x", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(CliError, match="is not HOST:PORT") as refused:
        workers_of("query", 2, address)
    assert refused.value.code is usage("x").code


def test_workers_listen_on_the_port_that_is_held() -> None:
    children, held = workers_of("query", 3, "127.0.0.1:0", "--insecure")
    try:
        listen = ("--listen", f"127.0.0.1:{held.port}")
        assert {child.arguments for child in children} == {("serve", "query", *listen, "--insecure")}
        assert [(child.name, child.worker) for child in children] == [(f"query worker {n}", n) for n in (1, 2, 3)]
        with pytest.raises(CliError, match="in use"):
            workers_of("query", 2, f"127.0.0.1:{held.port}")
    finally:
        held.close()


@pytest.mark.parametrize("service", ["query", "retrieval", "generation"])
def test_services_without_files_of_their_own_may_have_workers(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_workers(Globals(), service)[0] == 1
    monkeypatch.setenv(f"GROUNDWIRE_{service.upper()}__WORKERS", "3")
    assert count_workers(Globals(), service)[0] == 3


@pytest.mark.parametrize("service", ["ingestion", "audit", "monitoring", "store", "witness"])
def test_the_others_may_not(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_workers(Globals(), service)[0] == 1
    monkeypatch.setenv(f"GROUNDWIRE_{service.upper()}__WORKERS", "3")
    try:
        assert count_workers(Globals(), service)[0] == 1
    except CliError as error:
        assert error.code is ExitCode.USAGE  # noqa: PT017 - a service without settings ignores the variable
