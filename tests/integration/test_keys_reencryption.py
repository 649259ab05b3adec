"""Re-encryption beside a running store: killed and resumed, without a store, and while documents are taken in."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from services.catalog.sql import SqlCatalog
from services.corpus.document import Document, DocumentState, MediaType
from services.corpus.errors import FailedPrecondition
from services.corpus.principal import EVERYBODY, Access
from services.runtime.encryption import Encryption
from services.runtime.options import EncryptionOptions
from services.runtime.process import Process
from services.runtime.sealed_places import CatalogDetails, StoreChunks
from services.runtime.sealed_store import SealedVectorStore
from services.runtime.server import Server
from services.security.resealing import SealedItems
from services.security.rotation import Rotation
from services.security.sealed import Refusal
from services.store.assembly import assemble
from services.store.settings import StoreSettings
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import KeptPayload, Partition, PayloadChange, StoredChunk
from tests.support.processes import ROOT
from tests.support.serving import Serving, until

NOW = datetime(2026, 5, 17, tzinfo=UTC)
TO_ALL = Access(frozenset({EVERYBODY}))
TENANT = "acme"
COUNT = 300
PAGE = 128


class WatchedStore(MemoryVectorStore):
    """Tells what is asked of it, and lets a walk wait."""

    def __init__(self) -> None:
        super().__init__()
        self.walked: list[tuple[str, str]] = []
        self.replaced = 0
        self.hold_after: int | None = None

    async def list_payloads(
        self, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[KeptPayload]:
        self.walked.append(after)
        if self.hold_after is not None and len(self.walked) > self.hold_after:
            await asyncio.Event().wait()
        return await super().list_payloads(tenant, after=after, limit=limit)

    async def replace_payloads(self, tenant: str, changes: Sequence[PayloadChange]) -> int:
        replaced = await super().replace_payloads(tenant, changes)
        self.replaced += replaced
        return replaced


@dataclass
class World:
    """One installation: its directory, its store behind a server, and a process that takes documents in."""

    directory: Path
    store: WatchedStore
    keys: Encryption
    catalog: SqlCatalog
    refusals: list[Refusal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sealed = SealedVectorStore(self.store, self.keys.sealer, self.keys.terms)

    async def take_in(self, name: str, tenant: str = TENANT, collection: str = "default") -> None:
        """A document of one chunk, as ingestion would."""
        plan = await self.catalog.plan_version(tenant, collection, name, TO_ALL)
        text = f"text of {name} {plan.version}"
        vector = np.eye(4, dtype=np.float32)[0]
        chunk = StoredChunk(f"{name}#{plan.version}.0", name, plan.version, 0, 1, text.encode(), vector, ("word",))
        await self.sealed.upsert_chunks(Partition(tenant, collection), [chunk])
        made = Document(
            tenant=tenant,
            collection=collection,
            document_id=name,
            version=plan.version,
            title=f"title of {name}",
            uri="",
            media_type=MediaType.TEXT,
            metadata={},
            access=TO_ALL,
            owner="user:alice",
            state=DocumentState.ACTIVE,
            content_sha256="ab" * 32,
            chunk_count=1,
            create_time=NOW,
            update_time=NOW,
        )
        assert await self.catalog.activate_version(made)

    async def check(self, names: set[str], newest: int | None = None, tenant: str = TENANT) -> None:
        """All documents are there and readable; everything is sealed under the key ``newest``."""
        principals = frozenset({EVERYBODY})
        listed = await self.catalog.list_readable(tenant, "default", principals, limit=10_000)
        assert {document.document_id for document in listed} == names
        ids = [f"{document.document_id}#{document.version}.0" for document in listed]
        fetched = await self.sealed.fetch_chunks(Partition(tenant, "default"), ids)
        assert [chunk.payload.decode() for chunk in fetched] == [
            f"text of {document.document_id} {document.version}" for document in listed
        ]
        if newest is not None:
            details = await self.catalog.list_details(tenant, limit=10_000)
            payloads = await MemoryVectorStore.list_payloads(self.store, tenant, limit=10_000)
            tokens = [kept.details for kept in details] + [kept.chunk.payload for kept in payloads]
            assert {int.from_bytes(token[1:5], "big") for token in tokens} == {newest}

    async def groundwire(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a command beside the services."""
        path = os.pathsep.join((str(ROOT), str(ROOT / "generated")))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "keys", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "GROUNDWIRE_DATA_DIR": str(self.directory)},
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    refusals: list[Refusal] = []
    keys = Encryption.open(EncryptionOptions(), tmp_path / "keys", on_refused=refusals.append)
    catalog = await SqlCatalog.open_sqlite(tmp_path / "catalog.sqlite3", cipher=keys.sealer)
    yield World(tmp_path, WatchedStore(), keys, catalog, refusals)
    await catalog.close()
    await keys.close()


async def serve(serving: Serving, world: World) -> Server:
    settings = StoreSettings(data_dir=world.directory)
    service = await assemble(settings, Process(), store=world.store)
    return await serving.serve(service, settings=settings, address=settings.address("store"))


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_killed_re_encryption_goes_on_where_it_was(serving: Serving, world: World) -> None:
    names = {f"d{i:03}" for i in range(COUNT)}
    for name in sorted(names):
        await world.take_in(name)
    await serve(serving, world)
    world.store.hold_after = 2
    killed = await world.groundwire("rotate", TENANT)
    await until(lambda: len(world.store.walked) == 3)
    killed.kill()
    assert (await ended(killed))[0] < 0
    assert world.store.replaced == 2 * PAGE
    await world.check(names)  # half-way, everything is readable

    reached = world.store.walked[-1]
    world.store.walked.clear()
    world.store.hold_after = None
    code, out, err = await ended(await world.groundwire("rotate", TENANT, "--output", "json"))
    assert code == 0, err
    assert "going on with data key 2" in err
    assert world.store.walked[0] == reached
    (report,) = json.loads(out)["tenants"]
    # A place that was done before the kill is gone through once more; what was done in it is not done again.
    assert (report["key_number"], report["resealed"], report["refused"]) == (2, COUNT, 0)
    assert world.store.replaced == COUNT
    await world.check(names, newest=2)
    assert world.refusals == []

    code, out, _ = await ended(await world.groundwire("rotate", TENANT, "--retire"))
    assert code == 1  # too early: a process that did not know of the new key could still store something
    await world.check(names, newest=2)


async def test_without_a_store_the_catalog_is_done_and_the_rest_is_named(serving: Serving, world: World) -> None:
    await world.take_in("d")
    code, out, err = await ended(await world.groundwire("rotate", "--all-tenants", "--output", "json"))
    assert code == 3, err
    assert json.loads(out) == {"tenants": []}
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert "groundwire up" in err
    (details,) = await world.catalog.list_details(TENANT, limit=5)
    assert details.details[1:5] == (2).to_bytes(4, "big")
    await world.check({"d"})
    await serve(serving, world)
    code, out, err = await ended(await world.groundwire("rotate", TENANT))
    assert code == 0, err
    assert "data key 2, 2 values checked, 1 encrypted again" in out
    await world.check({"d"}, newest=2)


async def test_documents_that_are_taken_in_meanwhile_stay_readable(world: World) -> None:
    """The writer's process and the rotation's have keyrings of their own, and learn late of each other's keys."""
    names: set[str] = set()
    stop = asyncio.Event()

    async def write(number: int) -> None:
        for i in range(10_000):
            name = f"w{number}-{i % 40}"  # some are new versions of what is there
            await world.take_in(name)
            names.add(name)
            if stop.is_set():
                return

    other = Encryption.open(EncryptionOptions(), world.directory / "keys")
    catalog = await SqlCatalog.open_sqlite(world.directory / "catalog.sqlite3", cipher=other.sealer)
    places: list[SealedItems] = [CatalogDetails(catalog), StoreChunks(world.store, "store")]
    rotation = Rotation(other.keyring, other.sealer, other.checkpoints, places)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(write(number))
        await until(lambda: len(names) >= 30)
        for expected in (2, 3, 4):
            number, made = await rotation.begin(TENANT)
            assert (number, made) == (expected, True)
            assert (await rotation.finish(TENANT)).key_number == expected
        stop.set()
    # What was on its way while the last one ended.
    report = await rotation.finish(TENANT)
    assert report.broken == 0
    await world.check(names, newest=report.key_number)
    assert world.refusals == []
    await catalog.close()
    await other.close()


async def test_keys_are_not_retired_while_something_does_not_open(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.take_in(name)
    one, two, _ = await world.store.list_payloads(TENANT, limit=3)
    swapped = [
        PayloadChange("default", one.chunk.chunk_id, one.chunk.payload, two.chunk.payload),
        PayloadChange("default", two.chunk.chunk_id, two.chunk.payload, one.chunk.payload),
    ]
    await world.store.replace_payloads(TENANT, swapped)
    places: list[SealedItems] = [CatalogDetails(world.catalog), StoreChunks(world.store, "store")]
    rotation = Rotation(world.keys.keyring, world.keys.sealer, world.keys.checkpoints, places)
    await rotation.begin(TENANT)
    report = await rotation.finish(TENANT)
    assert (report.resealed, report.broken) == (4, 2)
    assert {refusal.place.document_id for refusal in world.refusals} == {"a", "b"}
    with pytest.raises(FailedPrecondition, match="2 sealed values do not open"):
        await rotation.retire(TENANT, report)
    for name in ("a", "b"):
        await world.take_in(name)
        await world.sealed.delete_chunks(Partition(TENANT, "default"), name, before_version=2)
    report = await rotation.finish(TENANT)
    assert report.broken == 0
    with pytest.raises(FailedPrecondition, match="too young"):
        await rotation.retire(TENANT, report)
