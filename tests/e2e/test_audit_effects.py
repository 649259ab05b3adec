"""Every effect has its event and no event claims what did not happen, whoever gives up and whatever is killed.

Thousands of calls that change something are cancelled by their client within 50 ms of their start; in a second part
the services are killed under them. Afterwards the state of the mesh is compared with what the audit log says.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.audit.event import AuditEvent, Stage
from services.audit.keys import PUBLIC
from services.audit.note import Verifier
from services.audit.verify import verify_directory
from services.catalog.sql import SqlCatalog
from services.runtime import development
from services.runtime.encryption import Encryption
from services.runtime.options import DevelopmentOptions, EncryptionOptions
from services.runtime.settings import Settings
from tests.support.audit_reader import events_of
from tests.support.processes import GROUNDWIRE, Mesh, health, mesh_served, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# Nobody asks questions here.
SERVICES = ("store", "witness", "audit", "ingestion")
# A call is given up so many seconds after it began, at most. Where hardly any ends before that, calls get more time:
# so much more after each that was given up, and so much less after each that was not.
LATEST = 0.05
LONGER, SHORTER = 1.02, 0.9
IN_FLIGHT = 6
Effect = tuple[str, str]
"""A tenant and what was changed in it, as events name it; what was deleted has a "-" in front."""


@dataclass
class Plan:
    """What a run asks for: each effect is asked for once, so that the state tells which calls had theirs."""

    calls: int

    @property
    def shared(self) -> list[str]:
        return self._names("shared", 3)

    @property
    def deleted(self) -> list[str]:
        return self._names("deleted", 2)

    @property
    def collections(self) -> list[str]:
        return self._names("collection", 3)

    @property
    def tenants(self) -> list[str]:
        return self._names("tenant", 2)

    def _names(self, kind: str, tenths: int) -> list[str]:
        return [f"{kind}-{n}" for n in range(self.calls * tenths // 10)]


class Client:
    """Makes calls that change something, and gives them up."""

    def __init__(self, data: Path, address: str) -> None:
        self._data = data
        self._address = address
        self._random = random.Random(7)
        self._latest = LATEST
        self.outcomes: dict[str, int] = {}

    def _metadata(self, tenant: str) -> tuple[tuple[str, str], ...]:
        settings = Settings(data_dir=self._data, development=DevelopmentOptions(tenant=tenant, roles=("admin",)))
        return (("authorization", f"Bearer {development.mint(settings)}"),)

    async def ingest(self, document_ids: list[str]) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub: Any = rpc.IngestionServiceStub(channel)
            for at in range(0, len(document_ids), 50):
                request = pb.IngestDocumentsRequest(documents=map(_document, document_ids[at : at + 50]))
                response = await stub.IngestDocuments(request, metadata=self._metadata("default"), timeout=120)
                assert response.failed == 0

    async def run(self, plan: Plan, between: Callable[[int], Any] = lambda _: None) -> None:
        """Make the plan's calls, some at a time; ``between`` is called before each with its number."""
        mine = self._metadata("default")
        async with grpc.aio.insecure_channel(self._address, options=[("grpc.enable_retries", 0)]) as channel:
            stub: Any = rpc.IngestionServiceStub(channel)
            calls: list[tuple[Any, Any, Any]] = [
                *((stub.UpdateDocumentAccess, _share(name), mine) for name in plan.shared),
                *((stub.DeleteDocument, pb.DeleteDocumentRequest(document_id=name), mine) for name in plan.deleted),
                *((stub.CreateCollection, pb.CreateCollectionRequest(name=name), mine) for name in plan.collections),
                *(
                    (
                        stub.IngestDocuments,
                        pb.IngestDocumentsRequest(documents=[_document("d")]),
                        self._metadata(tenant),
                    )
                    for tenant in plan.tenants
                ),
            ]
            self._random.shuffle(calls)
            pending = iter(enumerate(calls))

            async def caller() -> None:
                for number, (method, request, metadata) in pending:
                    work = between(number)
                    if work is not None:
                        await work
                    await self._one(method(request, metadata=metadata, timeout=20))

            await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))

    async def _one(self, call: Any) -> None:
        ended = asyncio.ensure_future(_code(call))
        done, _ = await asyncio.wait([ended], timeout=self._random.uniform(0, self._latest))
        if not done:
            call.cancel()
        self._latest = max(LATEST, self._latest * (SHORTER if done else LONGER))
        code = await ended
        self.outcomes[code] = self.outcomes.get(code, 0) + 1


async def _code(call: Any) -> str:
    code: grpc.StatusCode = await call.code()
    return code.name


def _document(name: str) -> pb.DocumentInput:
    return pb.DocumentInput(document_id=name, media_type="text/plain", content=f"What {name} says.".encode())


def _share(name: str) -> pb.UpdateDocumentAccessRequest:
    return pb.UpdateDocumentAccessRequest(
        document_id=name, access=core_pb2.Access(readers=["user:developer", "user:new"])
    )


async def effects(data: Path, plan: Plan) -> set[Effect]:
    """What there is: collections, documents, changed readers and keys, of every tenant."""
    keys = Encryption.open(EncryptionOptions(), data / "keys")
    catalog = await SqlCatalog.open_sqlite(data / "catalog.sqlite3", cipher=keys.sealer)
    found: set[Effect] = set()
    try:
        with_keys = [record.tenant for record in keys.keyring.list_tenants()]
        found |= {(tenant, f"tenants/{tenant}/keys") for tenant in with_keys}
        for name in plan.deleted:
            if await catalog.last_erasure("default", "default", name):
                found |= {("default", f"-collections/default/documents/{name}")}
                # It was there before.
                found |= {("default", f"collections/default/documents/{name}")}
        for tenant in ("default", *plan.tenants):
            collections = await catalog.list_collections(tenant, limit=10_000)
            found |= {(tenant, f"collections/{collection.name}") for collection in collections}
            who = frozenset({"user:developer"})
            for document in await catalog.list_readable(tenant, "default", who, limit=10_000):
                name = f"collections/default/documents/{document.document_id}"
                found.add((tenant, name))
                if "user:new" in document.access.readers:
                    found.add((tenant, f"{name}/access"))
    finally:
        await catalog.close()
        await keys.close()
    return found


def said(events: list[AuditEvent]) -> tuple[set[Effect], set[Effect]]:
    """What events announced, and what they claim."""
    begun = {(event.tenant, _sign(event) + event.resource) for event in events if event.stage is Stage.BEGUN}
    return begun, {(event.tenant, _sign(event) + change) for event in events for change in event.changes}


def _sign(event: AuditEvent) -> str:
    return "-" if event.method.endswith("/DeleteDocument") else ""


def check_log(data: Path) -> list[AuditEvent]:
    """The log verifies, nothing is in it twice, and whatever was begun was also ended."""
    report = verify_directory(data / "audit", [Verifier.parse((data / "audit" / PUBLIC).read_text())])
    assert report.intact, report.problems
    events = events_of(data)
    assert len({event.event_id for event in events}) == len(events)
    begun = {event.event_id.partition(".")[0] for event in events if event.stage is Stage.BEGUN}
    assert begun <= {event.event_id for event in events if event.stage is not Stage.BEGUN}
    return events


CANCELLED = [pytest.param(200, id="short"), pytest.param(2000, marks=pytest.mark.long, id="2000")]


@pytest.mark.parametrize("count", CANCELLED)
def test_cancelled_calls_leave_true_records(tmp_path: Path, count: int) -> None:
    plan = Plan(count)
    with mesh_served(tmp_path / "data", services=SERVICES) as mesh:
        client = Client(tmp_path / "data", mesh.addresses["ingestion"])
        asyncio.run(client.ingest([*plan.shared, *plan.deleted]))
        before = asyncio.run(effects(tmp_path / "data", plan))
        asyncio.run(client.run(plan))
    assert client.outcomes["CANCELLED"] > count // 10
    events = check_log(tmp_path / "data")
    after = asyncio.run(effects(tmp_path / "data", plan))
    assert len(after - before) > count // 20, "some calls had their effects"
    begun, claimed = said(events)
    assert claimed == after
    assert claimed <= begun
    cancelled = [event for event in events if event.code == grpc.StatusCode.CANCELLED.value[0]]
    assert any(event.changes for event in cancelled), "an effect outlived its caller, and was noted"


@pytest.mark.parametrize(
    ("count", "kills"),
    [
        pytest.param(160, 2, marks=pytest.mark.long, id="short"),
        pytest.param(2000, 20, marks=pytest.mark.long, id="2000"),
    ],
)
def test_killed_services_leave_true_records(tmp_path: Path, count: int, kills: int) -> None:
    data = tmp_path / "data"
    plan = Plan(count)
    with mesh_served(data, services=SERVICES) as mesh, restartable(mesh) as ingestion:
        client = Client(data, mesh.addresses["ingestion"])
        asyncio.run(client.ingest([*plan.shared, *plan.deleted]))
        # Not all of them at the beginning of something.
        at = {count * (n + 1) // (kills + 1) + n for n in range(kills)}

        def kill(number: int) -> Any:
            return ingestion.kill_and_restart() if number in at else ingestion.wait()

        asyncio.run(client.run(plan, kill))
        assert ingestion.kills == kills
    events = check_log(data)
    after = asyncio.run(effects(data, plan))
    begun, claimed = said(events)
    assert after <= begun
    assert claimed <= after
    assert len(claimed) > count // 20


class Restartable:
    """The ingestion service, which is killed and started again while calls are under way."""

    def __init__(self, mesh: Mesh, stack: ExitStack) -> None:
        self._mesh = mesh
        self._stack = stack
        self._process = mesh.processes["ingestion"]
        self._serving = asyncio.Event()
        self._serving.set()
        self.kills = 0

    async def wait(self) -> None:
        await self._serving.wait()

    async def kill_and_restart(self) -> None:
        self._serving.clear()
        self.kills += 1
        await asyncio.to_thread(self._restart)
        self._serving.set()

    def _restart(self) -> None:
        os.kill(self._process.process.pid, signal.SIGKILL)
        self._process.process.wait()
        self._process = self._stack.enter_context(
            running(*GROUNDWIRE, "serve", "ingestion", environment=self._mesh.environment)
        )
        address = self._mesh.addresses["ingestion"]
        until(lambda: health(address) == "SERVING", "ingestion", self._process)


@contextmanager
def restartable(mesh: Mesh) -> Iterator[Restartable]:
    with ExitStack() as stack:
        yield Restartable(mesh, stack)
