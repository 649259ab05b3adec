"""Keeps the processes of a mesh running, and ends them from the front to the back.

Children are sessions of their own, so that a terminal's Ctrl-C reaches the supervisor alone, and they end when it
ends, however it ends (``services.runtime.lifecycle.die_with_parent``). The supervisor must run in the main thread:
to the kernel, the thread that started a process is its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from cli.errors import CliError, ExitCode
from cli.interrupts import first_of
from cli.text import seconds

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 15.0
_STEADY = 30.0
_START_TRIES = 4


@dataclass(frozen=True)
class Child:
    """One process: its name, the arguments of its ``groundwire`` command, and the services that it serves."""

    name: str
    arguments: tuple[str, ...]
    services: tuple[str, ...]


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the n-th start in a row: exponential, capped, a little random."""

    first: float = _FIRST_WAIT
    longest: float = _LONGEST_WAIT

    def wait(self, failures: int) -> float:
        """Seconds to wait after ``failures`` ends in a row."""
        # Bounded first: two to the power of a long outage would not be a float.
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.8, 1.0)  # noqa: S311 - spreads starts, guards nothing


@dataclass
class _Running:
    child: Child
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Starts tiers of processes and keeps them running.

    ``tiers`` go from the front of the mesh to its back; they are started from the back, each when those behind it
    are ready, and ended from the front. ``ready`` waits until a child serves. ``say`` tells people what happens.
    ``output`` is where the children's logs go; None: this process's stderr.
    """

    def __init__(
        self,
        tiers: Sequence[Sequence[Child]],
        ready: Callable[[Child], Awaitable[None]],
        *,
        environment: Mapping[str, str],
        patience: float,
        say: Callable[[str], None],
        options: Sequence[str] = (),
        output: IO[bytes] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._tiers = [[_Running(child) for child in tier] for tier in tiers]
        self._ready = ready
        self._environment = dict(environment)
        self._patience = patience
        self._say = say
        self._options = tuple(options)
        self._output = output
        self._backoff = backoff or Backoff()
        self._stopping = asyncio.Event()
        self._given_up: asyncio.Future[None] | None = None

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run now, by the child's name."""
        return {r.child.name: r.process.pid for r in self._all() if r.process and r.process.returncode is None}

    async def start(self) -> None:
        """Start everything and wait until it serves.

        Raises CliError when a child cannot be started; what was started is ended first.
        """
        self._given_up = asyncio.get_running_loop().create_future()
        try:
            for tier in reversed(self._tiers):
                for running in tier:
                    running.task = asyncio.create_task(self._keep(running))
                    running.task.add_done_callback(self._on_kept)
                await self._first_of(asyncio.gather(*(running.ready.wait() for running in tier)))
        except BaseException:
            await self._shielded(self.stop())
            raise

    async def run(self) -> None:
        """Wait until a child cannot be kept running; raises CliError then."""
        if self._given_up is not None:
            await asyncio.shield(self._given_up)

    async def stop(self) -> None:
        """End all processes in order: each tier is asked to drain, and awaited, before the one behind it."""
        self._stopping.set()
        for tier in self._tiers:
            await asyncio.gather(*(self._end(running) for running in tier))

    def kill(self) -> None:
        """End all processes at once, with whatever they have started."""
        self._stopping.set()
        for running in self._all():
            _kill(running.process)

    async def _keep(self, running: _Running) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            began = loop.time()
            running.process = await self._spawn(running.child)
            watch = asyncio.create_task(self._follow_readiness(running))
            try:
                code = await running.process.wait()
            finally:
                watch.cancel()
            if self._stopping.is_set():
                return
            failures = 1 if loop.time() - began > _STEADY else failures + 1
            first_start = not running.ready.is_set()
            # A child that refuses its settings will do so again; once it has served, only if it insists.
            hopeless = code == ExitCode.USAGE and (first_start or failures >= _START_TRIES)
            if hopeless or (first_start and failures >= _START_TRIES):
                self._give_up(running.child, code)
                return
            wait = self._backoff.wait(failures)
            self._say(f"{running.child.name} {_describe(code)}; starting it again in {seconds(wait)}")
            await asyncio.sleep(wait)

    def _on_kept(self, task: asyncio.Task[None]) -> None:
        # Such as a system that cannot start processes any more.
        if not task.cancelled() and (error := task.exception()) and self._given_up and not self._given_up.done():
            self._given_up.set_exception(CliError(f"a process could not be started: {error}"))

    async def _follow_readiness(self, running: _Running) -> None:
        again = running.ready.is_set()
        await self._ready(running.child)
        running.ready.set()
        if again:
            self._say(f"{running.child.name} is ready again")

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        # -P: a folder named `cli` or `services` where the user stands must not be taken for ours.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "cli.main",
            *self._options,
            *child.arguments,
            "--supervised",
            str(os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=self._output if self._output is not None else sys.__stderr__,
            stderr=self._output if self._output is not None else sys.__stderr__,
            start_new_session=True,
            env=self._environment,
        )

    def _give_up(self, child: Child, code: int) -> None:
        if self._given_up is not None and not self._given_up.done():
            # A child that ends itself has said why on stderr: its line is not said again.
            told = code in (ExitCode.USAGE, ExitCode.FAILED, ExitCode.UNAVAILABLE)
            message = "" if told and self._output is None else f"{child.name} did not start: it {_describe(code)}"
            self._given_up.set_exception(CliError(message))

    async def _first_of(self, work: asyncio.Future[list[bool]]) -> None:
        given_up = self._given_up
        if given_up is None:
            raise RuntimeError("the supervisor has not been started")
        try:
            await first_of(work, given_up)
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        if given_up.done():
            given_up.result()

    async def _end(self, running: _Running) -> None:
        process, task = running.process, running.task
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._patience):
                    await process.wait()
            except TimeoutError:
                self._say(f"{running.child.name} did not end within {seconds(self._patience)}: killing it")
                _kill(process)
                await process.wait()
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # A start that was under way when we began may have made a process after all.
        if running.process is not process:
            await self._end(running)

    @staticmethod
    async def _shielded(ending: Awaitable[None]) -> None:
        task = asyncio.ensure_future(ending)
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(task)

    def _all(self) -> list[_Running]:
        return [running for tier in self._tiers for running in tier]


def _kill(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        # The child leads a session of its own: its process group is whatever it has started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended unexpectedly with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
