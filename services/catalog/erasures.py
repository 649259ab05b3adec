"""Deletions and their receipts in a SQL catalog. Statements only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from services.catalog.conditions import counter_key, document_key
from services.catalog.rows import from_micros, to_micros
from services.catalog.schema import documents, erasures, version_counters
from services.corpus.document import DocumentState
from services.corpus.erasure import Erasure, ErasureStep, begin


def forget(
    connection: Connection,
    key: tuple[str, str, str],
    *,
    owner: str | None,
    stores: Sequence[str],
    receipt_id: str,
    now: datetime,
) -> Erasure | None:
    """Remove the entry of the active document ``key`` and keep the erasure that this begins; None if there is none."""
    whose = () if owner is None else (documents.c.owner == owner,)
    active = (*document_key(*key), documents.c.state == DocumentState.ACTIVE.value, *whose)
    entry = connection.execute(select(documents.c.owner, documents.c.version, documents.c.chunk_count).where(*active))
    found = entry.one_or_none()
    if found is None:
        return None
    tenant, collection, document_id = key
    counter = counter_key(*key)
    planned = connection.execute(select(version_counters.c.last_version).where(*counter)).scalar_one_or_none()
    begun = begin(
        receipt_id=receipt_id,
        tenant=tenant,
        collection=collection,
        document_id=document_id,
        owner=found.owner,
        version=found.version,
        last_version=max(planned or 0, found.version),
        chunks=found.chunk_count,
        stores=stores,
        now=now,
    )
    connection.execute(delete(documents).where(*active))
    connection.execute(update(version_counters).where(*counter).values(void_until=version_counters.c.last_version))
    connection.execute(insert(erasures).values(_values_of(begun)))
    return begun


def find(connection: Connection, tenant: str, receipt_id: str) -> Erasure | None:
    """See the port."""
    query = select(erasures).where(erasures.c.tenant == tenant, erasures.c.receipt_id == receipt_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _erasure_of(row)


def last(connection: Connection, key: tuple[str, str, str], owner: str | None) -> Erasure | None:
    """See the port."""
    tenant, collection, document_id = key
    columns = erasures.c
    whose = () if owner is None else (columns.owner == owner,)
    named = columns.tenant == tenant, columns.collection == collection, columns.document_id == document_id
    # Each deletion has versions of its own, and later ones have higher ones; times may be equal.
    query = select(erasures).where(*named, *whose).order_by(columns.before_version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _erasure_of(row)


def unfinished(connection: Connection, after: str, limit: int) -> list[Erasure]:
    """See the port."""
    query = (
        select(erasures)
        .where(erasures.c.complete_time.is_(None), erasures.c.receipt_id > after)
        .order_by(erasures.c.receipt_id)
        .limit(limit)
    )
    return [_erasure_of(row) for row in connection.execute(query)]


def record(connection: Connection, before: Erasure, after: Erasure) -> bool:
    """See the port."""
    changed = connection.execute(
        update(erasures)
        .where(
            erasures.c.tenant == before.tenant,
            erasures.c.receipt_id == before.receipt_id,
            erasures.c.steps == _dump_steps(before.steps),
        )
        .values(steps=_dump_steps(after.steps), complete_time=_micros(after.complete_time))
    )
    return changed.rowcount == 1


def _values_of(erasure: Erasure) -> dict[str, Any]:
    return {
        "receipt_id": erasure.receipt_id,
        "tenant": erasure.tenant,
        "collection": erasure.collection,
        "document_id": erasure.document_id,
        "owner": erasure.owner,
        "before_version": erasure.before_version,
        "unsettled": erasure.unsettled,
        "block_time": to_micros(erasure.block_time),
        "steps": _dump_steps(erasure.steps),
        "complete_time": _micros(erasure.complete_time),
    }


def _erasure_of(row: Row[Any]) -> Erasure:
    return Erasure(
        receipt_id=row.receipt_id,
        tenant=row.tenant,
        collection=row.collection,
        document_id=row.document_id,
        owner=row.owner,
        before_version=row.before_version,
        unsettled=row.unsettled,
        block_time=from_micros(row.block_time),
        steps=tuple(
            ErasureStep(place, removed, remaining, _moment(complete))
            for place, removed, remaining, complete in json.loads(row.steps)
        ),
        complete_time=_moment(row.complete_time),
    )


def _dump_steps(steps: Sequence[ErasureStep]) -> str:
    return json.dumps([[step.place, step.removed, step.remaining, _micros(step.complete_time)] for step in steps])


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(moment)


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
