"""Taking a backup: what is copied when is what makes it consistent.

1. chunks and catalog of one moment (:mod:`services.backup.gathering`);
2. revocations, which only grow;
3. what waits for the audit log, then the log: a change that the catalog shows was announced before it was made, so its
   announcement is in one of them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.backup.databases import copy_database
from services.backup.folder import Folder, Told, building
from services.backup.gathering import Catalog, Gathered, Gathering, Pace
from services.backup.journals import Log, copy_log, copy_spools
from services.backup.manifest import CollectionEntry, DocumentEntry, Manifest, TenantKeys, digest
from services.catalog.contents import Contents
from services.corpus.errors import NotFound
from services.runtime.encryption import key_store_path, open_key_store
from services.security.encryption import Purpose
from services.security.keyring import Keyring
from services.security.master_keys import NoMasterKey
from services.vectorstores.ports import ChunkPages, Partition

REVOCATIONS = "revocations.sqlite3"


@dataclass(frozen=True)
class Places:
    """Where an installation keeps what is backed up."""

    catalog: Path
    keys_dir: Path
    log: Log
    spool: Path


@dataclass(frozen=True)
class Watching:
    """Told how far it has come: how many chunks there may be, and of each page."""

    begun: Callable[[int], None] = lambda _: None
    told: Told = lambda _: None


def new_backup_id(now: datetime) -> str:
    """A name that sorts by time and is nobody else's."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


async def back_up_to(
    target: Path,
    places: Places,
    store: ChunkPages,
    *,
    backup_id: str,
    product: str,
    encrypted: bool,
    own_spool: str = "",
    watching: Watching = Watching(),
    pace: Pace = Pace(),  # noqa: B008 - frozen
) -> tuple[Manifest, str]:
    """Write a backup to ``target``: its manifest, and the SHA-256 of that. ``store`` is what ingestion writes to.

    NotFound if there is nothing to back up, AlreadyExists, Unavailable, DataLoss; nothing is left at ``target`` then.
    """
    if not places.catalog.is_file():
        raise NotFound(
            f"there is no catalog in {places.catalog.parent}: nothing was stored yet, or it is another place"
        )
    with ExitStack() as stack:
        folder = await asyncio.to_thread(stack.enter_context, building(target))
        catalog = Catalog(places.catalog)
        stack.callback(catalog.close)
        gathering = Gathering(store, catalog, folder, begun=watching.begun, told=watching.told, pace=pace)
        gathered = await gathering.run()

        def finish() -> tuple[Manifest, str]:
            _copy_revocations(places.keys_dir, folder)
            copy_spools(places.spool, folder, without=own_spool)
            audit = copy_log(places.log, folder) if places.log.exists else None
            manifest = Manifest(
                backup_id=backup_id,
                product=product,
                time=gathered.time.isoformat(timespec="milliseconds"),
                encrypted=encrypted,
                collections=tuple(_collections(gathered)),
                keys=known_keys(places.keys_dir),
                audit=audit,
                lacking=tuple(
                    DocumentEntry(document.tenant, document.collection, document.document_id, document.version)
                    for document in gathered.lacking
                ),
                files=dict(sorted(folder.files.items())),
            )
            return manifest, digest(folder.finish(manifest))

        return await asyncio.to_thread(finish)


def known_keys(keys_dir: Path) -> tuple[TenantKeys, ...]:
    """The numbers of every tenant's data keys; none where nothing is encrypted."""
    if not key_store_path(keys_dir).is_file():
        return ()
    store = open_key_store(keys_dir)
    try:
        return tuple(
            TenantKeys(
                record.tenant,
                tuple(key.number for key in record.of(Purpose.DATA)),
                shredded=record.shred_time is not None,
            )
            for record in Keyring(NoMasterKey(), store).list_tenants()
        )
    finally:
        store.close()


def documents_of(contents: Contents) -> Counter[Partition]:
    """How many active documents each collection has."""
    return Counter(Partition(document.tenant, document.collection) for document in contents.documents)


def _collections(gathered: Gathered) -> list[CollectionEntry]:
    documents = documents_of(gathered.contents)
    parts: defaultdict[Partition, list[str]] = defaultdict(list)
    for part in gathered.parts:
        parts[part.partition].append(part.name)
    found = []
    for kept in gathered.contents.collections:
        partition = Partition(kept.tenant, kept.name)
        found.append(
            CollectionEntry(
                kept.tenant,
                kept.name,
                kept.embedding_model,
                kept.dimension,
                documents[partition],
                gathered.chunks[partition],
                tuple(parts[partition]),
            )
        )
    return found


def _copy_revocations(keys_dir: Path, folder: Folder) -> None:
    if (keys_dir / REVOCATIONS).is_file():
        copy_database(keys_dir / REVOCATIONS, folder.path(REVOCATIONS))
        folder.adopt(REVOCATIONS)
