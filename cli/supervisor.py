"""Keeps the processes of a mesh, or of one service, running, and ends them from the front to the back.

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
from typing import IO, Protocol

from cli.errors import CliError, ExitCode
from cli.interrupts import first_of
from cli.report import Report
from cli.text import seconds

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 15.0
_STEADY = 30.0
_START_TRIES = 4


@dataclass(frozen=True)
class Child:
    """One process: its name, the arguments of its ``groundwire`` command, and the services that it serves.

    ``worker`` is its number, from 1 on, among those that serve the same at the same address; None if it is alone.
    """

    name: str
    arguments: tuple[str, ...]
    services: tuple[str, ...]
    worker: int | None = None


class Held(Protocol):
    """Something that the processes need for as long as any of them may run."""

    def close(self) -> None:
        """Give it back."""


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
class _Group:
    """What is true, once and for all, of those that serve the same: one has served, one has been ready."""

    serves: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Running:
    child: Child
    group: _Group
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    report: Report | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)  # its present process is ready
    was_up: bool = False
    hopeless: bool = False
    ending: bool = False


class Supervisor:
    """Starts tiers of processes and keeps them running.

    ``tiers`` go from the front of the mesh to its back; they are started from the back, each when those behind it
    are ready, and ended from the front. ``ready`` waits until a child serves; workers tell by themselves, and one that
    is ready is enough. ``say`` tells people what happens. ``output`` is where the children's logs go; None: this
    process's stderr. ``held`` is closed when all have ended. Every child inherits the descriptors ``lent``.
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
        held: Sequence[Held] = (),
        lent: Sequence[int] = (),
    ) -> None:
        groups: dict[tuple[str, ...], _Group] = {child.services: _Group() for tier in tiers for child in tier}
        self._tiers = [[_Running(child, groups[child.services]) for child in tier] for tier in tiers]
        self._groups = list(groups.values())
        self._ready = ready
        self._environment = dict(environment)
        self._patience = patience
        self._say = say
        self._options = tuple(options)
        self._output = output
        self._backoff = backoff or Backoff()
        self._held = held
        self._lent = tuple(lent)
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
                    self._begin(running)
                await self._first_of(asyncio.gather(*(running.group.ready.wait() for running in tier)))
        except BaseException:
            await self._shielded(self.stop())
            raise

    async def serves(self) -> None:
        """Wait until a worker of each service has begun to serve, whether it is ready or not."""
        for group in self._groups:
            await group.serves.wait()

    async def run(self) -> None:
        """Wait until a child cannot be kept running; raises CliError then."""
        if self._given_up is not None:
            await asyncio.shield(self._given_up)

    async def stop(self) -> None:
        """End all processes in order: each tier is asked to drain, and awaited, before the one behind it."""
        self._stopping.set()
        for tier in self._tiers:
            await asyncio.gather(*(self._end(running) for running in tier))
        for held in self._held:
            held.close()

    async def replace(self, *, within: float, patience: float) -> bool:
        """Put a new process in the place of each worker, one after another; False when one could not be replaced.

        The new one has ``within`` seconds to become ready; only then is the old one told, with SIGHUP, to leave, for
        which it has ``patience`` seconds. So there are never fewer that are ready than there were.
        """
        for tier in self._tiers:
            for old in [running for running in tier if running.child.worker is not None]:
                new = _Running(old.child, old.group)
                tier.append(new)
                self._begin(new)
                try:
                    async with asyncio.timeout(within):
                        await new.up.wait()
                except TimeoutError:
                    self._say(f"a new {old.child.name} was not ready within {seconds(within)}: the old one goes on")
                    await self._end(new)
                    tier.remove(new)
                    return False
                await self._end(old, signal.SIGHUP, patience)
                tier.remove(old)
                self._say(f"{old.child.name} was replaced")
        return True

    def kill(self) -> None:
        """End all processes at once, with whatever they have started."""
        self._stopping.set()
        for running in self._all():
            _kill(running.process)

    def _begin(self, running: _Running) -> None:
        running.task = asyncio.create_task(self._keep(running))
        running.task.add_done_callback(self._on_kept)

    async def _keep(self, running: _Running) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not (self._stopping.is_set() or running.ending):
            began = loop.time()
            await self._spawn(running)
            watch = asyncio.create_task(self._follow_readiness(running))
            try:
                code = await running.process.wait() if running.process else 0
            finally:
                watch.cancel()
                # A start that takes long and fails is no success.
                steady = running.up.is_set() and loop.time() - began > _STEADY
                running.up.clear()
                if running.report is not None:
                    running.report.close()
            if self._stopping.is_set() or running.ending:
                return
            failures = 1 if steady else failures + 1
            first_start = not running.group.ready.is_set()
            # A child that refuses its settings will do so again; once it has served, only if it insists.
            insists = failures >= _START_TRIES
            running.hopeless = (first_start and insists) or (code == ExitCode.USAGE and (first_start or insists))
            # One worker's trouble is no reason to end the others, which serve or may yet.
            if all(each.hopeless for each in self._all() if each.group is running.group):
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
        if running.report is not None:
            await running.report.ready.wait()
        else:
            await self._ready(running.child)
        again, running.was_up = running.was_up, True
        running.hopeless = False
        running.up.set()
        running.group.ready.set()
        if again:
            self._say(f"{running.child.name} is ready again")

    async def _spawn(self, running: _Running) -> None:
        child = running.child
        report: tuple[int, ...] = ()
        if child.worker is not None:
            running.report = Report(running.group.serves.set)
            report = (running.report.descriptor,)
        try:
            running.process = await asyncio.create_subprocess_exec(
                *self._command(child, *report),
                stdin=subprocess.DEVNULL,
                stdout=self._output if self._output is not None else sys.__stderr__,
                stderr=self._output if self._output is not None else sys.__stderr__,
                start_new_session=True,
                env=self._environment,
                pass_fds=(*report, *self._lent),
            )
        finally:
            if running.report is not None:
                running.report.begin()

    def _command(self, child: Child, *report: int) -> Sequence[str]:
        worker = ("--worker", str(child.worker), "--report", str(report[0])) if report else ()
        # -P: a folder named `cli` or `services` where the user stands must not be taken for ours.
        command = (sys.executable, "-P", "-m", "cli.main", *self._options, *child.arguments)
        return (*command, *worker, "--supervised", str(os.getpid()))

    def _give_up(self, child: Child, code: int) -> None:
        if self._given_up is not None and not self._given_up.done():
            # A child that ends itself has said why on stderr: its line is not said again.
            told = code in (ExitCode.USAGE, ExitCode.FAILED, ExitCode.UNAVAILABLE)
            message = "" if told and self._output is None else f"{child.name} did not start: it {_describe(code)}"
            # Whoever asked for one service learns from the exit code what its own process would have told.
            alike = child.worker is not None and told
            self._given_up.set_exception(CliError(message, code=ExitCode(code) if alike else ExitCode.FAILED))

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

    async def _end(
        self, running: _Running, number: signal.Signals = signal.SIGTERM, patience: float | None = None
    ) -> None:
        running.ending = True
        process, task = running.process, running.task
        patience = self._patience if patience is None else patience
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                async with asyncio.timeout(patience):
                    await process.wait()
            except TimeoutError:
                self._say(f"{running.child.name} did not end within {seconds(patience)}: killing it")
                _kill(process)
                await process.wait()
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # A start that was under way when we began may have made a process after all.
        if running.process is not process:
            await self._end(running, number, patience)

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
