"""Load on one method, from a process of its own: its peak, five times as much, and what comes after.

    python -m benchmarks._load '{"address": …, "method": …, "request": HEX, "authorization": …, …}'

First callers in a closed loop find the peak: the most answers a second, over several numbers of callers. Then calls
come in an open loop, whatever becomes of those before, ``factor`` times as many as the peak, and then half as many.
Every second call has a deadline; an answer is good if it comes before that would pass, with one or without. What a
caller is patient for is ``patience`` times what a call takes at the peak, and the overload lasts for at least
``overload_patiences`` of that, so that a machine that is busy with other things is measured against itself.
The result is one JSON object. Messages stay bytes and nothing is kept of an answer, so that the load takes little from
the server that runs beside it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass(frozen=True)
class Plan:
    """What to do; times in seconds but for ``patience``, ``request`` in hexadecimal."""

    address: str
    method: str
    request: str
    authorization: str
    patience: float
    callers: tuple[int, ...]
    peak_seconds: float
    factor: float
    overload_seconds: float
    overload_patiences: float = 4.0
    settle_seconds: float = 5.0
    after_seconds: float = 5.0


@dataclass
class Phase:
    """What became of the calls of one phase; ``began`` and ``ended`` stand on the machine's monotonic clock."""

    began: float
    ended: float = 0.0
    sent: int = 0
    good: int = 0
    late: int = 0
    economised: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    recovered: float = 0.0
    """When, from its beginning, the last call began that was not answered well."""

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.good / (self.ended - self.began)


class Load:
    """Makes the calls of a plan."""

    def __init__(self, plan: Plan, channel: grpc.aio.Channel) -> None:
        self._plan = plan
        self._call: Any = channel.unary_unary(plan.method)
        self._request = bytes.fromhex(plan.request)
        self._metadata = (("authorization", plan.authorization),)
        self._number = 0
        self.patience = 60.0  # until the peak says what is reasonable

    async def closed(self, callers: int, seconds: float) -> Phase:
        """``callers`` who each call again as soon as they are answered."""
        phase = Phase(time.monotonic())
        end = phase.began + seconds

        async def caller() -> None:
            while time.monotonic() < end:
                await self._one(phase)

        await asyncio.gather(*(caller() for _ in range(callers)))
        phase.ended = time.monotonic()
        return phase

    async def open(self, rate: float, seconds: float) -> tuple[Phase, set[asyncio.Task[None]]]:
        """``rate`` calls a second; those that still run in the end go on, and count for the phase when they end."""
        phase, running = Phase(time.monotonic()), set[asyncio.Task[None]]()
        end, made = phase.began + seconds, 0
        while (now := time.monotonic()) < end:
            while made < (now - phase.began) * rate:
                made += 1
                task = asyncio.ensure_future(self._one(phase))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(0.01)
        phase.ended = time.monotonic()
        return phase, running

    async def _one(self, phase: Phase) -> None:
        phase.sent += 1
        self._number += 1
        began, patience = time.monotonic(), self.patience
        timeout = patience if self._number % 2 else None
        try:
            answer = await self._call(self._request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            phase.codes[error.code().name] += 1
            phase.recovered = max(phase.recovered, began - phase.began)
            return
        seconds = time.monotonic() - began
        phase.codes["OK"] += 1
        phase.economised += b"BROWNOUT_" in answer
        phase.worst = max(phase.worst, seconds)
        if b"BROWNOUT_" in answer or seconds > patience:
            phase.recovered = max(phase.recovered, began - phase.began)
        if seconds > patience:
            phase.late += 1
        elif not phase.ended:
            phase.good += 1  # what is answered after the phase must not count as its throughput


async def run(plan: Plan) -> dict[str, Any]:
    """Carry out the plan."""
    async with grpc.aio.insecure_channel(plan.address) as channel:
        load = Load(plan, channel)
        await load.closed(1, 1.0)
        peaks = {callers: await load.closed(callers, plan.peak_seconds) for callers in plan.callers}
        callers = max(peaks, key=lambda each: peaks[each].goodput)
        peak = peaks[callers].goodput
        load.patience = max(1.0, plan.patience * callers / peak)  # Little's law
        seconds = max(plan.overload_seconds, plan.overload_patiences * load.patience)
        overload, rest = await load.open(plan.factor * peak, seconds)
        settling, more = await load.open(0.5 * peak, plan.settle_seconds)
        after, last = await load.open(0.5 * peak, plan.after_seconds)
        await asyncio.gather(*last)
        for task in (*rest, *more):
            task.cancel()
    phases = {"overload": overload, "settling": settling, "after": after}
    return {
        "patience": load.patience,
        "peak": peak,
        "peaks": {number: phase.goodput for number, phase in peaks.items()},
        **{name: {**vars(phase), "goodput": phase.goodput} for name, phase in phases.items()},
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Plan(**json.loads(sys.argv[1]))))))
