"""Rotating a tenant's data key: a new key, everything sealed again under it, and at last the older keys destroyed.

    begin ──── a new key, which seals from now on ────► finish ──── every place, to its end ────► retire
                                                                     (a minute or more later)

Each step may be ended at any moment, and is taken up where it was by doing the same again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.corpus.errors import FailedPrecondition, NotFound, Unavailable
from services.security.encryption import Checkpoints
from services.security.keyring import Keyring
from services.security.resealing import Resealer, ResealProgress, ResealReport, SealedItems
from services.security.sealed import Sealer

_TASK = "rotation"
# Seconds between passes; with all of them, many times what a process needs to learn of a new key.
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class RotationReport:
    """What a rotation did in all places together; see :class:`ResealReport`.

    ``broken`` values were refused, and stay as they are. ``clean_since`` is the least of all places.
    """

    key_number: int
    checked: int
    resealed: int
    broken: int
    clean_since: float


class Rotation:
    """Rotates data keys of tenants whose sealed values are kept in ``places``."""

    def __init__(
        self, keyring: Keyring, sealer: Sealer, checkpoints: Checkpoints, places: Sequence[SealedItems]
    ) -> None:
        self._keyring = keyring
        self._checkpoints = checkpoints
        self._places = places
        self._resealer = Resealer(keyring, sealer, checkpoints, pause=_PAUSE)

    async def begin(self, tenant: str) -> tuple[int, bool]:
        """The number of the new data key, and whether it was made now: an unfinished rotation is not begun twice.

        Raises NotFound, KeysShredded, MasterKeyMissing, Unavailable.
        """
        return await asyncio.to_thread(self._begin, tenant)

    def _begin(self, tenant: str) -> tuple[int, bool]:
        saved = self._checkpoints.load_checkpoint(tenant, _TASK)
        newest = self._newest(tenant)
        wanted = int(saved) if saved is not None and saved.isdecimal() else newest + 1
        # What is wanted is saved first: whatever happens between here and there, no second key is made.
        self._checkpoints.save_checkpoint(tenant, _TASK, str(wanted))
        if newest >= wanted:
            return newest, False
        return self._keyring.rotate_tenant(tenant), True

    async def finish(
        self, tenant: str, progress: Callable[[SealedItems, ResealProgress], None] = lambda *_: None
    ) -> RotationReport:
        """Seal everything under the newest key. A place that does not answer does not keep the others waiting.

        Raises what the first place that failed raised (Unavailable), when all others are done; KeysShredded, NotFound.
        """
        await asyncio.to_thread(self._newest, tenant)
        reports: list[ResealReport] = []
        failures: list[Unavailable] = []
        for place in self._places:
            try:
                reports.append(await self._resealer.run(tenant, place, _told(progress, place)))
            except Unavailable as error:
                failures.append(error)
        if failures:
            raise failures[0]
        await asyncio.to_thread(self._checkpoints.save_checkpoint, tenant, _TASK, None)
        return RotationReport(
            key_number=min(report.key_number for report in reports),
            checked=sum(report.checked for report in reports),
            resealed=sum(report.resealed for report in reports),
            broken=sum(report.broken for report in reports),
            clean_since=min(report.clean_since for report in reports),
        )

    async def retire(self, tenant: str, report: RotationReport) -> int:
        """Destroy all data keys but the newest; how many. ``report`` is of a :meth:`finish` just now.

        Raises FailedPrecondition when values were refused that an older key might still open once they are put back
        to their place, or when the newest key is too young (see :meth:`Keyring.retire`).
        """
        if report.broken:
            raise FailedPrecondition(
                f"{report.broken} sealed values do not open, and without the older keys none of them ever will; "
                "put them back from a backup or take their documents in again, then retire the keys"
            )
        return await asyncio.to_thread(self._keyring.retire, tenant, clean_since=report.clean_since)

    def _newest(self, tenant: str) -> int:
        keys = self._keyring.find_tenant(tenant)
        if keys is None:
            raise NotFound("there are no keys of that tenant")
        return keys.newest


def _told(
    progress: Callable[[SealedItems, ResealProgress], None], place: SealedItems
) -> Callable[[ResealProgress], None]:
    return lambda state: progress(place, state)
