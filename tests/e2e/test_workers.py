"""Several processes of one service on one port: they share its connections, and are replaced without a failed call."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

import grpc
import psutil
import pytest

from groundwire.generation.v1 import generation_service_pb2 as pb
from groundwire.generation.v1 import generation_service_pb2_grpc as rpc
from services.audit.event import Stage
from services.runtime.development import mint
from services.runtime.settings import Settings
from tests.support.audit_reader import events_of
from tests.support.generation_server import ChatServer, Reply, chat_server, completion
from tests.support.processes import GROUNDWIRE, PATIENCE, Running, free_ports, health, mesh_up, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REQUEST = pb.GenerateRequest(
    query="How many parking spaces does the garage have?",
    passages=[pb.Passage(passage_id="a", title="Parking", text="The garage has 38 parking spaces.", score=0.9)],
)
CHANNELS = 40
_numbers = count()
# What any client may have in its service config: a call that certainly was not answered is sent once more.
RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


@dataclass
class Workers:
    """A generation service in several processes."""

    supervisor: Running
    address: str
    data: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def pids(self) -> dict[int, int]:
        """The workers that serve and are ready, by pid, with their numbers; from their supervisor's children."""
        found = {}
        for child in psutil.Process(self.supervisor.process.pid).children():
            with suppress(psutil.Error):
                words = child.cmdline()
                if "--worker" in words:
                    found[child.pid] = int(words[words.index("--worker") + 1])
                    self.seen[child.pid] = child
        return found

    def logged(self, event: str) -> list[dict[str, object]]:
        """The log lines of all processes with this event."""
        lines = [json.loads(line) for line in self.supervisor.lines if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def connections(self, pid: int) -> int:
        """How many connections a worker has."""
        port = int(self.address.rpartition(":")[2])
        found = psutil.Process(pid).net_connections("tcp")
        return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found)

    def wait_ready(self, times: int) -> None:
        """Wait until workers have become ready so often."""
        until(lambda: len(self.logged("ready")) >= times, f"{times} ready workers", self.supervisor)

    def authorization(self) -> tuple[str, str]:
        """Metadata with a token."""
        return ("authorization", f"Bearer {mint(Settings(data_dir=self.data))}")

    def assert_nothing_left(self) -> None:
        """No process and no listener of ours."""
        assert psutil.wait_procs(list(self.seen.values()), timeout=PATIENCE)[1] == []
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2]))) != 0


def environment_of(data: Path, address: str, audit: str, workers: int, age: float) -> dict[str, str]:
    return {
        "GROUNDWIRE_DATA_DIR": str(data),
        "GROUNDWIRE_LOG__FORMAT": "json",
        "GROUNDWIRE_ADDRESSES__GENERATION": address,
        "GROUNDWIRE_ADDRESSES__AUDIT": audit,
        "GROUNDWIRE_GENERATION__WORKERS": str(workers),
        # The test calls it without the services in front.
        "GROUNDWIRE_GENERATION__CALLERS_MAY_BRING_PASSAGES": "true",
        "GROUNDWIRE_WORKERS__CONNECTION_AGE": str(age),
    }


@contextmanager
def served(
    data: Path, *, workers: int = 2, age: float = 30.0, audit: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[Workers]:
    """`groundwire serve generation` with workers, all ready."""
    ports = free_ports(2)
    address, audit = f"127.0.0.1:{ports[0]}", audit or f"127.0.0.1:{ports[1]}"
    variables = environment_of(data, address, audit, workers, age) | dict(environment or {})
    with running(*GROUNDWIRE, "serve", "generation", environment=variables) as supervisor:
        found = Workers(supervisor, address, data)
        found.wait_ready(workers)
        found.pids()
        yield found


class Load:
    """Clients with a channel each that call again and again, and what became of their calls."""

    def __init__(self, workers: Workers, channels: int = CHANNELS, *, config: str = "{}") -> None:
        self._workers = workers
        self._number = channels
        self._config = config
        self._stack = AsyncExitStack()
        self._calling: list[asyncio.Task[None]] = []
        self._stopping = False
        self.channels: list[grpc.aio.Channel] = []
        self.answered: list[str] = []
        self.failed: list[str] = []

    async def __aenter__(self) -> Self:
        self._metadata = self._workers.authorization()
        for _ in range(self._number):
            self.channels.append(await self._stack.enter_async_context(channel(self._workers.address, self._config)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._stack.aclose()

    async def call(self, through: grpc.aio.Channel) -> bool:
        """One call; what became of it is noted by its request id."""
        request_id = f"call-{next(_numbers)}"
        metadata = (self._metadata, ("x-request-id", request_id))
        try:
            await rpc.GenerationServiceStub(through).Generate(REQUEST, timeout=60, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code().name} {error.details()}")
            return False
        self.answered.append(request_id)
        return True

    def start(self) -> None:
        """Call on every channel until :meth:`stop`."""
        self._calling = [asyncio.create_task(self._go_on(each)) for each in self.channels]

    async def stop(self) -> None:
        """Let the last calls end."""
        self._stopping = True
        await asyncio.gather(*self._calling)

    async def more(self, calls: int) -> None:
        """Wait until so many more calls were answered."""
        goal = len(self.answered) + calls
        async with asyncio.timeout(PATIENCE):
            while len(self.answered) < goal:
                await asyncio.sleep(0.01)

    async def _go_on(self, through: grpc.aio.Channel) -> None:
        while not self._stopping:
            await self.call(through)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def channel(address: str, config: str = "{}") -> AsyncIterator[grpc.aio.Channel]:
    """A plain client's channel, with a connection of its own."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", config),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as made:
        yield made


@pytest.fixture
async def llm() -> AsyncIterator[tuple[ChatServer, asyncio.Event, dict[str, str]]]:
    """A model that keeps every answer open until the event is set, and the settings that use it."""
    go = asyncio.Event()

    def reply(_: object) -> Reply:
        first, *rest = completion("The garage has 38 parking spaces. [1]")
        return Reply([first], hold=go, rest=rest)

    async with chat_server(reply) as server:
        endpoint = {"name": "held", "url": server.base_url, "model": "m"}
        yield server, go, {"GROUNDWIRE_GENERATION__LLM_ENDPOINTS": json.dumps([endpoint])}


async def in_thread_until(condition: Callable[[], object], what: str, alive: Running) -> None:
    """Poll without holding up the calls that this test makes."""
    await asyncio.to_thread(until, condition, what, alive)


async def test_workers_share_a_port_and_all_are_called(tmp_path: Path) -> None:
    with served(tmp_path, workers=3) as workers:
        pids = workers.pids()
        assert sorted(pids.values()) == [1, 2, 3]
        async with Load(workers) as load:
            assert all(await asyncio.gather(*map(load.call, load.channels)))
            spread = {pid: workers.connections(pid) for pid in pids}
        assert sum(spread.values()) >= CHANNELS
        assert min(spread.values()) > 0
        assert {line["worker"] for line in workers.logged("ready")} == {1, 2, 3}
        # Who starts processes has no gRPC, whose threads would not survive it.
        assert "cygrpc" not in Path(f"/proc/{workers.supervisor.process.pid}/maps").read_text()
        assert "cygrpc" in Path(f"/proc/{next(iter(pids))}/maps").read_text()


async def test_a_killed_worker_takes_its_calls_along_and_is_back(
    tmp_path: Path, llm: tuple[ChatServer, asyncio.Event, dict[str, str]]
) -> None:
    server, go, environment = llm
    with served(tmp_path, environment=environment) as workers:
        victim, survivor = workers.pids()
        async with Load(workers) as load:
            calls = [asyncio.create_task(load.call(each)) for each in load.channels]
            async with asyncio.timeout(PATIENCE):
                while len(server.requests) < CHANNELS:
                    await asyncio.sleep(0.01)
            theirs = workers.connections(victim)
            assert 0 < theirs < CHANNELS
            os.kill(victim, signal.SIGKILL)
            while len(load.failed) < theirs:
                await asyncio.sleep(0.01)
            # Whoever lost a call is served by the other one at once.
            go.set()
            await asyncio.gather(*calls)
            assert len(load.failed) == theirs
            assert {why.partition(" ")[0] for why in load.failed} == {"UNAVAILABLE"}
            assert len(load.answered) == CHANNELS - theirs
            assert all(await asyncio.gather(*map(load.call, load.channels)))
        await asyncio.to_thread(workers.wait_ready, 3)
        assert sorted(workers.pids().values()) == [1, 2]
        assert survivor in workers.pids()
        assert "was ended by SIGKILL; starting it again" in workers.supervisor.text()


@pytest.mark.long
async def test_replacing_all_workers_fails_no_call(tmp_path: Path) -> None:
    """Plain clients with a long-lived channel and no retries of any kind, but gRPC's own transparent ones."""
    with served(tmp_path, age=2.0) as workers:
        before = workers.pids()
        async with Load(workers, 20) as load:
            load.start()
            await load.more(200)
            workers.supervisor.signal(signal.SIGHUP)
            fewest = len(before)
            while not workers.logged("all workers are replaced"):
                fewest = min(fewest, await asyncio.to_thread(ready_now, workers))
                await asyncio.sleep(0.05)
            await load.more(200)
            await load.stop()
            assert Counter(load.failed) == {}
            assert len(load.answered) > 400
        after = workers.pids()
        assert sorted(after.values()) == [1, 2]
        assert not before.keys() & after.keys()
        assert fewest == 2
        assert psutil.wait_procs([workers.seen[pid] for pid in before], timeout=PATIENCE)[1] == []


@pytest.mark.long
async def test_new_connections_while_workers_are_replaced(tmp_path: Path) -> None:
    """A thousand clients that come just then, each with a retry policy: all are answered."""
    with served(tmp_path, age=1.0) as workers:
        metadata = workers.authorization()
        failed = Counter[str]()
        slots = asyncio.Semaphore(20)

        async def come() -> None:
            async with slots, channel(workers.address, RETRIES) as made:
                try:
                    await rpc.GenerationServiceStub(made).Generate(REQUEST, timeout=60, metadata=(metadata,))
                except grpc.aio.AioRpcError as error:
                    failed[f"{error.code().name} {error.details()}"] += 1

        workers.supervisor.signal(signal.SIGHUP)
        came = 0
        while came < 1000 or not workers.logged("all workers are replaced"):
            await asyncio.gather(*(come() for _ in range(100)))
            came += 100
        assert failed == {}


async def test_terminating_drains_all_workers_together(
    tmp_path: Path, llm: tuple[ChatServer, asyncio.Event, dict[str, str]]
) -> None:
    server, go, environment = llm
    with served(tmp_path, workers=3, environment=environment) as workers:
        async with Load(workers) as load:
            calls = [asyncio.create_task(load.call(each)) for each in load.channels]
            async with asyncio.timeout(PATIENCE):
                while len(server.requests) < CHANNELS:
                    await asyncio.sleep(0.01)
            workers.supervisor.signal(signal.SIGTERM)
            await in_thread_until(lambda: len(workers.logged("draining")) == 3, "drain of all", workers.supervisor)
            go.set()
            assert all(await asyncio.gather(*calls))
            assert load.failed == []
        assert await asyncio.to_thread(workers.supervisor.wait) == 0
        workers.assert_nothing_left()


async def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as workers:
        workers.supervisor.signal(signal.SIGKILL)
        await asyncio.to_thread(workers.supervisor.wait)
        workers.assert_nothing_left()


@pytest.mark.long
async def test_events_of_all_workers_arrive_once_whoever_is_killed(tmp_path: Path) -> None:
    audit = f"127.0.0.1:{free_ports(1)[0]}"
    log = {"GROUNDWIRE_AUDIT__WITNESS": "false", "GROUNDWIRE_DATA_DIR": str(tmp_path)}
    log |= {"GROUNDWIRE_ADDRESSES__AUDIT": audit, "GROUNDWIRE_LOG__FORMAT": "json"}
    answered: list[str] = []
    with running(*GROUNDWIRE, "serve", "audit", environment=log) as first:
        until(lambda: health(audit) == "SERVING", "audit service", first)
        with served(tmp_path, workers=3, audit=audit) as workers:
            async with Load(workers) as load:
                load.start()
                await load.more(100)
                os.kill(next(iter(workers.pids())), signal.SIGKILL)
                await load.more(100)
                first.signal(signal.SIGKILL)  # from here on, events stay where they are
                await load.more(100)
                # Everything at once, in the middle of calls: nobody tidies up.
                family = [*workers.pids(), workers.supervisor.process.pid]
                workers.supervisor.signal(signal.SIGSTOP)
                for pid in family:
                    os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(workers.supervisor.wait)
                await load.stop()
                answered += load.answered
    # One each; the killed worker's may have been in another's hands when its successor began.
    spools = {path.name for path in (tmp_path / "spool").glob("generation*")}
    assert len(spools) in (3, 4), spools
    with running(*GROUNDWIRE, "serve", "audit", environment=log) as second:
        # Scaled down: one process is left, and takes up what the others left.
        ports = free_ports(1)
        alone = environment_of(tmp_path, f"127.0.0.1:{ports[0]}", audit, 1, 30)
        with running(*GROUNDWIRE, "serve", "generation", environment=alone) as only:
            until(lambda: health(f"127.0.0.1:{ports[0]}") == "SERVING", "the one that is left", only)
            until(lambda: not list((tmp_path / "spool").glob("generation.*")), "taken up spools", only)
            until(lambda: set(answered) <= request_ids(tmp_path), "all events", second)
    events = [event for event in events_of(tmp_path) if event.method.endswith("/Generate")]
    assert len({event.event_id for event in events}) == len(events)
    ended = Counter(event.request_id for event in events if event.stage is Stage.ENDED)
    assert {request_id: ended[request_id] for request_id in answered} == dict.fromkeys(answered, 1)
    assert len(answered) > 300


def request_ids(data: Path) -> set[str]:
    """Of the calls that are in the log; its last frame may be under way."""
    with suppress(Exception):
        return {event.request_id for event in events_of(data)}
    return set()


def ready_now(workers: Workers) -> int:
    """How many processes listen on the port and are ready, as the supervisor was told."""
    ready: dict[int, int] = Counter()
    for line in [json.loads(line) for line in workers.supervisor.lines if line.startswith("{")]:
        if line["event"] == "ready":
            ready[line["worker"]] += 1
        elif line["event"] == "leaving: others serve this address":
            ready[line["worker"]] -= 1
    return sum(ready.values())


# --- what cannot be -------------------------------------------------------------------------------------------------


def refused(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    with running(*GROUNDWIRE, "serve", "generation", *arguments, environment=environment) as process:
        return process.wait(), process.text()


def test_a_unix_socket_cannot_be_shared(tmp_path: Path) -> None:
    environment = environment_of(tmp_path, f"unix:{tmp_path}/x.sock", "127.0.0.1:1", 2, 30)
    code, text = refused(environment)
    assert code == 2
    assert "error: generation.workers: 2 processes cannot share a unix socket" in text
    assert not (tmp_path / "spool").exists()


def test_a_taken_port_is_an_error_for_one_and_for_many(tmp_path: Path) -> None:
    with served(tmp_path) as workers:
        for count_ in (1, 2):
            environment = environment_of(tmp_path, workers.address, "127.0.0.1:1", count_, 30)
            code, text = refused(environment)
            assert (code, "address is already in use" in text or "address already in use" in text) == (2, True), text
        assert len(workers.pids()) == 2


def test_workers_that_cannot_start_end_the_supervisor_with_their_reason(tmp_path: Path) -> None:
    address = f"0.0.0.0:{free_ports(1)[0]}"
    code, text = refused(environment_of(tmp_path, address, "127.0.0.1:1", 2, 30))
    assert code == 2
    assert f"error: generation: will not listen on {address}" in text
    assert "Traceback" not in text


@pytest.mark.long
def test_up_has_workers_where_services_have_processes(tmp_path: Path) -> None:
    document = tmp_path / "garage.txt"
    document.write_text("The garage has 38 parking spaces.")
    many = {f"GROUNDWIRE_{name}__WORKERS": "2" for name in ("QUERY", "RETRIEVAL", "GENERATION")}
    with mesh_up(tmp_path / "data", "--processes", environment=many) as mesh:
        up = mesh.processes["up"]
        family = psutil.Process(up.process.pid).children(recursive=True)
        numbered = [child for child in family if "--worker" in child.cmdline()]
        assert len(numbered) == 6
        mesh.groundwire("ingest", str(document), "--readers", "tenant:*")
        assert "38" in mesh.ask("How many parking spaces has the garage?")["answer"]
        up.signal(signal.SIGTERM)
        assert up.wait() == 0, up.text()
        assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []
