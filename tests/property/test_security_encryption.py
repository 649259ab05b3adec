"""What holds for all rows, flips, and histories of rotation, interruption and shredding."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.corpus.errors import FailedPrecondition
from services.security.encryption import KeyRecord, KeysShredded, SealBroken, frame
from services.security.key_stores import MemoryKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import MasterKeyChain, SecretMasterKey
from services.security.resealing import Resealer, SealedItem
from services.security.sealed import Sealer, field_of

TENANTS = ("acme", "bolt", "acme\0bolt")
NAMES = st.text(max_size=6) | st.sampled_from(["d", "d1", "1", "text", "text1", ""])
ROWS = st.tuples(
    st.sampled_from(TENANTS), NAMES, st.integers(0, 12) | st.integers(-(2**70), 2**70), NAMES, st.binary(max_size=80)
)
RING = Keyring(SecretMasterKey.generate(), MemoryKeyStore())
SEALER = Sealer(RING)


@settings(deadline=None, max_examples=150)
@given(rows=st.lists(ROWS, min_size=2, max_size=8, unique_by=lambda row: row[:4]))
def test_no_row_opens_with_the_value_of_another(rows: list[tuple[str, str, int, str, bytes]]) -> None:
    tokens = [SEALER.seal(*row) for row in rows]
    for i, (*place, plaintext) in enumerate(rows):
        tenant, document_id, version, field = row_place(place)
        for j, token in enumerate(tokens):
            if i == j:
                assert SEALER.open(tenant, document_id, version, field, token) == plaintext
            else:
                with pytest.raises(SealBroken):
                    SEALER.open(tenant, document_id, version, field, token)


def row_place(place: Sequence[object]) -> tuple[str, str, int, str]:
    tenant, document_id, version, field = place
    assert isinstance(tenant, str)
    assert isinstance(document_id, str)
    assert isinstance(version, int)
    assert isinstance(field, str)
    return tenant, document_id, version, field


@settings(deadline=None, max_examples=300)
@given(plaintext=st.binary(max_size=80), data=st.data())
def test_no_value_opens_with_a_bit_flipped_or_a_piece_missing_or_added(plaintext: bytes, data: st.DataObject) -> None:
    token = SEALER.seal("acme", "d", 1, "f", plaintext)
    bit = data.draw(st.integers(0, len(token) * 8 - 1), "bit")
    flipped = bytearray(token)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(token) - 1), "cut")
    for damaged in (bytes(flipped), token[:cut], token + data.draw(st.binary(min_size=1, max_size=20), "added")):
        with pytest.raises(SealBroken):
            SEALER.open("acme", "d", 1, "f", damaged)


@settings(deadline=None, max_examples=300)
@given(token=st.binary(max_size=200), forged=st.booleans())
def test_no_invented_value_opens(token: bytes, forged: bool) -> None:
    RING.for_tenant("acme")
    with pytest.raises(SealBroken):
        SEALER.open("acme", "d", 1, "f", b"\x01\0\0\0\x01\x80" + token if forged else token)


@given(one=st.lists(NAMES, max_size=4), other=st.lists(NAMES, max_size=4))
def test_different_parts_never_give_the_same_frame_or_field(one: list[str], other: list[str]) -> None:
    assert (frame(*one) == frame(*other)) == (one == other)
    assert (field_of(*one) == field_of(*other)) == (one == other)


@settings(deadline=None)
@given(terms=st.lists(st.text(max_size=8), max_size=20))
def test_keyed_terms_are_equal_exactly_where_the_terms_are(terms: list[str]) -> None:
    keyed = KeyedTerms(RING)
    hashed, others = keyed.hash("acme", terms), keyed.hash("bolt", terms)
    assert [hashed.index(term) for term in hashed] == [terms.index(term) for term in terms]
    assert not set(hashed) & set(others)
    assert KeyedTerms(RING).hash("acme", reversed(terms)) == hashed[::-1]


class BrokenOffError(Exception):
    pass


class Items:
    """A tenant's rows, in which a re-encryption may break off after some calls."""

    def __init__(self, tenant: str) -> None:
        self.name = f"rows of {tenant}"
        self.rows: dict[str, SealedItem] = {}
        self.calls_left: int | None = None

    def _call(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise BrokenOffError

    async def page(self, tenant: str, *, after: str, limit: int) -> Sequence[SealedItem]:
        self._call()
        return [self.rows[key] for key in sorted(self.rows) if key > after][:limit]

    async def replace(self, tenant: str, changes: Sequence[tuple[SealedItem, bytes]]) -> int:
        return sum([self._replace(item, token) for item, token in changes])

    def _replace(self, item: SealedItem, token: bytes) -> bool:
        self._call()
        if self.rows[item.key].token != item.token:
            return False
        self.rows[item.key] = replace(item, token=token)
        return True


class Histories(RuleBasedStateMachine):
    """Two processes share a key store; whatever they do in whatever order, living tenants' rows stay readable.

    Only shredding takes readability away: at once where it was done, within half a second in the other process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000.0
        self.store = MemoryKeyStore()
        self.masters = [SecretMasterKey.generate()]
        self.items = {tenant: Items(tenant) for tenant in TENANTS}
        self.shredded: dict[str, float] = {}
        self.expected: dict[str, dict[str, list[str]]] = {tenant: {} for tenant in TENANTS}

    def now(self) -> float:
        return self.time

    def process(self) -> Keyring:
        return Keyring(MasterKeyChain(*self.masters), self.store, clock=self.now, now=self.now)

    @initialize()
    def start(self) -> None:
        self.rings = [self.process(), self.process()]

    def alive(self, tenant: str) -> bool:
        return tenant not in self.shredded

    @rule(tenant=st.sampled_from(TENANTS), which=st.integers(0, 1), key=st.integers(0, 5))
    def write(self, tenant: str, which: int, key: int) -> None:
        name = f"k{key}"
        if not self.alive(tenant):
            return
        token = Sealer(self.rings[which]).seal(tenant, name, 1, "f", name.encode())
        self.items[tenant].rows[name] = SealedItem(name, name, 1, "f", token)

    @rule(seconds=st.sampled_from([0.1, 0.6, 61.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.rings[which] = self.process()

    @rule(tenant=st.sampled_from(TENANTS), which=st.integers(0, 1))
    def rotate(self, tenant: str, which: int) -> None:
        if self.alive(tenant) and self.store.get(tenant):
            self.rings[which].rotate_tenant(tenant)

    @rule(tenant=st.sampled_from(TENANTS), which=st.integers(0, 1), calls=st.none() | st.integers(0, 12))
    def reseal_and_retire(self, tenant: str, which: int, calls: int | None) -> None:
        if not self.alive(tenant) or not self.store.get(tenant):
            return
        ring, items = self.rings[which], self.items[tenant]
        items.calls_left = calls
        resealer = Resealer(ring, Sealer(ring), self.store, page_size=2, now=self.now)
        try:
            report = asyncio.run(resealer.run(tenant, items))
            ring.retire(tenant, clean_since=report.clean_since)
        except BrokenOffError:
            assert calls is not None
        except FailedPrecondition:
            pass  # the newest key is too young
        else:
            record = self.store.get(tenant)
            assert record is not None
            assert len(record.keys) == 2

    @rule(which=st.integers(0, 1), stop_after=st.none() | st.integers(0, 3))
    def rotate_master(self, which: int, stop_after: int | None) -> None:
        new = SecretMasterKey.generate()
        # As an operator does: all processes learn the new key first.
        self.masters.insert(0, new)
        self.rings = [self.process(), self.process()]

        def stop(progress: object) -> None:
            nonlocal stop_after
            if stop_after is not None:
                stop_after -= 1
                if stop_after < 0:
                    raise BrokenOffError

        try:
            self.rings[which].rewrap_all(progress=stop)
        except BrokenOffError:
            return
        in_use = {key.master_key_id for record in self.rings[which].list_tenants() for key in record.keys}
        assert in_use <= {new.key_id}
        self.masters = [new]
        self.rings = [self.process(), self.process()]

    @precondition(lambda self: len(self.shredded) < 2)
    @rule(tenant=st.sampled_from(TENANTS), which=st.integers(0, 1))
    def shred(self, tenant: str, which: int) -> None:
        if self.alive(tenant) and self.store.get(tenant):
            self.rings[which].shred(tenant)
            self.shredded[tenant] = self.time
            for item in self.items[tenant].rows.values():
                with pytest.raises(KeysShredded):
                    Sealer(self.rings[which]).open(tenant, item.key, 1, "f", item.token)

    @invariant()
    def living_rows_are_readable_and_others_are_not(self) -> None:
        for tenant, items in self.items.items():
            for item in items.rows.values():
                for ring in self.rings:
                    if self.alive(tenant):
                        assert Sealer(ring).open(tenant, item.key, 1, "f", item.token) == item.key.encode()
                    elif self.time - self.shredded[tenant] >= 0.5:
                        with pytest.raises(KeysShredded):
                            Sealer(ring).open(tenant, item.key, 1, "f", item.token)

    @invariant()
    def hashes_never_change(self) -> None:
        for tenant in TENANTS:
            record: KeyRecord | None = self.store.get(tenant)
            if record is not None and self.alive(tenant):
                hashes = [KeyedTerms(ring).hash(tenant, ["fox"]) for ring in self.rings]
                known = self.expected[tenant].setdefault("fox", hashes[0])
                assert hashes == [known, known]


TestHistories = Histories.TestCase
TestHistories.settings = settings(deadline=None, max_examples=50, stateful_step_count=25)


@settings(deadline=None, max_examples=50)
@given(context=st.dictionaries(NAMES, NAMES, max_size=3), other=st.dictionaries(NAMES, NAMES, max_size=3))
def test_a_wrapped_key_is_bound_to_its_whole_context(context: dict[str, str], other: dict[str, str]) -> None:
    assume(context != other)
    master = SecretMasterKey.generate()
    wrapped = master.wrap(b"key", context)
    assert master.unwrap(wrapped, context) == b"key"
    with pytest.raises(Exception, match="does not verify"):
        master.unwrap(wrapped, other)
