"""The keyring: every tenant's keys, made on first use, rotated, re-wrapped and destroyed."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from services.corpus.errors import FailedPrecondition, NotFound, Unavailable
from services.security.encryption import (
    KeyRecord,
    KeysDamaged,
    KeysShredded,
    KeyStore,
    MasterKey,
    Purpose,
    RewrapProgress,
    ShredReceipt,
    WrappedKey,
)
from services.security.master_keys import MasterKeyChain
from services.security.tenant_keys import KEY_BYTES, TenantKeys

_STRIPES = 64
_PASSES = 20


Announce = Callable[[str], Callable[[bool], None]]
"""Told of the tenant for which keys are about to be made; what it returns is told whether they were. May raise: then
none are made."""


@dataclass(frozen=True, slots=True)
class _Entry:
    record: KeyRecord
    keys: TenantKeys
    checked: float
    unwrapped: float


class Keyring:
    """Gives out tenants' keys. Safe to use from several threads; several processes may share one key store.

    Keys are used unwrapped for ``lifetime`` seconds at most, so that taking the master key away has its effect (those
    that nobody asks for are dropped a quarter of that later, while others are asked for). They are compared with the
    store whenever the last look is ``staleness`` seconds old: what another process rotates or shreds takes effect
    here within that time. If the store cannot be read then, no key is given out.

    Methods block (a database, the master key) unless they say otherwise.
    """

    def __init__(
        self,
        master: MasterKey,
        store: KeyStore,
        *,
        staleness: float = 0.5,
        lifetime: float = 300.0,
        settle: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        announce: Announce = lambda _: lambda _: None,
    ) -> None:
        """``announce`` is told of a tenant before keys are made for it. ``settle`` bounds, in seconds, how long data sealed under an outdated key may travel until it is stored."""
        self._master = master
        self._store = store
        self._staleness = staleness
        self._lifetime = lifetime
        self._settle = settle
        self._clock = clock
        self._now = now
        self._announce = announce
        self._entries: dict[str, _Entry] = {}
        # One slow master key call must not hold up the other tenants.
        self._locks = [threading.RLock() for _ in range(_STRIPES)]
        self._swept = clock()

    def for_tenant(self, tenant: str) -> TenantKeys:
        """The tenant's keys, made now if it has none: exactly once, whoever else is asking.

        Raises KeysShredded, KeysDamaged, MasterKeyMissing, Unavailable. Does not block while the cache is fresh.
        """
        keys = self._fresh(tenant) or self._load(tenant, create=True)
        if keys is None:
            raise Unavailable("the key store did not keep a new key")
        return keys

    def find_tenant(self, tenant: str, *, number: int | None = None) -> TenantKeys | None:
        """The tenant's keys, None if it has none; same errors.

        With the ``number`` of a data key that the cache does not know, the store is asked at once: another process
        may have just begun to seal with it.
        """
        keys = self._fresh(tenant)
        if keys is not None and (number is None or number in keys.numbers):
            return keys
        return self._load(tenant, create=False, at_once=keys is not None)

    async def load(self, tenant: str) -> TenantKeys:
        """:meth:`for_tenant` for an event loop: what blocks runs in a thread."""
        keys = self._fresh(tenant)
        return await asyncio.to_thread(self.for_tenant, tenant) if keys is None else keys

    def rotate_tenant(self, tenant: str) -> int:
        """Add a data key, which seals from now on, and return its number; older ones still open. NotFound."""
        return self._add(tenant, Purpose.DATA)

    def retire(self, tenant: str, *, clean_since: float) -> int:
        """Destroy all data keys but the newest; return how many. NotFound.

        ``clean_since`` (seconds since the epoch) is when the last pass began that found nothing sealed under older
        keys, in any place that keeps sealed data. FailedPrecondition if that is less than ``settle`` after the newest
        key's birth: a process that did not know of it yet could still have stored something under an older key.
        Backups of data from before cannot be read with the remaining key: retire when they have expired.
        """

        def check(newest: WrappedKey) -> None:
            if clean_since < newest.create_time + self._settle:
                raise FailedPrecondition(
                    f"the newest key is too young: {self._settle:.0f} seconds after it was made, "
                    "re-encrypt again and then retire older keys"
                )

        return self._keep_newest(tenant, Purpose.DATA, check)

    def rotate_root(self, tenant: str) -> int:
        """Add a root key and return its number; it is used only where it is named, until :meth:`retire_root`.

        Build an index beside the current one with hashes under the new root, retire the old one, switch over. NotFound.
        """
        return self._add(tenant, Purpose.ROOT)

    def retire_root(self, tenant: str) -> int:
        """Destroy all root keys but the newest, which comes into use; return how many. NotFound."""
        return self._keep_newest(tenant, Purpose.ROOT, lambda _: None)

    def rewrap_all(
        self, new_master: MasterKey | None = None, progress: Callable[[RewrapProgress], None] | None = None
    ) -> int:
        """Wrap every tenant's keys with ``new_master``, or with the newest key of the present one; return how many.

        Data stays as it is. Records say who wrapped them, so an interrupted run is resumed by calling again. Passes
        repeat until one finds nothing to do: a process that did not know of the rotation may have made a tenant
        meanwhile. While it runs, every process needs both master keys (:class:`MasterKeyChain`, or one file).
        """
        if new_master is not None:
            self._master = MasterKeyChain(new_master, self._master)
        rewrapped = 0
        for _ in range(_PASSES):
            before, target = rewrapped, self._master.key_id
            for checked, record in enumerate(self.list_tenants(), 1):
                rewrapped += self._rewrap(record.tenant, target)
                if progress is not None:
                    progress(RewrapProgress(checked, rewrapped))
            if rewrapped == before:
                if new_master is not None:
                    self._master = new_master
                return rewrapped
        raise Unavailable("keys are still being made under the old master key; rotate again when all processes know it")

    def shred(self, tenant: str) -> ShredReceipt:
        """Destroy all keys of the tenant for good; calling it again changes nothing. NotFound.

        The wrapped keys are overwritten in the store and a tombstone remains, so that no process ever makes new keys
        for the tenant. From then on (within ``staleness`` in other processes) nothing that was sealed for it can be
        read, in live data or in any backup of it, and its hashes can no longer be computed.

        One copy is out of a program's reach: a backup *of the key store* made earlier, together with the master key
        of its time, still gives the keys back. Therefore keep the key store's directory out of data backups, give its
        own backups a short life, and never restore one from before a shredding. To be certain at once, rotate the
        master key, :meth:`rewrap_all`, and destroy the old one (``ShredReceipt.master_key_ids``, ``FileMasterKey.
        forget``): what it had wrapped is then lost in every copy, on worn flash blocks too.
        """
        now = self._now()

        def change(record: KeyRecord) -> KeyRecord | None:
            return None if record.shred_time is not None else replace(record, keys=(), shred_time=now)

        before, after = self._change(tenant, change, final=True)
        masters = frozenset(key.master_key_id for key in before.keys)
        return ShredReceipt(tenant, now if after.shred_time is None else after.shred_time, len(before.keys), masters)

    def list_tenants(self) -> Iterator[KeyRecord]:
        """All records in order of tenants, tombstones too: numbers, ages and master key ids, keys only wrapped."""
        after = ""
        while page := self._store.tenants(after=after):
            yield from (record for tenant in page if (record := self._store.get(tenant)) is not None)
            after = page[-1]

    def _fresh(self, tenant: str) -> TenantKeys | None:
        entry = self._entries.get(tenant)
        return entry.keys if entry is not None and self._clock() - entry.checked < self._staleness else None

    def _load(self, tenant: str, *, create: bool, at_once: bool = False) -> TenantKeys | None:
        with self._lock_of(tenant):
            if not at_once and (keys := self._fresh(tenant)) is not None:
                return keys  # another thread was faster
            self._sweep()
            # Read the clock first: what the store says is at least as new as this.
            asked = self._clock()
            record = self._store.get(tenant)
            if record is None and create:
                record = self._create(tenant)
            entry = self._entries.pop(tenant, None)
            if record is None:
                return None
            if record.shred_time is not None:
                raise KeysShredded
            # Whole records are compared, not generations: a store restored from a backup may count anew.
            if entry is None or entry.record != record or asked - entry.unwrapped >= self._lifetime:
                entry = _Entry(record, self._unwrap(record), asked, asked)
            self._entries[tenant] = replace(entry, checked=asked)
            return entry.keys

    def _create(self, tenant: str) -> KeyRecord | None:
        record = KeyRecord(tenant, 1, (self._new_key(tenant, Purpose.DATA, 1), self._new_key(tenant, Purpose.ROOT, 1)))
        finish, made = self._announce(tenant), False
        try:
            # Of several that race, one is kept; the others read it.
            made = self._store.replace(record, expected=0)
        finally:
            finish(made)
        return record if made else self._store.get(tenant)

    def _new_key(self, tenant: str, purpose: Purpose, number: int) -> WrappedKey:
        return self._wrap(tenant, WrappedKey(purpose, number, self._now(), "", b""), secrets.token_bytes(KEY_BYTES))

    def _wrap(self, tenant: str, key: WrappedKey, secret: bytes) -> WrappedKey:
        # The id is read first. If the master key rotates in between, the record names the older one and is merely
        # wrapped once more.
        master_key_id = self._master.key_id
        wrapped = self._master.wrap(secret, key.context(tenant))
        return replace(key, master_key_id=master_key_id, wrapped=wrapped)

    def _unwrap(self, record: KeyRecord) -> TenantKeys:
        keys: dict[Purpose, dict[int, bytes]] = {purpose: {} for purpose in Purpose}
        for key in record.keys:
            keys[key.purpose][key.number] = self._unwrap_one(record.tenant, key)
        if not all(keys.values()):
            raise KeysDamaged
        return TenantKeys(record.tenant, keys[Purpose.DATA], keys[Purpose.ROOT])

    def _unwrap_one(self, tenant: str, key: WrappedKey) -> bytes:
        secret = self._master.unwrap(key.wrapped, key.context(tenant))
        if len(secret) != KEY_BYTES:
            raise KeysDamaged
        return secret

    def _rewrap(self, tenant: str, target: str) -> bool:
        def change(record: KeyRecord) -> KeyRecord | None:
            if record.shred_time is not None or all(key.master_key_id == target for key in record.keys):
                return None
            keys = (self._wrap(tenant, key, self._unwrap_one(tenant, key)) for key in record.keys)
            return replace(record, keys=tuple(keys))

        before, after = self._change(tenant, change, final=True)
        return before is not after

    def _add(self, tenant: str, purpose: Purpose) -> int:
        number = 0

        def change(record: KeyRecord) -> KeyRecord:
            nonlocal number
            known = record.of(purpose)
            number = known[-1].number + 1
            return record.with_keys(purpose, (*known, self._new_key(tenant, purpose, number)))

        self._change(tenant, change)
        return number

    def _keep_newest(self, tenant: str, purpose: Purpose, check: Callable[[WrappedKey], None]) -> int:
        def change(record: KeyRecord) -> KeyRecord | None:
            *older, newest = record.of(purpose)
            if not older:
                return None
            check(newest)
            return record.with_keys(purpose, (newest,))

        before, after = self._change(tenant, change)
        return len(before.keys) - len(after.keys)

    def _change(
        self, tenant: str, change: Callable[[KeyRecord], KeyRecord | None], *, final: bool = False
    ) -> tuple[KeyRecord, KeyRecord]:
        """Compare and set until nobody interferes; the record before and after. ``final`` allows tombstones."""
        with self._lock_of(tenant):
            while True:
                record = self._store.get(tenant)
                if record is None:
                    raise NotFound("there are no keys of that tenant")
                if record.shred_time is not None and not final:
                    raise KeysShredded
                changed = change(record)
                if changed is None:
                    return record, record
                changed = replace(changed, generation=record.generation + 1)
                if self._store.replace(changed, expected=record.generation):
                    self._entries.pop(tenant, None)
                    return record, changed

    def _lock_of(self, tenant: str) -> threading.RLock:
        return self._locks[hash(tenant) % _STRIPES]

    def _sweep(self) -> None:
        """Drop the keys that nobody asked for during a lifetime."""
        now = self._clock()
        if now - self._swept >= self._lifetime / 4:
            self._swept = now
            for tenant, entry in list(self._entries.items()):
                if now - entry.unwrapped >= self._lifetime:
                    self._entries.pop(tenant, None)
