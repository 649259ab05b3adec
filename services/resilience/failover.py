"""``execute_with_failover``: an operation on some endpoint of a service, done elsewhere when it fails there.

Everything that repeats a call is here and nowhere else, and is bounded four times: by what is safe to repeat, by the
number of attempts, by a budget over all calls (20 % more than there are calls, at least 3 in ten seconds), and by the
caller's deadline. Retries beyond that only make an outage worse ("Handling Overload", Site Reliability Engineering).
Hedged reads follow Dean and Barroso, "The Tail at Scale" (2013): after the 95th percentile of recent latencies a second
endpoint is asked, the first answer wins, and the loser is cancelled.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from services.resilience.breaker import Permit
from services.resilience.budget import RetryBudget
from services.resilience.endpoints import Clock, Endpoint, Member, MethodClass
from services.resilience.health import HealthCheck
from services.resilience.latency import LatencyWindow
from services.resilience.pool import Pool

_T = TypeVar("_T")
Operation = Callable[[Endpoint], Awaitable[_T]]


class Repeat(Enum):
    """When a failed attempt may be made again."""

    NEVER = "never"
    ELSEWHERE = "elsewhere"
    """Where that is safe, by an endpoint that was not asked yet: this one has tried all that it could itself."""
    SAFE = "safe"
    """Where that is safe."""
    ALWAYS = "always"
    """The attempt certainly did nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error says: whether the endpoint is to blame, and whether, and after how many seconds, to try again.

    ``unreached`` says that no server saw the attempt: making it again costs nobody anything.
    """

    counts: bool
    repeat: Repeat
    pushback: float | None = None
    unreached: bool = False


class Lost(Exception):
    """An attempt was given up because its endpoint was found frozen."""


LOST = Verdict(counts=True, repeat=Repeat.SAFE)


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """How much is done for one call, and for all together; times in seconds.

    ``attempts`` at most, hedges not counted. ``patience`` is how long a call waits for an endpoint to come back when
    none can be reached. ``backoff`` is the first pause before the same endpoint is tried again; it doubles, with
    jitter, up to ``longest_backoff``.
    """

    attempts: int = 4
    patience: float = 5.0
    backoff: float = 0.05
    longest_backoff: float = 1.0
    retry_ratio: float = 0.2
    retry_floor: int = 3
    hedge_quantile: float = 0.95
    hedge_ratio: float = 0.1
    hedge_floor: int = 1
    least_hedge_delay: float = 0.005


@dataclass(slots=True)
class FailoverCounts:
    """How often the layer had to do something, since the start."""

    calls: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    over_budget: int = 0
    abandoned: int = 0


class _Service:
    def __init__(self, pool: Pool, policy: FailoverPolicy, clock: Clock) -> None:
        self.pool = pool
        self.retries = RetryBudget(ratio=policy.retry_ratio, floor=policy.retry_floor, clock=clock)
        self.hedges = RetryBudget(ratio=policy.hedge_ratio, floor=policy.hedge_floor, clock=clock)
        self.latencies: defaultdict[str, LatencyWindow] = defaultdict(lambda: LatencyWindow(clock=clock))
        self.counts = FailoverCounts()
        self.changed = asyncio.Event()
        pool.listeners.append(lambda _: self.changed.set())


class HighAvailability:
    """What one caller does so that its calls succeed. Belongs to one event loop.

    ``judge`` says what an operation's exception means; ``probe`` asks an endpoint how it is and tells its pool.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        judge: Callable[[Exception], Verdict],
        *,
        policy: FailoverPolicy | None = None,
        probe: Callable[[Pool, Member], Awaitable[HealthCheck]] | None = None,
        clock: Clock = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy or FailoverPolicy()
        self._judge = judge
        self._probe = probe
        self._clock = clock
        self._jitter = jitter
        self._services = {pool.service: _Service(pool, self.policy, clock) for pool in pools}

    def pool(self, service: str) -> Pool:
        """The endpoints of ``service``."""
        return self._services[service].pool

    def counts(self, service: str) -> FailoverCounts:
        """What was done for calls to ``service``."""
        return self._services[service].counts

    async def health_check_all_services(self) -> list[HealthCheck]:
        """Ask every endpoint of every service now, all at the same time: one failure neither hides nor delays another."""
        probe = self._probe
        if probe is None:
            raise ValueError("there is nothing to ask endpoints with")
        asked = [(state.pool, member) for state in self._services.values() for member in state.pool.members]
        await asyncio.gather(*(probe(pool, member) for pool, member in asked), return_exceptions=True)
        return [status.health for state in self._services.values() for status in state.pool.statuses()]

    async def execute_with_failover(
        self,
        service: str,
        operation: Operation[_T],
        *,
        method: MethodClass = MethodClass.READ,
        name: str = "",
        remaining: Callable[[], float | None] = lambda: None,
        hedged: bool = True,
    ) -> _T:
        """The result of ``operation`` on an endpoint of ``service``; raises its last exception.

        ``name`` groups operations whose latencies are alike; ``remaining`` gives the seconds until the caller's
        deadline. Reads are hedged where ``hedged`` and where there is somebody else to ask.
        """
        state = self._services[service]
        state.retries.call()
        state.hedges.call()
        state.counts.calls += 1
        pool, began = state.pool, self._clock()
        tried: list[Member] = []
        attempt, pause = 0, self.policy.backoff
        while True:
            attempt += 1
            state.changed.clear()
            # After the last endpoint was tried in vain, calls start over with the best.
            member, permit = self._choose(pool, method, tried)
            delay = self._hedge_delay(state, method, name, member) if hedged else None
            try:
                if delay is None:
                    return await self._attempt(state, member, permit, operation, method, name)
                return await self._race(state, (member, permit), operation, method, name, delay)
            except Exception as error:
                verdict = LOST if isinstance(error, Lost) else self._judge(error)
                if member not in tried:
                    tried.append(member)
                if not self._may_repeat(state, verdict, method, tried, attempt, self._clock() - began):
                    raise
                wait = 0.0
                if not self._somebody_else(pool, method, tried):
                    wait = max(pause * (0.5 + self._jitter() / 2), verdict.pushback or 0.0)
                left = remaining()
                if left is not None and left <= wait:
                    raise
            if wait:
                await self._pause(state, wait, may_end_early=verdict.unreached)
                pause = min(pause * 2, self.policy.longest_backoff)
                tried.clear()

    def _choose(self, pool: Pool, method: MethodClass, tried: Sequence[Member]) -> tuple[Member, Permit | None]:
        ranked = pool.ranked(method, tried)
        if not ranked:
            raise LookupError(f"{pool.service} has no endpoints")
        for member in ranked:
            if not pool.sound(member, method):
                break
            permit = member.breaker(method).acquire()
            if permit is not None:
                return member, permit
        # Nobody looks well: whoever is best is tried all the same, and their breakers are asked for their opinion.
        return ranked[0], ranked[0].breaker(method).acquire()

    def _somebody_else(self, pool: Pool, method: MethodClass, tried: Sequence[Member]) -> bool:
        return any(member not in tried and pool.sound(member, method) for member in pool.members)

    def _may_repeat(
        self,
        state: _Service,
        verdict: Verdict,
        method: MethodClass,
        tried: Sequence[Member],
        attempt: int,
        elapsed: float,
    ) -> bool:
        match verdict.repeat:
            case Repeat.NEVER:
                return False
            case Repeat.ELSEWHERE:
                if method is MethodClass.ONCE or not self._somebody_else(state.pool, method, tried):
                    return False
            case Repeat.SAFE:
                if method is MethodClass.ONCE:
                    return False
            case Repeat.ALWAYS:
                pass
        if verdict.unreached:
            return elapsed < self.policy.patience
        if attempt >= self.policy.attempts:
            return False
        if not state.retries.spend():
            state.counts.over_budget += 1
            return False
        state.counts.retries += 1
        return True

    async def _pause(self, state: _Service, seconds: float, *, may_end_early: bool) -> None:
        if not may_end_early:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await state.changed.wait()
        except TimeoutError:
            return

    async def _attempt(
        self,
        state: _Service,
        member: Member,
        permit: Permit | None,
        operation: Operation[_T],
        method: MethodClass,
        name: str,
    ) -> _T:
        began = self._clock()
        try:
            async with self.use(state.pool, member, repeatable=method is not MethodClass.ONCE):
                result = await operation(member.endpoint)
        except Exception as error:
            verdict = LOST if isinstance(error, Lost) else self._judge(error)
            if isinstance(error, Lost):
                state.counts.abandoned += 1
            if permit is not None:
                permit.fail(self._clock() - began) if verdict.counts else permit.release()
            raise
        except BaseException:
            # Its caller gave up, or another endpoint was faster: that says nothing about this one.
            if permit is not None:
                permit.release()
            raise
        took = self._clock() - began
        if permit is not None:
            permit.succeed(took)
        if method is MethodClass.READ:
            state.latencies[name].record(took)
        return result

    @asynccontextmanager
    async def use(self, pool: Pool, member: Member, *, repeatable: bool) -> AsyncIterator[None]:
        """Count a call on ``member``; where ``repeatable``, raise Lost as soon as the endpoint is found frozen."""
        pool.take_turn(member)
        member.in_flight += 1
        try:
            if not repeatable:
                yield
                return
            async with _abandonable(member):
                yield
        finally:
            member.in_flight -= 1

    def _hedge_delay(self, state: _Service, method: MethodClass, name: str, member: Member) -> float | None:
        if method is not MethodClass.READ or not self._somebody_else(state.pool, method, [member]):
            return None
        usual = state.latencies[name].quantile(self.policy.hedge_quantile)
        return None if usual is None else max(usual, self.policy.least_hedge_delay)

    async def _race(
        self,
        state: _Service,
        first: tuple[Member, Permit | None],
        operation: Operation[_T],
        method: MethodClass,
        name: str,
        delay: float,
    ) -> _T:
        def start(member: Member, permit: Permit | None) -> asyncio.Task[_T]:
            return asyncio.ensure_future(self._attempt(state, member, permit, operation, method, name))

        racing = {original := start(*first)}
        try:
            await asyncio.wait(racing, timeout=delay)
            if not original.done() and (second := self._hedge(state, method, first[0])) is not None:
                racing.add(start(*second))
                state.counts.hedges += 1
            while True:
                done, racing = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
                won = [task for task in done if task.exception() is None]
                if won:
                    state.counts.hedges_won += original not in won
                    return won[0].result()
                if not racing:
                    return (original if original in done else done.pop()).result()
        finally:
            for task in racing:
                task.cancel()
            if racing:
                await asyncio.wait(racing)

    def _hedge(self, state: _Service, method: MethodClass, busy: Member) -> tuple[Member, Permit | None] | None:
        if not self._somebody_else(state.pool, method, [busy]) or not state.hedges.spend():
            return None
        for member in state.pool.ranked(method, [busy]):
            if member is busy or not state.pool.sound(member, method):
                continue
            permit = member.breaker(method).acquire()
            if permit is not None:
                return member, permit
        return None


@asynccontextmanager
async def _abandonable(member: Member) -> AsyncIterator[None]:
    try:
        # Rescheduled into the past it raises at once, without a task for every call.
        async with asyncio.timeout(None) as bound:

            def give_up() -> None:
                bound.reschedule(0)

            member.abandon.add(give_up)
            try:
                yield
            finally:
                member.abandon.discard(give_up)
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise Lost from error
