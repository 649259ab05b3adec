"""When a service begins to hand events on, its own and those that others left, and when it stops."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from groundwire.audit.v1 import audit_service_pb2 as pb
from services.runtime.auditing import delivery
from services.runtime.auditing.delivery import open_recorder
from services.runtime.auditing.recorder import Recorder
from services.runtime.settings import ConfigurationError
from tests.support.serving import Serving, echo_service, until
from tests.support.spools import leave


class Channel:
    """Leads to an audit service that takes everything."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def unary_unary(self, _method: str) -> Any:
        async def append(request: bytes, **_: Any) -> None:
            self.received += [event.event_id for event in pb.AppendEventsRequest.FromString(request).events]

        return append

    async def close(self) -> None:
        pass


def event(name: str) -> bytes:
    return pb.AuditEvent(event_id=name).SerializeToString()


async def opened(directory: Path, channel: Any) -> Recorder:
    return await open_recorder("echo", directory / "echo", channel, max_bytes=1 << 20, several=True)


async def test_a_service_that_stops_does_not_take_up_its_own_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looks again and again, so also in the moment in which the spool is given back.
    monkeypatch.setattr(delivery, "_LOOKING", 0.0)
    for _ in range(20):
        recorder = await opened(tmp_path, Channel())
        recorder.start()
        await recorder.close()
        assert (tmp_path / "echo").is_dir()


async def test_a_service_without_its_address_hands_nothing_on(serving: Serving, tmp_path: Path) -> None:
    await leave(tmp_path / "echo", event("own"))
    await leave(tmp_path / "echo.2", event("left"))
    channel = Channel()
    open_again = partial(opened, tmp_path, channel)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = echo_service(recorder=await open_again())
        with pytest.raises(ConfigurationError, match="already in use"):
            await serving.serve(service, address=f"127.0.0.1:{taken.getsockname()[1]}")
        await service.end()
    assert channel.received == []
    assert (tmp_path / "echo.2").is_dir()
    await serving.serve(echo_service(recorder=await open_again()))
    await until(lambda: sorted(channel.received) == ["left", "own"] and not (tmp_path / "echo.2").exists())
