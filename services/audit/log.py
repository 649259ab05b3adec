"""The audit log: events, their hash chain and Merkle tree, and signed checkpoints, in two journals.

An event is acknowledged when it is durable; a checkpoint is shown to others when it is. Starting reads everything: a
torn tail behind the last checkpoint is cut off, damage to anything that a checkpoint covers refuses the start.

Appending is idempotent by event id for the last ``remembered`` events (about 200 bytes of memory each, rebuilt at the
start): repeating one of them changes nothing; an older one would be written once more. An id that is repeated with
other contents is refused: those are written under an id of their own, with the reason EVENT_ID_REPEATED, so that an id
which another process wrote ahead takes no event out of the log.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import structlog

from services.audit.event import AuditEvent, Stage, decode, encode
from services.audit.merkle import HASH_SIZE, MerkleTree, hash_leaf
from services.audit.note import Checkpoint, Note, NoteError, Signer
from services.audit.records import (
    FIRST_CHAIN,
    SignedCheckpoint,
    extend_chain,
    read_checkpoint,
    read_event,
    write_checkpoint,
)
from services.corpus.errors import DataLoss, NotFound, Unavailable
from services.journal.journal import Journal
from services.journal.ports import Files
from services.journal.segments import Trimmed

REMEMBERED = 100_000
REPEATED = "EVENT_ID_REPEATED"
"""Begins the reason of an event whose id was another event's."""
# Leaves room for what is put behind it: an id has 128 characters at most.
_ID_KEPT = 96
_log = structlog.get_logger(__name__)
_Added = tuple[str, str, int, bytes, bytes]  # event id, tenant, time, leaf hash, chain
# What an array holds at most, in nanoseconds: the year 2554.
_MAX_TIME = 2**64 - 1


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event in its place."""

    index: int
    event: AuditEvent
    leaf_hash: bytes


class AuditLog:
    """See the module. Belongs to one event loop."""

    def __init__(self, signer: Signer, *, remembered: int = REMEMBERED, now: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._remembered = remembered
        self._now = now
        self._tree = MerkleTree()
        self._chain = self._durable_chain = FIRST_CHAIN
        self._lives = 0
        self._roots: dict[int, bytes] = {}
        self._places: dict[str, int] = {}
        self._pending: dict[str, tuple[int, bytes]] = {}  # place and leaf hash
        self._by_tenant: dict[str, array[int]] = {}
        # Beside each place the latest time up to there: events are written in about the order of their times, not in it.
        self._latest: dict[str, array[int]] = {}
        self._next = 0  # the index behind everything that was handed to the journal
        self._last: SignedCheckpoint | None = None
        self._grown = asyncio.Event()
        self._signing = asyncio.Lock()
        self._journal: Journal
        self._checkpoints: Journal

    @classmethod
    async def open(
        cls,
        events: Files,
        checkpoints: Files,
        signer: Signer,
        *,
        remembered: int = REMEMBERED,
        now: Callable[[], float] = time.time,
    ) -> Self:
        """Read and check the whole log; DataLoss says where it is damaged. Takes the files over."""
        log = cls(signer, remembered=remembered, now=now)
        try:
            log._checkpoints = await Journal.open(checkpoints, replay=log._replay_checkpoint)
        except BaseException:
            events.release()
            raise
        try:
            covered = log._last.checkpoint.size if log._last else 0
            log._check_root(0)
            log._journal = await Journal.open(events, replay=log._replay_event, covered=covered)
            log._next = log._tree.size
        except BaseException:
            await log._checkpoints.close()
            raise
        return log

    @property
    def size(self) -> int:
        """How many events are durable."""
        return self._tree.size

    @property
    def covered(self) -> int:
        """How many of them a checkpoint covers."""
        return self._last.checkpoint.size if self._last else 0

    @property
    def last(self) -> SignedCheckpoint | None:
        """The newest checkpoint."""
        return self._last

    @property
    def trimmed(self) -> tuple[Trimmed, ...]:
        """What was cut off at the start."""
        return tuple(cut for cut in (self._journal.trimmed, self._checkpoints.trimmed) if cut)

    @property
    def failure(self) -> Unavailable | None:
        """Why nothing can be written; None while all is well."""
        return self._journal.failure or self._checkpoints.failure

    async def append(self, events: Sequence[AuditEvent]) -> list[int]:
        """Make events durable, in order; their indexes. Unavailable if that fails: then repeat all of them."""
        if self._checkpoints.failure is not None:
            # What no checkpoint could cover would not be protected: both are writable, or nothing is.
            raise Unavailable(self._checkpoints.failure.message)
        indexes: list[int] = []
        payloads: list[bytes] = []
        added: list[_Added] = []
        begun: dict[str, tuple[int, bytes]] = {}
        repeated: list[str] = []
        chain, place, lives = self._chain, self._next, self._lives
        for given in events:
            event = given
            known = self._known(event, begun)
            if known is None and self._is_taken(event.event_id, begun):
                repeated.append(event.event_id)
                event = _under_an_id_of_its_own(event)
                known = self._known(event, begun)
            if known is None:
                leaf = encode(event)
                leaf_hash = hash_leaf(leaf)
                chain = extend_chain(chain, leaf_hash)
                payloads.append(chain + leaf)
                added.append((event.event_id, event.tenant, event.time, leaf_hash, chain))
                known = place
                begun[event.event_id] = place, leaf_hash
                place += 1
            indexes.append(known)
        if payloads:
            done = self._journal.submit(payloads)
            self._chain, self._next = chain, place
            self._pending |= begun
            # In the order of the writes, whether or not their callers are still there to wait.
            done.add_done_callback(lambda ended: self._written(ended, added))
            for event_id in repeated:
                _log.error("an event's id was repeated with other contents", event_id=event_id)
            await asyncio.shield(done)
        # What was repeated may still be on its way to the disk.
        while indexes and self._tree.size <= max(indexes):
            if lives != self._lives or self.failure is not None:
                raise Unavailable("the events could not be made durable")
            await self._grown.wait()
        return indexes

    def _is_taken(self, event_id: str, begun: Mapping[str, tuple[int, bytes]]) -> bool:
        return event_id in self._places or event_id in self._pending or event_id in begun

    def _known(self, event: AuditEvent, begun: Mapping[str, tuple[int, bytes]]) -> int | None:
        """The place of this very event; None if it is new, or its id is another event's."""
        place = self._places.get(event.event_id)
        if place is not None:
            leaf_hash = self._tree.leaf(place)
        else:
            found = self._pending.get(event.event_id) or begun.get(event.event_id)
            if found is None:
                return None
            place, leaf_hash = found
        # Who closes what a killed process began cannot know whether its end was written already: then nothing is new.
        if event.stage is Stage.INTERRUPTED or hash_leaf(encode(event)) == leaf_hash:
            return place
        return None

    async def sign(self) -> SignedCheckpoint | None:
        """Cover everything that is durable with a checkpoint, if something new is; the newest one."""
        async with self._signing:
            if self._tree.size > self.covered or (self._last is None and self._tree.size == 0):
                checkpoint = Checkpoint(self._signer.verifier.name, self._tree.size, self._tree.root())
                note = Note(checkpoint.body, ()).with_line(self._signer.sign(checkpoint.body))
                signed = SignedCheckpoint(checkpoint, note, round(self._now() * 1_000_000))
                await self._checkpoints.append([write_checkpoint(signed)])
                self._last = signed
            return self._last

    async def add_cosignature(self, size: int, line: str) -> None:
        """Keep a witness's signature of the checkpoint of ``size``, if that is still the newest."""
        async with self._signing:
            if self._last is None or self._last.checkpoint.size != size:
                return
            last = self._last
            signed = SignedCheckpoint(last.checkpoint, last.note.with_line(line), last.time)
            if str(signed.note) != str(last.note):
                await self._checkpoints.append([write_checkpoint(signed)])
                self._last = signed

    async def repair(self) -> None:
        """Go on after a failed write, with fresh segments; Unavailable while that is not possible."""
        await self._checkpoints.reopen()
        if self._journal.failure is not None:
            await self._journal.reopen()

    def inclusion_proof(self, index: int, size: int | None) -> tuple[bytes, list[bytes], int]:
        """An event's leaf hash, its audit path, and the size of the tree (by default the newest checkpoint's)."""
        size = self.covered if size is None else size
        if not 0 <= index < size or size > self._tree.size:
            raise NotFound("there is no such event in a tree of that size")
        return self._tree.leaf(index), self._tree.inclusion_proof(index, size), size

    def consistency_proof(self, first: int, second: int | None) -> tuple[list[bytes], int]:
        """The proof between two sizes, and the second (by default the newest checkpoint's)."""
        second = self.covered if second is None else second
        if not 0 <= first <= second or second > self._tree.size:
            raise NotFound("there are no trees of these sizes, one within the other")
        return self._tree.consistency_proof(first, second), second

    def places_of(self, tenant: str) -> Sequence[int]:
        """The indexes of a tenant's events, in order; it grows."""
        return self._by_tenant.get(tenant, _NONE)

    def first_since(self, tenant: str, moment: int) -> int:
        """The place in :meth:`places_of` before which no event is as late as ``moment`` (nanoseconds since 1970)."""
        return bisect.bisect_left(self._latest.get(tenant, _NONE), min(moment, _MAX_TIME))

    async def read(self, indexes: Sequence[int]) -> list[LoggedEvent]:
        """The events at ``indexes``, which ascend. Neighbours are read together."""
        found: list[LoggedEvent] = []
        at = 0
        while at < len(indexes):
            first = indexes[at]
            run = at
            while run + 1 < len(indexes) and indexes[run + 1] - first < 256:
                run += 1
            wanted = set(indexes[at : run + 1])
            async for index, payload in self._journal.read(first, indexes[run] + 1):
                if index in wanted:
                    found.append(LoggedEvent(index, decode(payload[HASH_SIZE:]), self._tree.leaf(index)))
            at = run + 1
        return found

    async def grown(self, size: int) -> None:
        """Return once there are more than ``size`` events."""
        while self._tree.size <= size:
            await self._grown.wait()

    async def grown_or_failed(self, size: int) -> None:
        """Like :meth:`grown`, but Unavailable as soon as nothing can be written."""
        while self._tree.size <= size:
            if self.failure is not None:
                raise Unavailable(self.failure.message)
            await self._grown.wait()

    async def close(self) -> None:
        """Cover what is there with a last checkpoint, if possible, and give the files back."""
        try:
            if self.failure is None and self._tree.size:
                await self.sign()
        finally:
            await self._journal.close()
            await self._checkpoints.close()

    def _written(self, ended: asyncio.Future[int], added: Sequence[_Added]) -> None:
        for event_id, *_ in added:
            self._pending.pop(event_id, None)
        if ended.cancelled() or ended.exception() is not None:
            # Nothing that was handed over later is written either: go on from what is durable.
            self._next, self._chain = self._tree.size, self._durable_chain
            self._lives += 1
        else:
            for event in added:
                self._add(*event)
        self._wake()

    def _add(self, event_id: str, tenant: str, time_: int, leaf_hash: bytes, chain: bytes) -> None:
        index = self._tree.size
        self._tree.append(leaf_hash)
        self._durable_chain = chain
        if len(self._places) >= self._remembered:
            del self._places[next(iter(self._places))]
        self._places[event_id] = index
        self._by_tenant.setdefault(tenant, array("Q")).append(index)
        latest = self._latest.setdefault(tenant, array("Q"))
        latest.append(max(min(time_, _MAX_TIME), latest[-1] if latest else 0))

    def _wake(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def _replay_checkpoint(self, sequence: int, payload: bytes) -> None:
        try:
            signed = read_checkpoint(payload, (self._signer.verifier,))
        except NoteError as error:
            raise DataLoss(f"checkpoint {sequence:,} is damaged: {error}") from error
        if self._last is not None and signed.checkpoint.size < self._last.checkpoint.size:
            raise DataLoss(f"checkpoint {sequence:,} is older than the one before it")
        self._last = signed
        self._roots[signed.checkpoint.size] = signed.checkpoint.root

    def _replay_event(self, index: int, payload: bytes) -> None:
        if index != self._tree.size:
            raise DataLoss("the log's beginning is missing")
        try:
            leaf, leaf_hash, self._chain = read_event(payload, self._chain)
            event = decode(leaf)
        except (ValueError, KeyError, TypeError) as error:
            raise DataLoss(f"event {index:,} is damaged: {error}") from error
        self._add(event.event_id, event.tenant, event.time, leaf_hash, self._chain)
        self._check_root(self._tree.size)

    def _check_root(self, size: int) -> None:
        root = self._roots.pop(size, None)
        if root is not None and root != self._tree.root():
            raise DataLoss(f"the first {size:,} events are not those that a checkpoint was signed for")


def _under_an_id_of_its_own(event: AuditEvent) -> AuditEvent:
    # Made of the contents: sending them again, after a crash, changes nothing.
    digest = hash_leaf(encode(event)).hex()[:24]
    reason = f"{REPEATED}: {event.reason}" if event.reason else REPEATED
    return replace(event, event_id=f"{event.event_id[:_ID_KEPT]}.other-{digest}", reason=reason)


_NONE: Sequence[int] = array("Q")
