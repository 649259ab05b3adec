"""A process's life: signals, and the order in which its servers stop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from services.runtime import lifecycle
from services.runtime.lifecycle import serve_until_stopped
from services.runtime.options import DrainOptions
from services.runtime.server import Server
from services.runtime.settings import Settings
from tests.support.serving import Serving, echo_service, until


async def start(serving: Serving, name: str, order: list[str], directory: Path) -> Server:
    async def close() -> None:
        order.append(f"{name} closing")
        for _ in range(5):
            await asyncio.sleep(0)
        order.append(f"{name} closed")

    settings = Settings(data_dir=directory, drain=DrainOptions(delay=0, grace=1))
    return await serving.serve(echo_service(name=name, close=close), settings=settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_tiers_stop_one_after_another_front_first(serving: Serving, tmp_path: Path, number: int) -> None:
    order: list[str] = []
    front, back = [[await start(serving, f"{tier}{i}", order, tmp_path) for i in (1, 2)] for tier in ("front", "back")]
    running = asyncio.create_task(serve_until_stopped([front, back]))
    await signal_when_ready(number)
    await running
    assert {name.partition(" ")[0] for name in order[:4]} == {"front1", "front2"}
    assert {name.partition(" ")[0] for name in order[4:]} == {"back1", "back2"}
    assert len(order) == 8


async def test_a_signal_sent_twice_at_once_is_one(serving: Serving, tmp_path: Path) -> None:
    order: list[str] = []
    server = await start(serving, "x", order, tmp_path)
    running = asyncio.create_task(serve_until_stopped([[server]]))
    await signal_when_ready(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert order == ["x closing", "x closed"]


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_SAME_SIGNAL_SECONDS", -1.0)
    stuck: list[str] = []

    async def main() -> None:
        serving = Serving(tmp_path)

        async def close() -> None:
            stuck.append("closing")
            await asyncio.Event().wait()

        settings = Settings(data_dir=tmp_path, drain=DrainOptions(delay=0, grace=0))
        server = await serving.serve(echo_service(close=close), settings=settings)
        running = asyncio.create_task(serve_until_stopped([[server]]))
        await signal_when_ready(signal.SIGTERM)
        await until(lambda: stuck)
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    with pytest.raises(SystemExit) as ended:
        asyncio.run(main())
    assert ended.value.code == 128 + signal.SIGTERM


async def signal_when_ready(number: int) -> None:
    # A signal that came before the handlers stand would end the tests themselves.
    loop = asyncio.get_running_loop()
    await until(lambda: len(getattr(loop, "_signal_handlers", ())) == 2)
    os.kill(os.getpid(), number)
