"""What a deletion has removed so far, place by place. Pure: ids, counts and times, nothing of what was deleted."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

CATALOG = "catalog"
"""The place where a document's entry was."""


def new_receipt_id() -> str:
    """32 hex digits that nobody can guess."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class ErasureStep:
    """What was removed from one place, and what is left there, by the last count."""

    place: str
    removed: int
    remaining: int
    complete_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Erasure:
    """A deletion: out of reach since ``block_time``, gone everywhere since ``complete_time``.

    Only versions before ``before_version`` belong to it: whoever takes the same id in again makes another document.
    ``unsettled`` says that a version had been planned after the one that was current: its chunks may still arrive.
    """

    receipt_id: str
    tenant: str
    collection: str
    document_id: str
    owner: str
    before_version: int
    unsettled: bool
    block_time: datetime
    steps: tuple[ErasureStep, ...]
    complete_time: datetime | None = None

    def counted(self, place: str, count: int, now: datetime, *, final: bool = True) -> Erasure:
        """What is known once ``count`` items were found at ``place``: what is missing since the last count was removed.

        Unless the count is ``final`` (something may still arrive), a place where nothing is left is not done yet.
        """
        steps = tuple(
            _counted(step, count, now if final else None) if step.place == place else step for step in self.steps
        )
        complete = all(step.complete_time for step in steps)
        return replace(self, steps=steps, complete_time=self.complete_time or (now if complete else None))


def begin(
    *,
    receipt_id: str,
    tenant: str,
    collection: str,
    document_id: str,
    owner: str,
    version: int,
    last_version: int,
    chunks: int,
    stores: Iterable[str],
    now: datetime,
) -> Erasure:
    """A deletion whose document the catalog has just forgotten: ``version`` with ``chunks`` in each of ``stores``.

    ``last_version`` is the last one that was planned.
    """
    steps = ErasureStep(CATALOG, 1, 0, now), *(ErasureStep(store, 0, chunks) for store in stores)
    return Erasure(
        receipt_id=receipt_id,
        tenant=tenant,
        collection=collection,
        document_id=document_id,
        owner=owner,
        before_version=last_version + 1,
        unsettled=last_version > version,
        block_time=now,
        steps=steps,
        complete_time=now if len(steps) == 1 else None,
    )


def _counted(step: ErasureStep, count: int, now: datetime | None) -> ErasureStep:
    if step.complete_time is not None:
        return step
    return ErasureStep(
        step.place, step.removed + max(0, step.remaining - count), count, now if count == 0 and now else None
    )
