"""What monitoring may rely on of a Probe, over the standard health protocol and in memory alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.corpus.errors import Unavailable
from services.monitoring.adapters import grpc_probe
from services.monitoring.adapters.grpc_probe import GrpcProbe
from services.monitoring.adapters.memory import ScriptedProbe
from services.monitoring.ports import Probe
from services.resilience.health import HealthBoard, ServingStatus
from services.runtime.health import HealthServicer

Answers = Mapping[str, bool] | None
Probes = Callable[[Answers, Path], AbstractAsyncContextManager[Probe]]


@asynccontextmanager
async def over_grpc(answers: Answers, directory: Path) -> AsyncIterator[Probe]:
    """A probe of a real server whose board says ``answers``; of nothing at all for None."""
    address = f"unix:{directory}/s"
    server = grpc.aio.server()
    if answers is not None:
        board = HealthBoard(tuple(answers))
        for name, serving in answers.items():
            board.set(name, ServingStatus.SERVING if serving else ServingStatus.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(board), server)
        server.add_insecure_port(address)
        await server.start()
    probe = GrpcProbe(grpc.aio.insecure_channel(address), address)
    try:
        yield probe
    finally:
        await probe.close()
        await server.stop(None)


@asynccontextmanager
async def in_memory(answers: Answers, directory: Path) -> AsyncIterator[Probe]:
    yield ScriptedProbe(f"unix:{directory}/s", answers)


@pytest.fixture(params=[over_grpc, in_memory], ids=["grpc", "memory"])
def probes(request: pytest.FixtureRequest) -> Probes:
    made: Probes = request.param
    return made


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("ready", [True, False])
async def test_what_a_peer_says(probes: Probes, tmp_path: Path, alive: bool, ready: bool) -> None:
    async with probes({"": alive, "readiness": ready}, tmp_path) as probe:
        assert await probe.check("") is alive
        assert await probe.check("readiness") is ready
        assert probe.address == f"unix:{tmp_path}/s"


async def test_a_peer_that_does_not_answer(probes: Probes, tmp_path: Path) -> None:
    async with probes(None, tmp_path) as probe:
        with pytest.raises(Unavailable, match="does not answer"):
            await probe.check("")


async def test_a_frozen_peer_does_not_hold_up_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # published without types
        async def Check(self, _request: Any, _context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802 - the protocol's name
            await asyncio.Event().wait()

    monkeypatch.setattr(grpc_probe, "_TIMEOUT", 0.05)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Frozen(), server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    probe = GrpcProbe(grpc.aio.insecure_channel(f"unix:{tmp_path}/s"), "there")
    with pytest.raises(Unavailable):
        await probe.check("")
    await probe.close()
    await server.stop(None)


async def test_a_peer_that_comes_back_is_seen(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    channel = grpc.aio.insecure_channel(address, options=[("grpc.initial_reconnect_backoff_ms", 100)])
    probe = GrpcProbe(channel, address)
    with pytest.raises(Unavailable):
        await probe.check("")
    async with over_grpc({"": True}, tmp_path):
        await channel.channel_ready()
        assert await probe.check("")
    await probe.close()
