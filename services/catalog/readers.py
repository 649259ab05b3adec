"""Reader sets in a SQL catalog: a number for each set of principals. Statements only."""

from __future__ import annotations

import hashlib
from collections.abc import Collection as Some
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from services.catalog.schema import reader_set_members, reader_sets
from services.corpus.principal import Access

# SQLite allows 32,766 variables in a statement, other engines fewer.
_IN_LIMIT = 500


def number_of(connection: Connection, tenant: str, access: Access) -> int:
    """The number of a set, which is made if there is none yet."""
    readers = sorted(access.readers)
    digest = hashlib.sha256("\n".join(readers).encode()).hexdigest()
    sets = reader_sets.c
    number = connection.execute(
        select(sets.number).where(sets.tenant == tenant, sets.digest == digest)
    ).scalar_one_or_none()
    if number is None:
        made = connection.execute(insert(reader_sets).values(tenant=tenant, digest=digest))
        number = (made.inserted_primary_key or (0,))[0]
        if readers:
            rows = [{"number": number, "principal": principal, "tenant": tenant} for principal in readers]
            connection.execute(insert(reader_set_members), rows)
    return int(number)


def accesses(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, Access]:
    """What the reader sets of ``rows`` stand for, by number."""
    members: dict[int, set[str]] = {row.reader_set: set() for row in rows}
    for some in batches(members.keys()):
        for member in connection.execute(select(reader_set_members).where(reader_set_members.c.number.in_(some))):
            members[member.number].add(member.principal)
    return {number: Access(frozenset(principals)) for number, principals in members.items()}


def batches(items: Some[Any]) -> Iterator[Sequence[Any]]:
    """``items`` in order, as many at a time as a statement takes."""
    pending = iter(sorted(items))
    while some := list(islice(pending, _IN_LIMIT)):
        yield some
