"""Spools as processes leave them that could not hand anything on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from services.corpus.errors import Unavailable
from services.journal.files import DirectoryFiles
from services.journal.spool import Kind, Spool, kept


async def keep(spool: Spool, payload: bytes, kind: Kind = Kind.PLAIN, key: bytes = b"") -> None:
    """Return when ``payload`` is durable."""
    await kept(partial(spool.submit, kind, key, payload))


async def leave(directory: Path, *payloads: bytes, still_open: Sequence[bytes] = ()) -> None:
    """Make the spool in ``directory``: what is still open comes first."""
    spool = await Spool.open(DirectoryFiles.open(directory), _away, max_bytes=1 << 20)
    for key in still_open:
        await keep(spool, b"open " + key, Kind.OPENS, key)
    # So many at a time as a slow disk makes durable before a service would give up on it.
    for batch in (payloads[start : start + 100] for start in range(0, len(payloads), 100)):
        await asyncio.gather(*(keep(spool, payload) for payload in batch))
    await spool.close()


async def _away(_: Sequence[bytes]) -> None:
    raise Unavailable("away")
