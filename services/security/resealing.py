"""Re-encryption online: after a tenant's key was rotated, seal again what is still under older keys.

The driver goes through a port's items page by page, in passes, until one whole pass finds nothing left. It saves its
place after every page, so it may be ended at any moment and continues there; doing a page twice does no harm. Items
that a writer changes at the same time are left to the writer (compare and set) and looked at again in the next pass.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import field as attribute
from typing import Protocol

from services.corpus.errors import Unavailable
from services.security.encryption import Checkpoints, SealBroken
from services.security.keyring import Keyring
from services.security.sealed import Sealer

_PASSES = 20


@dataclass(frozen=True, slots=True)
class SealedItem:
    """One sealed value and its place. ``key`` is unique among a tenant's items of one port, and orders them."""

    key: str
    document_id: str
    version: int
    field: str
    token: bytes = attribute(repr=False)


class SealedItems(Protocol):
    """A place that keeps sealed values, such as the chunks of a store. Methods may raise Unavailable."""

    @property
    def name(self) -> str:
        """Names the progress that is saved; it never changes."""

    async def page(self, tenant: str, *, after: str, limit: int) -> Sequence[SealedItem]:
        """At most ``limit`` items in the order of their keys, those after ``after``; an empty page is the end.

        Items that exist from the beginning of a walk to its end are all met, whatever is written meanwhile.
        """

    async def replace(self, tenant: str, changes: Sequence[tuple[SealedItem, bytes]]) -> int:
        """Store each token in the place of its item's, durably, unless something else is there by now, or nothing.

        Returns how many were stored.
        """


@dataclass(frozen=True, slots=True)
class ResealProgress:
    """How far a re-encryption came.

    ``key_number`` is the data key that everything shall be sealed under, ``walk`` counts passes from 1 and ``after``
    is the last key done in this one. ``resealed`` counts over all passes; ``checked``, ``left`` (found under an older
    key) and ``broken`` (refused, and left as they are) in the present pass, which began at ``began``.
    """

    key_number: int
    walk: int
    began: float
    after: str = ""
    checked: int = 0
    left: int = 0
    broken: int = 0
    resealed: int = 0


@dataclass(frozen=True, slots=True)
class ResealReport:
    """What a re-encryption did; ``clean_since`` is what ``Keyring.retire`` asks for (the least over all places)."""

    key_number: int
    checked: int
    resealed: int
    broken: int
    clean_since: float


class Resealer:
    """Drives re-encryption. One run per tenant and place at a time; two would only do the work twice."""

    def __init__(
        self,
        keyring: Keyring,
        sealer: Sealer,
        checkpoints: Checkpoints,
        *,
        page_size: int = 128,
        pause: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``pause`` is seconds between passes, from the second on: writers may not know the newest key yet."""
        self._keyring = keyring
        self._sealer = sealer
        self._checkpoints = checkpoints
        self._page_size = page_size
        self._pause = pause
        self._now = now

    async def run(
        self, tenant: str, items: SealedItems, progress: Callable[[ResealProgress], None] | None = None
    ) -> ResealReport:
        """Seal all of the tenant's ``items`` under its newest key; continue where an earlier run was ended.

        ``progress`` is told after each page. Raises KeysShredded, and Unavailable when writers that do not know the
        newest key keep it from coming to an end; everything done until then stays done.
        """
        task = f"reseal/{items.name}"
        newest = (await self._keyring.load(tenant)).newest
        state = _read(await asyncio.to_thread(self._checkpoints.load_checkpoint, tenant, task))
        if state is None or state.key_number != newest:
            state = ResealProgress(newest, 1, self._now())
        while state.walk <= _PASSES:
            page = await items.page(tenant, after=state.after, limit=self._page_size)
            newest = (await self._keyring.load(tenant)).newest
            if newest != state.key_number:
                # Rotated again meanwhile: what this run has done is out of date, except that it did no harm.
                state = ResealProgress(newest, 1, self._now(), resealed=state.resealed)
                continue
            if page:
                state = await self._do(tenant, items, page, state)
            elif state.left:
                if state.walk > 1:
                    await asyncio.sleep(self._pause)
                state = ResealProgress(newest, state.walk + 1, self._now(), resealed=state.resealed)
            else:
                await asyncio.to_thread(self._checkpoints.save_checkpoint, tenant, task, None)
                return ResealReport(newest, state.checked, state.resealed, state.broken, state.began)
            await asyncio.to_thread(self._checkpoints.save_checkpoint, tenant, task, json.dumps(asdict(state)))
            if progress is not None:
                progress(state)
        await asyncio.to_thread(self._checkpoints.save_checkpoint, tenant, task, None)
        raise Unavailable("data is still being sealed under an older key; run the re-encryption again later")

    async def _do(
        self, tenant: str, items: SealedItems, page: Sequence[SealedItem], state: ResealProgress
    ) -> ResealProgress:
        tokens = await asyncio.to_thread(lambda: [self._reseal(tenant, item) for item in page])
        changes = [
            (item, token)
            for item, token in zip(page, tokens, strict=True)
            if token is not None and token is not item.token
        ]
        # One call for a page: each is a wait for a disk.
        replaced = await items.replace(tenant, changes) if changes else 0
        return replace(
            state,
            after=page[-1].key,
            checked=state.checked + len(page),
            left=state.left + len(changes),
            broken=state.broken + tokens.count(None),
            resealed=state.resealed + replaced,
        )

    def _reseal(self, tenant: str, item: SealedItem) -> bytes | None:
        """The item's token if it is up to date, a new one if not, None if it cannot be opened."""
        if not self._sealer.needs_reseal(tenant, item.token):
            return item.token
        try:
            return self._sealer.reseal(tenant, item.document_id, item.version, item.field, item.token)
        except SealBroken:
            return None


def _read(saved: str | None) -> ResealProgress | None:
    if saved is None:
        return None
    try:
        return ResealProgress(**json.loads(saved))
    except (ValueError, TypeError):
        # Saved by a release that counted differently: begin again, which only costs time.
        return None
