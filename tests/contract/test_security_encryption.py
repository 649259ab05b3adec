"""The contracts of the MasterKey, KeyStore and Checkpoints ports, which every adapter keeps."""

from __future__ import annotations

import base64
import json
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.security.encryption import (
    KeyRecord,
    KeysDamaged,
    MasterKey,
    MasterKeyMissing,
    Purpose,
    WrappedKey,
)
from services.security.key_stores import MemoryKeyStore, SqliteKeyStore
from services.security.master_key_command import CommandMasterKey, printed_master_key
from services.security.master_keys import FileMasterKey, MasterKeyChain, SecretMasterKey, generate_key

CONTEXT = {"tenant": "acme", "purpose": "data", "number": "1"}
KEY = bytes(range(32))

# What a KMS client might look like, in the standard library: a keystream and a tag, keys in a JSON file.
KMS = """
import base64, hashlib, hmac, json, os, sys
keys = json.load(open(sys.argv[1]))
request = json.load(sys.stdin)
data = base64.b64decode(request.get("data", ""))
newest = list(keys)[0]
def stream(key, nonce, size):
    blocks = (hashlib.sha256(key + nonce + i.to_bytes(4, "big")).digest() for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]
def xor(one, other):
    return bytes(a ^ b for a, b in zip(one, other))
def answer(**fields):
    if "data" in fields:
        fields["data"] = base64.b64encode(fields["data"]).decode()
    print(json.dumps(fields))
if request["operation"] == "describe":
    answer(key_id=newest)
elif request["operation"] == "wrap":
    key, nonce = bytes.fromhex(keys[newest]), os.urandom(16)
    body = nonce + xor(data, stream(key, nonce, len(data)))
    answer(key_id=newest, data=body + hmac.digest(key, body, "sha256"))
elif request["key_id"] not in keys:
    answer(error="unknown_key")
else:
    key, body = bytes.fromhex(keys[request["key_id"]]), data[:-32]
    if hmac.compare_digest(hmac.digest(key, body, "sha256"), data[-32:]):
        answer(data=xor(body[16:], stream(key, body[:16], len(body) - 16)))
    else:
        answer(error="damaged")
"""


@dataclass
class Holder:
    """A master key under test, one that knows nothing of it, and how it rotates."""

    master: MasterKey
    stranger: MasterKey
    rotate: Callable[[], MasterKey]
    secrets: tuple[str, ...] = ()
    step: int = 1
    """Damage every ``step``-th byte: runs of a command are slow."""


def _of_value(_: Path) -> Holder:
    old, new = generate_key(), generate_key()
    return Holder(
        SecretMasterKey.from_text(old),
        SecretMasterKey.generate(),
        lambda: SecretMasterKey.from_text(f"{new}, {old}"),
        (old,),
    )


def _of_file(directory: Path) -> Holder:
    master = FileMasterKey.create(directory / "keys" / "master.key")

    def rotate() -> MasterKey:
        master.add_key()
        return master

    written = (directory / "keys" / "master.key").read_text().split()[-1]
    return Holder(master, FileMasterKey.create(directory / "other" / "master.key"), rotate, (written,))


def _of_chain(_: Path) -> Holder:
    master = SecretMasterKey.generate()
    return Holder(
        MasterKeyChain(master),
        MasterKeyChain(SecretMasterKey.generate(), SecretMasterKey.generate()),
        lambda: MasterKeyChain(SecretMasterKey.generate(), master),
    )


def _of_printing_command(directory: Path) -> Holder:
    keys = directory / "printed"
    keys.write_text(generate_key())
    argv = [sys.executable, "-ISc", "import sys; print(open(sys.argv[1]).read())", str(keys)]

    def rotate() -> MasterKey:
        keys.write_text(f"{generate_key()}\n{keys.read_text()}")
        return printed_master_key(argv)

    return Holder(printed_master_key(argv), SecretMasterKey.generate(), rotate, (keys.read_text(),))


def _of_wrapping_command(directory: Path) -> Holder:
    def kms(name: str) -> tuple[CommandMasterKey, Path]:
        keys = directory / f"{name}.json"
        keys.write_text(json.dumps({f"{name}-1": secrets.token_hex(32)}))
        return CommandMasterKey([sys.executable, "-ISc", KMS, str(keys)]), keys

    master, path = kms("kms")
    stranger, _ = kms("stranger")

    def rotate() -> MasterKey:
        path.write_text(json.dumps({"kms-2": secrets.token_hex(32), **json.loads(path.read_text())}))
        return master

    return Holder(master, stranger, rotate, step=23)


MASTER_KEYS: dict[str, Callable[[Path], Holder]] = {
    "value": _of_value,
    "file": _of_file,
    "chain": _of_chain,
    "printing command": _of_printing_command,
    "wrapping command": _of_wrapping_command,
}


@pytest.fixture(params=list(MASTER_KEYS))
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Holder:
    return MASTER_KEYS[request.param](tmp_path)


class TestMasterKey:
    def test_what_is_wrapped_is_unwrapped_in_the_same_context_however_it_is_ordered(self, holder: Holder) -> None:
        wrapped = holder.master.wrap(KEY, CONTEXT)
        assert KEY not in wrapped
        assert wrapped != holder.master.wrap(KEY, CONTEXT)
        assert holder.master.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == KEY

    @pytest.mark.parametrize(
        "context",
        [
            {**CONTEXT, "tenant": "other"},
            {**CONTEXT, "purpose": "root"},
            {**CONTEXT, "number": "2"},
            {**CONTEXT, "more": ""},
            {"tenant": "acme", "purpose": "data"},
            {"tenant": "acmepurpose", "data": "", "number": "1"},
            {},
        ],
    )
    def test_another_context_is_refused(self, holder: Holder, context: dict[str, str]) -> None:
        wrapped = holder.master.wrap(KEY, CONTEXT)
        with pytest.raises(KeysDamaged):
            holder.master.unwrap(wrapped, context)

    def test_damage_anywhere_is_refused(self, holder: Holder) -> None:
        wrapped = holder.master.wrap(KEY, CONTEXT)
        for position in range(0, len(wrapped), holder.step):
            damaged = bytearray(wrapped)
            damaged[position] ^= 1 << position % 8
            with pytest.raises((KeysDamaged, MasterKeyMissing)):
                holder.master.unwrap(bytes(damaged), CONTEXT)

    @pytest.mark.parametrize("length", [0, 1, 2, 15, -1])
    def test_a_part_is_refused(self, holder: Holder, length: int) -> None:
        with pytest.raises((KeysDamaged, MasterKeyMissing)):
            holder.master.unwrap(holder.master.wrap(KEY, CONTEXT)[:length], CONTEXT)

    def test_what_another_master_key_wrapped_is_not_called_damaged(self, holder: Holder) -> None:
        assert holder.stranger.key_id != holder.master.key_id
        with pytest.raises(MasterKeyMissing):
            holder.master.unwrap(holder.stranger.wrap(KEY, CONTEXT), CONTEXT)

    def test_after_a_rotation_the_new_key_wraps_and_the_old_one_unwraps(self, holder: Holder) -> None:
        before, old_id = holder.master.wrap(KEY, CONTEXT), holder.master.key_id
        rotated = holder.rotate()
        after = rotated.wrap(KEY, CONTEXT)
        assert rotated.key_id != old_id
        assert rotated.unwrap(before, CONTEXT) == rotated.unwrap(after, CONTEXT) == KEY
        assert old_id.encode() in before
        assert rotated.key_id.encode() in after

    def test_no_key_shows(self, holder: Holder) -> None:
        for secret in holder.secrets:
            for form in (secret, repr(base64.b64decode(secret)), base64.b64decode(secret).hex()):
                assert form not in repr(holder.master) + str(vars(holder.master)) + holder.master.key_id


# --- stores -------------------------------------------------------------------------------------------------------

Store = MemoryKeyStore | SqliteKeyStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = (
        MemoryKeyStore() if request.param == "memory" else SqliteKeyStore.open(tmp_path / "keys" / "keys.db")
    )
    yield opened
    opened.close()


def wrapped_key(number: int, purpose: Purpose = Purpose.DATA, content: bytes = b"wrapped") -> WrappedKey:
    return WrappedKey(purpose, number, 1_700_000_000.123456, "master-1", content)


def record(tenant: str = "acme", generation: int = 1, *keys: WrappedKey) -> KeyRecord:
    return KeyRecord(tenant, generation, keys or (wrapped_key(1), wrapped_key(1, Purpose.ROOT)))


class TestKeyStore:
    def test_a_tenant_without_keys_has_no_record(self, store: Store) -> None:
        assert store.get("acme") is None
        assert store.tenants() == []

    def test_a_record_comes_back_as_it_was_put(self, store: Store) -> None:
        kept = record("acme", 1, *(wrapped_key(n, content=bytes(range(256)) * n) for n in range(1, 12)))
        assert store.replace(kept, expected=0)
        assert store.get("acme") == kept
        assert store.get("ACME") is None

    def test_a_change_needs_the_generation_that_it_was_made_from(self, store: Store) -> None:
        assert not store.replace(record(generation=2), expected=1)
        assert store.get("acme") is None
        assert store.replace(record(), expected=0)
        assert not store.replace(record(generation=1), expected=0)
        changed = record("acme", 2, wrapped_key(2))
        assert store.replace(changed, expected=1)
        assert not store.replace(record(generation=2), expected=1)
        assert store.get("acme") == changed

    def test_tenants_do_not_touch_each_other(self, store: Store) -> None:
        assert store.replace(record("a"), expected=0)
        assert store.replace(record("b"), expected=0)
        assert store.replace(KeyRecord("a", 2, (), 5.0), expected=1)
        assert store.get("b") == record("b")

    def test_a_tombstone_is_for_good(self, store: Store) -> None:
        store.replace(record(), expected=0)
        tombstone = KeyRecord("acme", 2, (), 1_700_000_001.5)
        assert store.replace(tombstone, expected=1)
        for expected in (0, 1, 2):
            assert not store.replace(record(generation=expected + 1), expected=expected)
        assert store.get("acme") == tombstone
        assert store.tenants() == ["acme"]

    def test_tenants_are_paged_in_the_order_of_code_points(self, store: Store) -> None:
        names = ["Z", "a", "a.b", "é", "z", "\U0001f600", "\uffff"]
        for name in names:
            assert store.replace(record(name), expected=0)
        listed: list[str] = []
        while page := store.tenants(after=listed[-1] if listed else "", limit=2):
            assert len(page) <= 2
            listed += page
        assert listed == sorted(names)

    def test_of_many_changes_at_once_each_generation_is_won_by_one(self, store: Store) -> None:
        workers, rounds = 8, 5
        barrier = threading.Barrier(workers)

        def work(worker: int) -> list[bool]:
            won = []
            for generation in range(1, rounds + 1):
                barrier.wait()
                mine = record("acme", generation, wrapped_key(1, content=f"{worker}".encode()))
                won.append(store.replace(mine, expected=generation - 1))
            return won

        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(work, range(workers)))
        assert [sum(worker[i] for worker in results) for i in range(rounds)] == [1] * rounds
        last = store.get("acme")
        assert last is not None
        winner = next(i for i, worker in enumerate(results) if worker[-1])
        assert (last.generation, last.keys[0].wrapped) == (rounds, f"{winner}".encode())


class TestCheckpoints:
    def test_the_last_state_is_kept_per_tenant_and_task(self, store: Store) -> None:
        assert store.load_checkpoint("acme", "task") is None
        store.save_checkpoint("acme", "task", "one")
        store.save_checkpoint("acme", "task", "two")
        store.save_checkpoint("acme", "other", "three")
        store.save_checkpoint("b", "task", "four")
        assert store.load_checkpoint("acme", "task") == "two"
        store.save_checkpoint("acme", "task", None)
        store.save_checkpoint("acme", "task", None)
        assert store.load_checkpoint("acme", "task") is None
        assert store.load_checkpoint("acme", "other") == "three"
        assert store.load_checkpoint("b", "task") == "four"

    def test_a_tombstone_removes_them(self, store: Store) -> None:
        store.replace(record(), expected=0)
        store.save_checkpoint("acme", "task", "one")
        store.save_checkpoint("b", "task", "two")
        store.replace(replace(record(generation=2), keys=()), expected=1)
        assert store.load_checkpoint("acme", "task") == "one"
        store.replace(KeyRecord("acme", 3, (), 1.0), expected=2)
        assert store.load_checkpoint("acme", "task") is None
        assert store.load_checkpoint("b", "task") == "two"
