"""An installation for tests of backups: a catalog and a log on the disk, an index in memory that outlives its closing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

import numpy as np

from services.audit.keys import PUBLIC
from services.audit.log import AuditLog
from services.audit.records import CHECKPOINTS, EVENTS
from services.audit.witness.witness import CheckpointWitness
from services.backup.backup import Places, Watching, back_up_to
from services.backup.gathering import Pace
from services.backup.journals import Log
from services.backup.manifest import Manifest
from services.backup.restore import Outcome, Restoring, Wishes
from services.catalog.sql import SqlCatalog
from services.corpus.document import Collection, Document, DocumentState, MediaType
from services.corpus.principal import Access
from services.journal.files import DirectoryFiles
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk, VectorStore
from tests.support.audit_world import LOG, WITNESS, event

NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)
TENANT, COLLECTION = "acme", "hr"
PARTITION = Partition(TENANT, COLLECTION)
UNHURRIED, NOTHING_SPECIAL = Pace(), Wishes()
READERS = tuple(Access(frozenset({f"user:{name}"})) for name in ("alice", "bob"))


class LastingStore(MemoryVectorStore):
    """A store in memory whose walks others run in between. Closing it forgets nothing."""

    async def list_chunks(
        self, partition: Partition, *, document_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[StoredChunk]:
        """See the port; small pages, each of which takes as long as one from a disk."""
        await asyncio.sleep(0.002)
        return await super().list_chunks(partition, document_id=document_id, after=after, limit=min(limit, 4))

    async def close(self) -> None:
        """Keep everything."""


class Installation:
    """A data directory. :meth:`open` first, :meth:`close` last."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.store = LastingStore()
        self.log = Log(data / "audit", data / "witness")
        self.places = Places(data / "catalog.sqlite3", data / "keys", self.log, data / "spool")
        self.catalog: SqlCatalog
        self._opened = False

    async def open(self) -> Installation:
        """Open the catalog, with one collection."""
        self.catalog = await SqlCatalog.open_sqlite(self.places.catalog)
        self._opened = True
        await self.catalog.create_collection(Collection(TENANT, COLLECTION, "model", 4, None, None, NOW))
        return self

    async def close(self) -> None:
        """Close the catalog; a second time does nothing."""
        if self._opened:
            self._opened = False
            await self.catalog.close()

    async def put(self, name: str, *, access: Access = READERS[0], chunks: int = 3) -> int:
        """Take a document in, as ingestion does: chunks, then the version, then the older chunks."""
        plan = await self.catalog.plan_version(TENANT, COLLECTION, name, access)
        written = [chunk(name, plan.version, i, plan.reader_set) for i in range(chunks)]
        await self.store.upsert_chunks(PARTITION, written)
        document = Document(
            tenant=TENANT,
            collection=COLLECTION,
            document_id=name,
            version=plan.version,
            title=f"The title of {name}",
            uri="",
            media_type=MediaType.TEXT,
            metadata={},
            access=access,
            owner="user:alice",
            state=DocumentState.ACTIVE,
            content_sha256="0" * 64,
            chunk_count=chunks,
            create_time=NOW,
            update_time=NOW,
        )
        await self.catalog.activate_version(document)
        await self.store.delete_chunks(PARTITION, name, before_version=plan.version)
        return plan.version

    async def delete(self, name: str) -> None:
        """Delete a document, as ingestion does: out of the catalog first."""
        erasure = await self.catalog.mark_deleted(TENANT, COLLECTION, name, stores=["store"])
        if erasure is not None:
            await self.store.delete_chunks(PARTITION, name, before_version=erasure.before_version)

    async def share(self, name: str, access: Access, *, and_the_store: bool = True) -> None:
        """Change who may read a document."""
        number = await self.catalog.set_access(TENANT, COLLECTION, name, access)
        if and_the_store:
            await self.store.assign_readers(PARTITION, name, number)

    async def write_log(self, size: int, *, witnessed: bool = True, rewritten: bool = False) -> None:
        """Let the log grow to ``size`` events, signed, and let the witness see it."""
        self.log.audit.mkdir(parents=True, exist_ok=True)
        (self.log.audit / PUBLIC).write_text(f"{LOG.verifier}\n")
        log = await AuditLog.open(
            DirectoryFiles.open(self.log.audit / EVENTS), DirectoryFiles.open(self.log.audit / CHECKPOINTS), LOG
        )
        witness = CheckpointWitness(DirectoryFiles.open(self.log.witness), WITNESS, lambda: LOG.verifier)
        (self.log.witness / PUBLIC).write_text(f"{WITNESS.verifier}\n")
        try:
            if log.size < size:
                await log.append([event(n + 10_000 * rewritten) for n in range(log.size, size)])
            signed = await log.sign()
            if witnessed and signed is not None:
                seen = witness.last[1].size if witness.last else 0
                proof, _ = log.consistency_proof(seen, size)
                line, _ = witness.cosign(seen, proof, str(signed.note))
                await log.add_cosignature(size, line)
        finally:
            witness.close()
            await log.close()

    async def back_up(self, target: Path, *, pace: Pace = UNHURRIED, own_spool: str = "") -> Manifest:
        """Back it up."""
        manifest, _ = await back_up_to(
            target,
            self.places,
            self.store,
            backup_id="one",
            product="test",
            encrypted=False,
            own_spool=own_spool,
            pace=pace,
        )
        return manifest


async def restore(
    backup: Path,
    manifest: Manifest,
    into: Installation,
    wishes: Wishes = NOTHING_SPECIAL,
    keys: dict[str, bytes] | None = None,
) -> Outcome:
    """Restore a backup into an installation that is not open."""

    async def open_store(_: Path) -> VectorStore:
        return into.store

    restoring = Restoring(backup, manifest, into.data, into.log, wishes)
    restoring.begin()
    try:
        await restoring.build(open_store, Watching(), keys)
        return restoring.commit("now")
    except BaseException:
        restoring.abandon()
        raise


def chunk(name: str, version: int, ordinal: int, readers: int) -> StoredChunk:
    """A chunk whose payload, terms and vector tell where it belongs."""
    chunk_id = f"{name}#{version}.{ordinal}"
    numbers = np.random.default_rng(crc32(chunk_id.encode())).normal(size=4).astype(np.float32)
    vector = numbers / np.linalg.norm(numbers)
    return StoredChunk(chunk_id, name, version, ordinal, readers, chunk_id.encode(), vector, (name, f"v{version}"))


async def meddle(world: Installation, names: list[str], dice: random.Random, ended: Callable[[], bool]) -> int:
    """Take in, replace, share and delete documents until ``ended``; how many were changed."""
    changes = 0
    while not ended():
        name = dice.choice(names)
        match dice.randrange(4):
            case 0:
                await world.delete(name)
            case 1:
                known = await world.catalog.find_owner(TENANT, COLLECTION, name)
                if known is not None:
                    await world.share(name, dice.choice(READERS))
            case _:
                await world.put(name, access=dice.choice(READERS), chunks=dice.randint(1, 9))
        changes += 1
    return changes
