"""Sealing, keyed terms and re-encryption, case by case."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from services.corpus.chunk import Passage
from services.corpus.errors import DataLoss, FailedPrecondition, Unavailable
from services.corpus.terms import analyze
from services.security.encryption import KeysShredded, SealBroken
from services.security.key_stores import MemoryKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.resealing import Resealer, ResealProgress, SealedItem
from services.security.sealed import Place, Refusal, RefusedBecause, Sealer, field_of


class World:
    def __init__(self) -> None:
        self.time = 1_000.0
        self.store = MemoryKeyStore()
        self.master = SecretMasterKey.generate()
        self.keyring = self.another()
        self.refusals: list[Refusal] = []
        self.sealer = Sealer(self.keyring, on_refused=self.refusals.append)

    def another(self) -> Keyring:
        return Keyring(self.master, self.store, clock=self.now, now=self.now)

    def now(self) -> float:
        return self.time


@pytest.fixture
def world() -> World:
    return World()


class TestSealer:
    @pytest.mark.parametrize("plaintext", [b"", b"x", b"text" * 1000, bytes(range(256))])
    def test_what_is_sealed_opens_at_its_place(self, world: World, plaintext: bytes) -> None:
        token = world.sealer.seal("acme", "d", 3, "text", plaintext)
        assert world.sealer.open("acme", "d", 3, "text", token) == plaintext
        assert not plaintext or len(plaintext) < 4 or plaintext not in token
        assert token != world.sealer.seal("acme", "d", 3, "text", plaintext)
        assert len(token) <= len(plaintext) + 120
        assert world.refusals == []

    @pytest.mark.parametrize(
        "place",
        [
            ("acme", "d", 4, "text"),
            ("acme", "d", 3, "snippet"),
            ("acme", "e", 3, "text"),
            ("acme", "d3", 3, "text"),
            ("acme", "", 3, "dtext"),
            ("acme", "d", -3, "text"),
        ],
    )
    def test_elsewhere_it_is_refused_and_reported(self, world: World, place: tuple[str, str, int, str]) -> None:
        token = world.sealer.seal("acme", "d", 3, "text", b"secret words")
        with pytest.raises(SealBroken) as caught:
            world.sealer.open(*place, token)
        assert world.refusals == [Refusal("acme", Place(*place[1:]), RefusedBecause.MOVED)]
        assert isinstance(caught.value, DataLoss)
        assert str(caught.value) == "stored data does not verify"
        assert caught.value.__cause__ is None

    def test_at_another_tenants_it_is_refused(self, world: World) -> None:
        token = world.sealer.seal("acme", "d", 3, "text", b"secret words")
        for tenant in ("other", "acm", "acme "):
            with pytest.raises(SealBroken):
                world.sealer.open(tenant, "d", 3, "text", token)
        world.keyring.for_tenant("other")
        with pytest.raises(SealBroken):
            world.sealer.open("other", "d", 3, "text", token)
        because = [refusal.because for refusal in world.refusals]
        assert because == [RefusedBecause.UNKNOWN_KEY] * 3 + [RefusedBecause.DAMAGED]

    def test_what_was_never_sealed_is_refused_and_told_apart(self, world: World) -> None:
        plain = Passage("words", 0, 5).to_payload()
        for token in (plain, b"", b"\x01", b"\x01\0\0\0\x01", b"\x02" + plain):
            with pytest.raises(SealBroken):
                world.sealer.open("acme", "d", 3, "text", token)
        assert {refusal.because for refusal in world.refusals} == {RefusedBecause.FORMAT}

    def test_a_binding_does_not_move_to_another_key_number(self, world: World) -> None:
        old = world.sealer.seal("acme", "d", 3, "text", b"secret words")
        world.keyring.rotate_tenant("acme")
        new = world.sealer.seal("acme", "d", 3, "text", b"secret words")
        with pytest.raises(SealBroken):
            world.sealer.open("acme", "d", 3, "text", new[:5] + old[5:])
        assert world.refusals[0].because is RefusedBecause.MOVED

    def test_a_reporter_that_fails_changes_nothing(self, world: World) -> None:
        def fail(_: Refusal) -> None:
            raise RuntimeError("the audit log is full")

        with pytest.raises(SealBroken):
            Sealer(world.keyring, on_refused=fail).open("acme", "d", 3, "text", b"damaged")

    async def test_many_at_once_run_in_a_thread_and_one_broken_value_is_its_own(self, world: World) -> None:
        threads: list[threading.Thread] = []
        sealer = Sealer(world.keyring, on_refused=lambda _: threads.append(threading.current_thread()))
        places = [Place("d", 1, field_of("chunk", i)) for i in range(50)]
        tokens = await sealer.seal_many("acme", [(place, place.field.encode()) for place in places])
        tokens[7] = tokens[8]
        opened = await sealer.open_many("acme", zip(places, tokens, strict=True))
        assert isinstance(opened[7], SealBroken)
        assert [text for i, text in enumerate(opened) if i != 7] == [p.field.encode() for p in places if p != places[7]]
        assert len(threads) == 1
        assert threads[0] is not threading.main_thread()

    def test_resealing_moves_to_the_newest_key_and_keeps_the_place(self, world: World) -> None:
        token = world.sealer.seal("acme", "d", 3, "text", b"words")
        assert not world.sealer.needs_reseal("acme", token)
        world.keyring.rotate_tenant("acme")
        assert world.sealer.needs_reseal("acme", token)
        moved = world.sealer.reseal("acme", "d", 3, "text", token)
        assert not world.sealer.needs_reseal("acme", moved)
        assert world.sealer.open("acme", "d", 3, "text", moved) == b"words"
        with pytest.raises(SealBroken):
            world.sealer.reseal("acme", "d", 4, "text", token)
        assert world.sealer.needs_reseal("acme", b"never sealed")

    def test_an_outdated_process_never_seals_back_under_an_older_key(self, world: World) -> None:
        outdated = Sealer(world.another())
        outdated.seal("acme", "d", 1, "f", b"words")
        world.keyring.rotate_tenant("acme")
        newest = world.sealer.seal("acme", "d", 1, "f", b"words")
        assert not world.sealer.needs_reseal("acme", outdated.reseal("acme", "d", 1, "f", newest))


class TestKeyedTerms:
    def test_terms_keep_their_order_and_repetitions_and_nothing_else(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring)
        terms = analyze("The quick fox and the quick dog")
        hashed = keyed.hash("acme", terms)
        assert [terms.index(term) for term in terms] == [hashed.index(term) for term in hashed]
        assert {len(term) for term in hashed} == {16}
        assert not set(terms) & set(hashed)
        assert all(len(base64.urlsafe_b64decode(term)) == 12 for term in hashed)

    def test_they_are_the_same_in_every_process_of_a_tenant_and_no_other(self, world: World) -> None:
        one, other = KeyedTerms(world.keyring), KeyedTerms(world.another())
        assert one.hash("acme", ["fox"]) == other.hash("acme", ["fox"])
        assert one.hash("acme", ["fox"]) != one.hash("b", ["fox"])
        world.keyring.rotate_tenant("acme")
        assert one.hash("acme", ["fox"]) == other.hash("acme", ["fox"])

    async def test_a_query_hashes_like_what_was_indexed(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring)
        assert await keyed.hash_query("acme", ["fox", "dog"]) == keyed.hash("acme", ["fox", "dog"])

    def test_an_index_is_rebuilt_beside_the_old_one_under_a_new_root(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring)
        old = keyed.hash("acme", ["fox"])
        number = world.keyring.rotate_root("acme")
        beside = keyed.hash("acme", ["fox"], root=number)
        assert keyed.hash("acme", ["fox"]) == old != beside
        world.keyring.retire_root("acme")
        assert keyed.hash("acme", ["fox"]) == beside
        with pytest.raises(KeyError):
            keyed.hash("acme", ["fox"], root=1)

    async def test_queries_get_names_that_differ_by_tenant_and_from_terms(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring)
        name = await keyed.query_digest("acme", "fox")
        assert name == await KeyedTerms(world.another()).query_digest("acme", "fox")
        assert name != await keyed.query_digest("b", "fox")
        assert name != await keyed.query_digest("acme", "Fox")
        assert len(name) == 32
        assert not name.startswith(keyed.hash("acme", ["fox"])[0])

    async def test_nothing_is_hashed_after_a_shredding_and_the_words_are_forgotten(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring)
        keyed.hash("acme", ["fox"])
        assert len(keyed._hashers) == 1
        world.keyring.shred("acme")
        with pytest.raises(KeysShredded):
            keyed.hash("acme", ["fox"])
        with pytest.raises(KeysShredded):
            await keyed.query_digest("acme", "fox")
        assert len(keyed._hashers) == 0

    def test_the_memory_is_bounded(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring, cached_terms=10)
        first = keyed.hash("acme", (f"word{i}" for i in range(1000)))
        assert keyed.hash("acme", (f"word{i}" for i in range(1000))) == first
        [hashers] = keyed._hashers.values()
        assert hashers[1].cache_info().currsize == 10  # type: ignore[attr-defined] # the cache that wraps it

    def test_threads_agree(self, world: World) -> None:
        keyed = KeyedTerms(world.keyring)
        words = [f"word{i}" for i in range(2000)]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: keyed.hash("acme", words), range(8)))
        assert all(result == results[0] for result in results)
        assert len(set(results[0])) == len(words)


class Items:
    """Sealed values in a dictionary. ``before`` is called before each page and each replacement."""

    name = "items"

    def __init__(self, sealer: Sealer, count: int) -> None:
        self.sealer = sealer
        self.before: Callable[[str, str], Awaitable[None] | None] = lambda *_: None
        self.rows: dict[str, SealedItem] = {}
        for i in range(count):
            self.write(f"k{i:04}")

    def write(self, key: str, sealer: Sealer | None = None) -> None:
        token = (sealer or self.sealer).seal("acme", key, 1, "f", key.encode())
        self.rows[key] = SealedItem(key, key, 1, "f", token)

    async def page(self, tenant: str, *, after: str, limit: int) -> Sequence[SealedItem]:
        assert tenant == "acme"
        self.before("page", after)
        return [self.rows[key] for key in sorted(self.rows) if key > after][:limit]

    async def replace(self, tenant: str, changes: Sequence[tuple[SealedItem, bytes]]) -> int:
        assert tenant == "acme"
        return sum([self._replace(item, token) for item, token in changes])

    def _replace(self, item: SealedItem, token: bytes) -> bool:
        self.before("replace", item.key)
        known = self.rows.get(item.key)
        if known is None or known.token != item.token:
            return False
        self.rows[item.key] = replace(known, token=token)
        return True

    def check(self, sealer: Sealer) -> None:
        for key, item in self.rows.items():
            assert sealer.open("acme", key, 1, "f", item.token) == key.encode()
            assert not sealer.needs_reseal("acme", item.token)


class StopError(Exception):
    pass


class TestResealer:
    @pytest.fixture
    def resealer(self, world: World) -> Resealer:
        return Resealer(world.keyring, world.sealer, world.store, page_size=10, now=world.now)

    async def test_all_is_sealed_anew_then_a_clean_pass_allows_the_old_key_to_go(
        self, world: World, resealer: Resealer
    ) -> None:
        items = Items(world.sealer, 25)
        world.keyring.rotate_tenant("acme")
        seen: list[ResealProgress] = []
        report = await resealer.run("acme", items, seen.append)
        assert (report.key_number, report.checked, report.resealed, report.broken) == (2, 25, 25, 0)
        assert [state.resealed for state in seen] == [10, 20, 25, 25, 25, 25, 25]
        assert [state.walk for state in seen] == [1, 1, 1, 2, 2, 2, 2]
        items.check(world.sealer)
        with pytest.raises(FailedPrecondition):
            world.keyring.retire("acme", clean_since=report.clean_since)
        world.time += 60
        report = await resealer.run("acme", items)
        assert (report.checked, report.resealed) == (25, 0)
        assert world.keyring.retire("acme", clean_since=report.clean_since) == 1
        items.check(Sealer(world.another()))

    async def test_an_empty_place_is_clean(self, world: World, resealer: Resealer) -> None:
        report = await resealer.run("acme", Items(world.sealer, 0))
        assert (report.checked, report.resealed, report.clean_since) == (0, 0, world.time)

    @pytest.mark.parametrize("stop_at", [0, 1, 7, 11, 23, 28])
    async def test_an_interrupted_run_continues_where_it_was(
        self, world: World, resealer: Resealer, stop_at: int
    ) -> None:
        items = Items(world.sealer, 25)
        world.keyring.rotate_tenant("acme")
        calls: list[tuple[str, str]] = []

        def stop(*call: str) -> None:
            calls.append((call[0], call[1]))
            if len(calls) == stop_at + 1:
                raise StopError

        items.before = stop
        with pytest.raises(StopError):
            await resealer.run("acme", items)
        done = sum(not world.sealer.needs_reseal("acme", item.token) for item in items.rows.values())
        stopped = len(calls)
        await Resealer(world.another(), world.sealer, world.store, page_size=10, now=world.now).run("acme", items)
        items.check(world.sealer)
        # No item was sealed twice, and it did not begin again from the first page unless it was still on it.
        assert sum(call[0] == "replace" for call in calls[stopped:]) == 25 - done
        assert calls[stopped][1] == ("" if done < 10 else "k0009" if done < 20 else "k0019" if done < 25 else "k0024")
        assert world.store.load_checkpoint("acme", "reseal/items") is None

    async def test_writers_win_and_what_they_leave_is_done_in_the_next_pass(
        self, world: World, resealer: Resealer
    ) -> None:
        items = Items(world.sealer, 25)
        outdated = Sealer(world.another())
        items.write("k0003", outdated)
        world.keyring.rotate_tenant("acme")
        written: list[str] = []

        def write(what: str, key: str) -> None:
            if what == "replace" and not written:
                # Between reading and replacing, a process that has not heard of the rotation writes these; one of
                # them lies behind the present page.
                for other in (key, "k0003", "a new one"):
                    items.write(other, outdated)
                del items.rows["k0020"]
                written.append(key)

        items.before = write
        report = await resealer.run("acme", items)
        assert written
        assert (report.checked, report.broken) == (25, 0)
        items.check(world.sealer)

    async def test_a_rotation_in_the_middle_starts_over(self, world: World, resealer: Resealer) -> None:
        items = Items(world.sealer, 25)
        world.keyring.rotate_tenant("acme")

        def rotate(what: str, key: str) -> None:
            if (what, key) == ("replace", "k0012") and world.keyring.for_tenant("acme").newest == 2:
                world.keyring.rotate_tenant("acme")

        items.before = rotate
        report = await resealer.run("acme", items)
        assert report.key_number == 3
        items.check(world.sealer)

    async def test_damaged_items_are_left_counted_and_reported(self, world: World, resealer: Resealer) -> None:
        items = Items(world.sealer, 25)
        items.rows["k0004"] = replace(items.rows["k0004"], token=items.rows["k0005"].token)
        items.rows["k0011"] = replace(items.rows["k0011"], token=b"never sealed")
        world.keyring.rotate_tenant("acme")
        report = await resealer.run("acme", items)
        assert (report.broken, report.resealed) == (2, 23)
        assert {refusal.place.document_id for refusal in world.refusals} == {"k0004", "k0011"}
        assert items.rows["k0011"].token == b"never sealed"

    async def test_writers_that_never_learn_end_the_run_in_time(self, world: World, resealer: Resealer) -> None:
        items = Items(world.sealer, 1)
        old = items.rows["k0000"]
        world.keyring.rotate_tenant("acme")

        def write(what: str, _: str) -> None:
            if what == "page":
                items.rows["k0000"] = old

        items.before = write
        with pytest.raises(Unavailable):
            await resealer.run("acme", items)
        items.before = lambda *_: None
        await resealer.run("acme", items)
        items.check(world.sealer)

    async def test_a_shredding_ends_it(self, world: World, resealer: Resealer) -> None:
        items = Items(world.sealer, 25)
        world.keyring.rotate_tenant("acme")

        def shred(what: str, key: str) -> None:
            if (what, key) == ("page", "k0009"):
                world.keyring.shred("acme")

        items.before = shred
        with pytest.raises(KeysShredded):
            await resealer.run("acme", items)

    @pytest.mark.parametrize("saved", ["", "5", "[]", "{}", '{"key_number": 2, "other": 1}', "damaged"])
    async def test_an_unreadable_checkpoint_costs_only_time(self, world: World, resealer: Resealer, saved: str) -> None:
        items = Items(world.sealer, 5)
        world.keyring.rotate_tenant("acme")
        world.store.save_checkpoint("acme", "reseal/items", saved)
        assert (await resealer.run("acme", items)).resealed == 5
        items.check(world.sealer)

    async def test_a_checkpoint_holds_no_sealed_text(self, world: World, resealer: Resealer) -> None:
        items = Items(world.sealer, 25)
        saved: list[str] = []
        await resealer.run(
            "acme", items, lambda _: saved.append(world.store.load_checkpoint("acme", "reseal/items") or "")
        )
        assert set(json.loads(saved[0])) == set(ResealProgress.__dataclass_fields__)

    async def test_the_event_loop_stays_free(self, world: World, resealer: Resealer) -> None:
        items = Items(world.sealer, 200)
        world.keyring.rotate_tenant("acme")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await resealer.run("acme", items)
        counting.cancel()
        assert turns > 20
