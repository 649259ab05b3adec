"""Collections and documents for tests of catalogs, and who may read them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.catalog.ports import Catalog
from services.corpus.document import Collection, Document, DocumentState, MediaType
from services.corpus.principal import EVERYBODY, Access

NOW = datetime(2026, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)
ALICE = frozenset({EVERYBODY, "user:alice", "group:hr"})
BOB = frozenset({EVERYBODY, "user:bob"})
TO_ALICE = Access(frozenset({"user:alice"}))
TO_HR = Access(frozenset({"group:hr", "user:carol"}))
TO_ALL = Access(frozenset({EVERYBODY}))
TO_NOBODY = Access(frozenset())


def collection(name: str = "c", tenant: str = "t", **changes: Any) -> Collection:
    """A collection with a few fields as ``changes`` say."""
    made = Collection(tenant, name, "model-a", 384, None, None, NOW)
    return replace(made, **changes)


def document(
    document_id: str = "d", version: int = 1, *, tenant: str = "t", access: Access = TO_ALL, **changes: Any
) -> Document:
    """A document with a few fields as ``changes`` say."""
    made = Document(
        tenant=tenant,
        collection="c",
        document_id=document_id,
        version=version,
        title=f"{document_id} v{version}",
        uri=f"https://example.org/{document_id}",
        media_type=MediaType.MARKDOWN,
        metadata={"year": 2024.0},
        access=access,
        owner="user:alice",
        state=DocumentState.ACTIVE,
        content_sha256="ab" * 32,
        chunk_count=3,
        create_time=NOW,
        update_time=NOW,
    )
    return replace(made, **changes)


async def put(catalog: Catalog, made: Document) -> Document:
    """Plan and activate a version; return the document with the version that it got."""
    plan = await catalog.plan_version(made.tenant, made.collection, made.document_id, made.access)
    planned = replace(made, version=plan.version)
    assert await catalog.activate_version(planned)
    return planned
