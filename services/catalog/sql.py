"""The catalog in a SQL database, over SQLAlchemy Core; SQLite is the embedded default.

Statements run in worker threads: one thread writes (SQLite's WAL mode is only safe with a single writer), several
read. A commit is durable before it is reported (synchronous=FULL); writes that wait together share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Collection as Some
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.catalog import details, erasures, readers
from services.catalog.conditions import admitting, counter_key, document_key, readable
from services.catalog.details import KeptDetails
from services.catalog.group_commit import GroupCommit
from services.catalog.ports import ClearFields, FieldCipher, VersionPlan
from services.catalog.rows import collection_of, details_of, document_of, dump_access, to_micros
from services.catalog.schema import catalog_format, collections, documents, version_counters
from services.catalog.sqlite import WriteLock, is_full, open_engine, prepare
from services.corpus.document import Collection, Document, DocumentState
from services.corpus.erasure import Erasure, new_receipt_id
from services.corpus.errors import AlreadyExists, DataLoss, DiskFull, KeysDestroyed, NotFound, Unavailable
from services.corpus.filter import Filter, matches
from services.corpus.principal import Access

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_READERS = 4
_REMEMBERED = 10_000


class SqlCatalog:
    """Implements the Catalog port. Make one with :meth:`open_sqlite`."""

    def __init__(self, engine: Engine, cipher: FieldCipher, lock: WriteLock) -> None:
        self._engine = engine
        self._lock = lock
        self._cipher = cipher
        # Numbers of reader sets that are committed: a set never changes, and nearly all documents share a few.
        self._reader_sets: dict[tuple[str, Access], int] = {}
        self._writes = GroupCommit(engine.execution_options(immediate=True), lock.held)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="catalog-read")

    @classmethod
    async def open_sqlite(cls, path: Path, *, cipher: FieldCipher | None = None) -> SqlCatalog:
        """Open, or create, the catalog in the file ``path``; FailedPrecondition if its format is not ours.

        ``cipher`` seals titles, URIs and metadata; without one they are kept in clear.
        """
        catalog = cls(open_engine(path), cipher or ClearFields(), WriteLock(path))
        try:
            await catalog._write(prepare)
        except BaseException:
            await catalog.close()
            raise
        return catalog

    async def close(self) -> None:
        """See the port."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writes.close()
        self._readers.shutdown()
        self._engine.dispose()
        self._lock.close()

    async def check(self) -> None:
        """See the port."""
        await self._read(lambda connection: connection.execute(select(catalog_format.c.format)).all())

    # --- collections ---------------------------------------------------------------------------------------------

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port."""

        def create(connection: Connection) -> None:
            values = {
                "tenant": collection.tenant,
                "name": collection.name,
                "embedding_model": collection.embedding_model,
                "dimension": collection.dimension,
                "default_readers": dump_access(collection.default_access),
                "retention_days": collection.retention_days,
                "create_time": to_micros(collection.create_time),
            }
            connection.execute(insert(collections).values(values))

        try:
            await self._write(create)
        except IntegrityError:
            raise AlreadyExists(
                f"the collection {collection.name} exists already", metadata={"collection": collection.name}
            ) from None
        return collection

    async def get_collection(self, tenant: str, name: str) -> Collection | None:
        """See the port."""
        query = select(collections).where(collections.c.tenant == tenant, collections.c.name == name)
        row = await self._read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else collection_of(row)

    async def list_collections(self, tenant: str, *, after: str = "", limit: int = 50) -> list[Collection]:
        """See the port."""
        query = (
            select(collections)
            .where(collections.c.tenant == tenant, collections.c.name > after)
            .order_by(collections.c.name)
            .limit(limit)
        )
        return [collection_of(row) for row in await self._read(lambda connection: connection.execute(query).all())]

    async def update_collection(self, collection: Collection) -> None:
        """See the port."""
        statement = (
            update(collections)
            .where(collections.c.tenant == collection.tenant, collections.c.name == collection.name)
            .values(default_readers=dump_access(collection.default_access), retention_days=collection.retention_days)
        )
        if await self._write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise _no_collection(collection.name)

    async def delete_collection(self, tenant: str, name: str) -> int:
        """See the port."""

        def remove(connection: Connection) -> int:
            gone = connection.execute(
                delete(collections).where(collections.c.tenant == tenant, collections.c.name == name)
            )
            if gone.rowcount == 0:
                raise _no_collection(name)
            counter = version_counters.c
            connection.execute(
                update(version_counters)
                .where(counter.tenant == tenant, counter.collection == name)
                .values(void_until=counter.last_version)
            )
            held = documents.c.tenant == tenant, documents.c.collection == name
            active = select(func.count()).where(*held, documents.c.state == DocumentState.ACTIVE.value)
            count = connection.execute(active).scalar_one()
            connection.execute(delete(documents).where(*held))
            return int(count)

        return await self._write(remove)

    # --- versions ------------------------------------------------------------------------------------------------

    async def plan_version(self, tenant: str, collection: str, document_id: str, access: Access) -> VersionPlan:
        """See the port."""

        def plan(connection: Connection) -> VersionPlan:
            key = counter_key(tenant, collection, document_id)
            last = connection.execute(select(version_counters.c.last_version).where(*key)).scalar_one_or_none()
            version = (last or 0) + 1
            if last is None:
                values = {"tenant": tenant, "collection": collection, "document_id": document_id}
                connection.execute(insert(version_counters).values(**values, last_version=version))
            else:
                connection.execute(update(version_counters).where(*key).values(last_version=version))
            return VersionPlan(version, self._reader_set(connection, tenant, access))

        planned = await self._write(plan)
        if len(self._reader_sets) >= _REMEMBERED:
            self._reader_sets.clear()
        self._reader_sets[tenant, access] = planned.reader_set
        return planned

    async def activate_version(self, document: Document) -> bool:
        """See the port."""

        def activate(connection: Connection) -> bool:
            key = document_key(document.tenant, document.collection, document.document_id)
            values = {
                "version": document.version,
                "details": details_of(document, self._cipher),
                "media_type": document.media_type.value,
                "reader_set": self._reader_set(connection, document.tenant, document.access),
                "owner": document.owner,
                "state": document.state.value,
                "content_sha256": document.content_sha256,
                "chunk_count": document.chunk_count,
                "update_time": to_micros(document.update_time),
            }
            standing = (
                select(version_counters.c.void_until, documents.c.version)
                .select_from(version_counters.outerjoin(documents, and_(*key)))
                .where(*counter_key(document.tenant, document.collection, document.document_id))
            )
            void_until, current = connection.execute(standing).one_or_none() or (0, None)
            if document.version <= void_until:
                return False
            if current is None:
                names = {"tenant": document.tenant, "collection": document.collection}
                connection.execute(
                    insert(documents).values(
                        **names,
                        document_id=document.document_id,
                        create_time=to_micros(document.create_time),
                        **values,
                    )
                )
            elif current < document.version:
                connection.execute(update(documents).where(*key).values(values))
            else:
                return False
            return True

        return await self._write(activate)

    async def get_document(self, tenant: str, collection: str, document_id: str) -> Document | None:
        """See the port."""

        def get(connection: Connection) -> Document | None:
            query = select(documents).where(*document_key(tenant, collection, document_id))
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            return document_of(row, readers.accesses(connection, [row])[row.reader_set], self._cipher)

        return await self._read(get)

    # --- reading -------------------------------------------------------------------------------------------------

    async def find_owner(self, tenant: str, collection: str, document_id: str) -> str | None:
        """See the port."""
        active = documents.c.state == DocumentState.ACTIVE.value
        query = select(documents.c.owner).where(*document_key(tenant, collection, document_id), active)
        return await self._read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def find_readable(
        self, tenant: str, collection: str, document_ids: Some[str], principals: frozenset[str]
    ) -> dict[str, Document]:
        """See the port."""

        def find(connection: Connection) -> dict[str, Document]:
            found: dict[str, Document] = {}
            for some in readers.batches(document_ids):
                query = readable(tenant, collection, principals).where(documents.c.document_id.in_(some))
                sound = self._sound(connection, connection.execute(query).all())
                found.update({document.document_id: document for document in sound})
            return found

        try:
            return await self._read(find)
        except KeysDestroyed:
            return {}

    async def list_readable(
        self,
        tenant: str,
        collection: str,
        principals: frozenset[str],
        *,
        filter_: Filter | None = None,
        after: str = "",
        limit: int = 50,
    ) -> list[Document]:
        """See the port."""

        def find(connection: Connection) -> list[Document]:
            found: list[Document] = []
            last = after
            while len(found) < limit:
                query = readable(tenant, collection, principals).where(documents.c.document_id > last)
                page = connection.execute(query.order_by(documents.c.document_id).limit(max(limit, 200))).all()
                if not page:
                    break
                sound = self._sound(connection, page)
                found.extend(document for document in sound if matches(filter_, document.metadata))
                last = page[-1].document_id
            return found[:limit]

        try:
            return await self._read(find)
        except KeysDestroyed:
            return []

    async def count_readable(self, tenant: str, collection: str, principals: frozenset[str]) -> int:
        """See the port."""
        query = select(func.count()).select_from(readable(tenant, collection, principals).subquery())
        return int(await self._read(lambda connection: connection.execute(query).scalar_one()))

    async def reader_sets(self, tenant: str, principals: frozenset[str]) -> frozenset[int]:
        """See the port."""
        return frozenset(
            await self._read(lambda connection: connection.execute(admitting(tenant, principals)).scalars().all())
        )

    # --- changing ------------------------------------------------------------------------------------------------

    async def set_access(
        self, tenant: str, collection: str, document_id: str, access: Access, *, owner: str | None = None
    ) -> int:
        """See the port."""

        def change(connection: Connection) -> int:
            number = self._reader_set(connection, tenant, access)
            owned = () if owner is None else (documents.c.owner == owner,)
            active = documents.c.state == DocumentState.ACTIVE.value
            changed = connection.execute(
                update(documents)
                .where(*document_key(tenant, collection, document_id), active, *owned)
                .values(reader_set=number, update_time=to_micros(datetime.now(UTC)))
            )
            if changed.rowcount == 0:
                raise NotFound("no such document", metadata={"document_id": document_id})
            return number

        return await self._write(change)

    async def mark_deleted(
        self,
        tenant: str,
        collection: str,
        document_id: str,
        *,
        owner: str | None = None,
        stores: Sequence[str] = (),
    ) -> Erasure | None:
        """See the port."""
        key, receipt_id, now = (tenant, collection, document_id), new_receipt_id(), datetime.now(UTC)
        return await self._write(
            lambda connection: erasures.forget(
                connection, key, owner=owner, stores=stores, receipt_id=receipt_id, now=now
            )
        )

    # --- erasures ------------------------------------------------------------------------------------------------

    async def find_erasure(self, tenant: str, receipt_id: str) -> Erasure | None:
        """See the port."""
        return await self._read(lambda connection: erasures.find(connection, tenant, receipt_id))

    async def last_erasure(
        self, tenant: str, collection: str, document_id: str, *, owner: str | None = None
    ) -> Erasure | None:
        """See the port."""
        key = tenant, collection, document_id
        return await self._read(lambda connection: erasures.last(connection, key, owner))

    async def unfinished_erasures(self, *, after: str = "", limit: int = 100) -> list[Erasure]:
        """See the port."""
        return await self._read(lambda connection: erasures.unfinished(connection, after, limit))

    async def record_erasure(self, before: Erasure, after: Erasure) -> bool:
        """See the port."""
        return await self._write(lambda connection: erasures.record(connection, before, after))

    # --- what is kept sealed -------------------------------------------------------------------------------------

    async def list_details(self, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[KeptDetails]:
        """All sealed details of a tenant by (collection, document id), those after ``after``; none is the end."""
        return await self._read(lambda connection: details.page(connection, tenant, after, limit))

    async def replace_details(self, tenant: str, changes: Sequence[tuple[KeptDetails, bytes]]) -> int:
        """Put others in the place of those that did not change meanwhile, durably; how many."""
        return await self._write(lambda connection: details.replace(connection, tenant, changes))

    async def tenant_size(self, tenant: str) -> tuple[int, int]:
        """How many documents a tenant has, whatever their state, and how many chunks."""
        query = select(func.count(), func.coalesce(func.sum(documents.c.chunk_count), 0)).where(
            documents.c.tenant == tenant
        )
        count, chunks = await self._read(lambda connection: connection.execute(query).one())
        return int(count), int(chunks)

    # --- running -------------------------------------------------------------------------------------------------

    def _sound(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[Document]:
        """The documents of ``rows``, without those that cannot be read."""
        accesses = readers.accesses(connection, rows)
        found: list[Document] = []
        for row in rows:
            try:
                found.append(document_of(row, accesses[row.reader_set], self._cipher))
            except DataLoss:
                _log.warning("a catalog entry is left out", tenant=row.tenant, document_id=row.document_id)
        return found

    def _reader_set(self, connection: Connection, tenant: str, access: Access) -> int:
        known = self._reader_sets.get((tenant, access))
        return known if known is not None else readers.number_of(connection, tenant, access)

    async def _read(self, work: Callable[[Connection], _T]) -> _T:
        def read() -> _T:
            with self._engine.begin() as connection:
                return work(connection)

        return await _answer(asyncio.get_running_loop().run_in_executor(self._readers, read))

    async def _write(self, work: Callable[[Connection], _T]) -> _T:
        return await _answer(self._writes.run(work))


async def _answer(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        if is_full(error):
            raise DiskFull("the catalog", metadata={"dependency": "catalog"}) from error
        raise Unavailable("the catalog did not answer", metadata={"dependency": "catalog"}) from error


def _no_collection(name: str) -> NotFound:
    return NotFound(f"there is no collection {name}", reason="COLLECTION_NOT_FOUND", metadata={"collection": name})
