"""`groundwire status --watch`, and what it says of services that freeze and of language models that fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.generation_server import ChatServer, Reply, chat_server, quoting
from tests.support.processes import GROUNDWIRE, Mesh, Running, mesh_up, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
QUESTION = "What is the hotel limit per night in Tier A cities?"


@contextmanager
def llm() -> Iterator[ChatServer]:
    """A language model that answers, until its ``reply`` is replaced."""
    loop = asyncio.new_event_loop()
    started: list[ChatServer] = []
    stop = asyncio.Event()

    async def serve() -> None:
        async with chat_server(quoting) as server:
            started.append(server)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
    thread.start()
    until(lambda: started, "language model")
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def failing(_body: dict[str, Any]) -> Reply:
    return Reply(status=503)


def service_process(mesh: Mesh, name: str) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process(mesh.processes["up"].process.pid).children()
        if child.cmdline()[-4:-2] == ["serve", name]
    ]
    return found


class Events:
    """What a watch in JSON has said so far."""

    def __init__(self, watch: Running) -> None:
        self.watch = watch

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.watch.lines)]

    def next(self, start: int, **wanted: Any) -> tuple[int, dict[str, Any]]:
        """The first event from number ``start`` on that is as ``wanted``, and the number behind it."""

        def look() -> tuple[int, dict[str, Any]] | None:
            for number, event in enumerate(self.all()[start:], start):
                if wanted.items() <= event.items():
                    return number + 1, event
            return None

        found: tuple[int, dict[str, Any]] = until(look, f"event {wanted}", self.watch)
        return found


@pytest.mark.long
def test_a_watch_follows_services_that_freeze_and_models_that_fail(tmp_path: Path, corpus_subset: Path) -> None:
    with llm() as model:
        settings = tmp_path / "groundwire.toml"
        settings.write_text(
            f'[[generation.llm_endpoints]]\nname = "llm"\nurl = "{model.base_url}"\nmodel = "m"\n'
            '[[generation.llm_endpoints]]\nname = "extractive"\nurl = "extractive:"\n'
        )
        environment = {"GROUNDWIRE_CONFIG": str(settings)}
        with mesh_up(tmp_path / "data", "--processes", environment=environment) as mesh:
            mesh.groundwire("ingest", str(corpus_subset / "policies"), "--readers", "tenant:*")
            command = (*GROUNDWIRE, "status", "--watch", "--output", "json", "--timeout", "30")
            with running(*command, environment={**os.environ, **mesh.environment}) as watch:
                events = Events(watch)
                events.next(0, kind="service", name="retrieval", after="healthy")
                _freeze(mesh, events, "retrieval", "query")
                _fail(mesh, events, model)
                watch.signal(signal.SIGINT)
                assert watch.wait() == 130
                events.all()  # nothing but JSON, to the last line


def _freeze(mesh: Mesh, events: Events, name: str, caller: str) -> None:
    frozen = service_process(mesh, name)
    start = len(events.all())
    frozen.suspend()
    try:
        place, event = events.next(start, kind="service", name=name, before="healthy")
        assert (event["what"], event["after"]) == ("state", "unhealthy")
        assert event["detail"] == "it does not answer in time"
        degraded = {"kind": "service", "name": caller, "after": "degraded"}
        events.next(start, **degraded)
    finally:
        frozen.resume()
    events.next(place, kind="service", name=name, before="unhealthy", after="healthy")
    events.next(place, kind="service", name=caller, before="degraded", after="healthy")


def _fail(mesh: Mesh, events: Events, model: ChatServer) -> None:
    start = len(events.all())
    assert mesh.ask(QUESTION)["endpoint"] == "llm"
    model.reply = failing
    answers = [mesh.ask(QUESTION) for _ in range(4)]
    assert {answer["endpoint"] for answer in answers} == {"extractive"}
    assert all("€210" in answer["answer"] for answer in answers)
    _, event = events.next(start, kind="llm", name="llm", what="breaker", after="open")
    assert event["before"] == "closed"
    shown = json.loads(mesh.groundwire("status", "--output", "json", check=False).stdout)
    by_name = {endpoint["name"]: endpoint for endpoint in shown["endpoints"]}
    assert (by_name["llm"]["breaker"], by_name["llm"]["healthy"]) == ("open", False)
    assert by_name["llm"]["error_message"] == "the endpoint failed with HTTP status 503"
    assert by_name["extractive"]["serving"]
    assert [store["breaker"] for store in shown["stores"]] == ["closed"]
    model.reply = quoting
    until(lambda: mesh.ask(QUESTION)["endpoint"] == "llm", "answer of the language model")
    events.next(start, kind="llm", name="llm", what="breaker", after="closed")
