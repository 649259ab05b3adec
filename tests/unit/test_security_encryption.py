"""Keys: the keyring's promises, and the files that keys are kept in."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.corpus.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from services.security import key_stores
from services.security.encryption import (
    KeyRecord,
    KeysDamaged,
    KeysShredded,
    KeyStore,
    MasterKeyMissing,
    MasterKeyUnavailable,
    Purpose,
    RewrapProgress,
)
from services.security.key_stores import MemoryKeyStore, SqliteKeyStore
from services.security.keyring import Keyring
from services.security.master_key_command import CommandMasterKey, printed_master_key
from services.security.master_keys import FileMasterKey, MasterKeyChain, SecretMasterKey, generate_key, parse_keys
from services.security.sealed import Sealer


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        return self.time


class CountingStore(MemoryKeyStore):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.down = False

    def get(self, tenant: str) -> KeyRecord | None:
        self.reads += 1
        if self.down:
            raise Unavailable("down")
        return super().get(tenant)


class World:
    """Several keyrings, as several processes would have them, over one store and one clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = CountingStore()
        self.master = SecretMasterKey.generate()

    def keyring(self, store: KeyStore | None = None) -> Keyring:
        return Keyring(self.master, store or self.store, clock=self.clock, now=self.clock)


@pytest.fixture
def world() -> World:
    return World()


def files_of(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


class TestCache:
    def test_keys_are_made_once_and_shared(self, world: World) -> None:
        one, other = world.keyring(), world.keyring()
        token = Sealer(one).seal("acme", "d", 1, "f", b"text")
        assert Sealer(other).open("acme", "d", 1, "f", token) == b"text"
        assert one.for_tenant("acme").derive("label") == other.for_tenant("acme").derive("label")
        assert one.for_tenant("b").derive("label") != one.for_tenant("acme").derive("label")
        assert one.for_tenant("acme").derive("label") != one.for_tenant("acme").derive("label2")

    def test_a_race_of_first_uses_makes_one_key(self, world: World) -> None:
        rings = [world.keyring() for _ in range(8)]
        barrier = threading.Barrier(len(rings))

        def first(ring: Keyring) -> bytes:
            barrier.wait()
            return Sealer(ring).seal("acme", "d", 1, "f", b"text")

        with ThreadPoolExecutor(len(rings)) as pool:
            tokens = list(pool.map(first, rings))
        assert [Sealer(world.keyring()).open("acme", "d", 1, "f", token) for token in tokens] == [b"text"] * len(rings)

    def test_looking_for_keys_does_not_make_them(self, world: World) -> None:
        assert world.keyring().find_tenant("acme") is None
        assert world.store.tenants() == []

    def test_the_store_is_asked_when_the_last_look_is_half_a_second_old(self, world: World) -> None:
        ring = world.keyring()
        keys = ring.for_tenant("acme")
        reads = world.store.reads
        world.clock.time += 0.49
        assert ring.for_tenant("acme") is keys
        assert world.store.reads == reads
        world.clock.time += 0.02
        assert ring.for_tenant("acme") is keys
        assert world.store.reads == reads + 1

    def test_without_the_store_no_stale_key_is_given_out(self, world: World) -> None:
        ring = world.keyring()
        ring.for_tenant("acme")
        world.store.down = True
        ring.for_tenant("acme")
        world.clock.time += 0.5
        with pytest.raises(Unavailable):
            ring.for_tenant("acme")
        world.store.down = False
        ring.for_tenant("acme")

    def test_unwrapped_keys_live_for_a_bounded_time(self, world: World) -> None:
        ring = world.keyring()
        keys = ring.for_tenant("acme")
        ring.for_tenant("quiet")
        world.clock.time += 299
        assert ring.for_tenant("acme") is keys
        world.clock.time += 1
        assert ring.for_tenant("acme") is not keys
        world.clock.time += 75
        ring.for_tenant("acme")
        assert set(ring._entries) == {"acme"}

    def test_a_master_key_that_is_taken_away_works_no_more(self, tmp_path: Path, world: World) -> None:
        master = FileMasterKey.create(tmp_path / "master.key")
        ring = Keyring(master, world.store, clock=world.clock)
        ring.for_tenant("acme")
        (tmp_path / "master.key").unlink()
        world.clock.time += 1
        ring.for_tenant("acme")
        world.clock.time += 300
        with pytest.raises(MasterKeyUnavailable):
            ring.for_tenant("acme")

    async def test_on_an_event_loop_the_store_is_asked_in_a_thread(self, world: World) -> None:
        threads = []
        known = world.store.get

        def spying(tenant: str) -> KeyRecord | None:
            threads.append(threading.current_thread())
            return known(tenant)

        world.store.get = spying  # type: ignore[method-assign] # observed, not replaced
        ring = world.keyring()
        assert await ring.load("acme") is await ring.load("acme")
        assert threads
        assert threading.main_thread() not in threads

    def test_a_wrapped_key_does_not_pass_for_another_tenants_or_use(self, world: World) -> None:
        world.keyring().for_tenant("acme")
        acme = world.store.get("acme")
        assert acme is not None
        world.store.replace(KeyRecord("thief", 1, acme.keys), expected=0)
        with pytest.raises(KeysDamaged):
            world.keyring().for_tenant("thief")
        data, root = acme.of(Purpose.DATA), acme.of(Purpose.ROOT)
        assert world.store.replace(acme.with_keys(Purpose.DATA, data).with_keys(Purpose.ROOT, ()), expected=1)
        with pytest.raises(KeysDamaged):
            world.keyring().for_tenant("acme")
        assert len(root) == 1


class TestRotation:
    def test_the_newest_key_seals_and_all_open_everywhere(self, world: World) -> None:
        one, other = Sealer(ring := world.keyring()), Sealer(world.keyring())
        before = one.seal("acme", "d", 1, "f", b"text")
        other.open("acme", "d", 1, "f", before)
        assert ring.rotate_tenant("acme") == 2
        after = one.seal("acme", "d", 1, "f", b"text")
        # The other process has not heard of the new key yet: the key's number makes it look.
        assert other.open("acme", "d", 1, "f", after) == b"text"
        assert other.open("acme", "d", 1, "f", before) == b"text"
        assert one.needs_reseal("acme", before)
        assert not one.needs_reseal("acme", after)

    def test_hashes_stay_when_data_keys_rotate(self, world: World) -> None:
        ring = world.keyring()
        before = ring.for_tenant("acme").derive("label")
        ring.rotate_tenant("acme")
        assert ring.for_tenant("acme").derive("label") == before

    def test_a_new_root_key_waits_until_the_old_one_is_retired(self, world: World) -> None:
        ring = world.keyring()
        before = ring.for_tenant("acme").derive("label")
        number = ring.rotate_root("acme")
        beside = ring.for_tenant("acme").derive("label", root=number)
        assert ring.for_tenant("acme").roots == (1, 2)
        assert ring.for_tenant("acme").derive("label") == before != beside
        assert ring.retire_root("acme") == 1
        assert ring.for_tenant("acme").derive("label") == beside
        with pytest.raises(KeyError):
            ring.for_tenant("acme").derive("label", root=1)
        assert ring.retire_root("acme") == 0

    def test_older_keys_retire_only_after_a_clean_pass_that_began_late_enough(self, world: World) -> None:
        ring = world.keyring()
        token = Sealer(ring).seal("acme", "d", 1, "f", b"text")
        assert ring.retire("acme", clean_since=0) == 0
        ring.rotate_tenant("acme")
        ring.rotate_tenant("acme")
        with pytest.raises(FailedPrecondition):
            ring.retire("acme", clean_since=world.clock.time + 59)
        assert Sealer(ring).open("acme", "d", 1, "f", token) == b"text"
        assert ring.retire("acme", clean_since=world.clock.time + 60) == 2
        assert ring.for_tenant("acme").numbers == {3}
        assert ring.rotate_tenant("acme") == 4

    def test_what_has_no_keys_cannot_be_rotated(self, world: World) -> None:
        ring = world.keyring()
        for act in (ring.rotate_tenant, ring.rotate_root, ring.retire_root, ring.shred):
            with pytest.raises(NotFound):
                act("nobody")
        with pytest.raises(NotFound):
            ring.retire("nobody", clean_since=0)
        assert world.store.tenants() == []


class TestMasterRotation:
    def test_every_tenant_is_wrapped_anew_and_the_old_master_key_is_not_needed(self, world: World) -> None:
        ring, new = world.keyring(), SecretMasterKey.generate()
        tokens = {f"t{i}": Sealer(ring).seal(f"t{i}", "d", 1, "f", b"text") for i in range(250)}
        ring.rotate_tenant("t7")
        ring.shred("t9")
        seen: list[RewrapProgress] = []
        assert ring.rewrap_all(new, seen.append) == 249
        assert seen[249] == RewrapProgress(250, 249)
        fresh = Sealer(Keyring(new, world.store))
        del tokens["t9"]
        assert {fresh.open(tenant, "d", 1, "f", token) for tenant, token in tokens.items()} == {b"text"}
        assert {key.master_key_id for known in ring.list_tenants() for key in known.keys} == {new.key_id}
        assert ring.rewrap_all() == 0
        with pytest.raises(MasterKeyMissing):
            Keyring(world.master, world.store).for_tenant("t1")

    def test_an_interrupted_run_is_resumed(self, world: World) -> None:
        ring, new = world.keyring(), SecretMasterKey.generate()
        tokens = {f"t{i}": Sealer(ring).seal(f"t{i}", "d", 1, "f", b"text") for i in range(10)}

        class StopError(Exception):
            pass

        def stop(progress: RewrapProgress) -> None:
            if progress.rewrapped == 4:
                raise StopError

        with pytest.raises(StopError):
            ring.rewrap_all(new, stop)
        # Everything stays readable for who has both, in this process and another.
        for both in (ring, Keyring(MasterKeyChain(new, world.master), world.store)):
            assert {Sealer(both).open(t, "d", 1, "f", token) for t, token in tokens.items()} == {b"text"}
        assert Keyring(world.master, world.store).rewrap_all(new) == 6
        assert {Sealer(Keyring(new, world.store)).open(t, "d", 1, "f", x) for t, x in tokens.items()} == {b"text"}

    def test_a_tenant_that_an_outdated_process_makes_meanwhile_is_not_missed(self, world: World) -> None:
        ring, new, outdated = world.keyring(), SecretMasterKey.generate(), world.keyring()
        ring.for_tenant("t")

        def make(_: RewrapProgress) -> None:
            outdated.for_tenant("a tenant that comes before")

        assert ring.rewrap_all(new, make) == 2
        assert {key.master_key_id for known in ring.list_tenants() for key in known.keys} == {new.key_id}

    def test_outdated_processes_that_never_learn_end_it_in_time(self, world: World) -> None:
        ring, new, outdated = world.keyring(), SecretMasterKey.generate(), world.keyring()
        ring.for_tenant("t")
        numbers = iter(range(100, 0, -1))

        def make(progress: RewrapProgress) -> None:
            if progress.checked == 1:
                outdated.for_tenant(f"before the first {next(numbers):03}")

        with pytest.raises(Unavailable):
            ring.rewrap_all(new, make)
        assert ring.rewrap_all() == 1

    def test_a_file_rotates_under_running_processes(self, tmp_path: Path, world: World) -> None:
        path = tmp_path / "keys" / "master.key"
        ring = Keyring(FileMasterKey.create(path), world.store)
        running = Keyring(FileMasterKey(path), world.store)
        token = Sealer(ring).seal("acme", "d", 1, "f", b"text")
        operator = FileMasterKey(path)
        old = operator.key_id
        new = operator.add_key()
        assert new != old
        assert Sealer(running).seal("b", "d", 1, "f", b"text")
        made = world.store.get("b")
        assert made is not None
        assert {key.master_key_id for key in made.keys} == {new}
        assert ring.rewrap_all() == 1
        with pytest.raises(FailedPrecondition):
            operator.forget(new)
        with pytest.raises(FailedPrecondition):
            operator.forget("unknown")
        operator.forget(old)
        assert operator.key_ids == (new,)
        assert Sealer(Keyring(FileMasterKey(path), world.store)).open("acme", "d", 1, "f", token) == b"text"


class TestShredding:
    def test_nothing_is_readable_again_and_no_new_keys_are_made(self, world: World) -> None:
        ring, other = world.keyring(), world.keyring()
        token = Sealer(ring).seal("acme", "d", 1, "f", b"text")
        kept = Sealer(ring).seal("b", "d", 1, "f", b"text")
        ring.rotate_tenant("acme")
        assert Sealer(other).open("acme", "d", 1, "f", token) == b"text"
        receipt = ring.shred("acme")
        assert (receipt.tenant, receipt.shred_time, receipt.keys_destroyed) == ("acme", world.clock.time, 3)
        assert receipt.master_key_ids == {world.master.key_id}
        with pytest.raises(KeysShredded):
            Sealer(ring).open("acme", "d", 1, "f", token)
        world.clock.time += 0.5
        for holder in (ring, other, world.keyring()):
            sealer = Sealer(holder)
            with pytest.raises(KeysShredded):
                sealer.open("acme", "d", 1, "f", token)
            with pytest.raises(KeysShredded):
                sealer.seal("acme", "d", 1, "f", b"new")
            with pytest.raises(KeysShredded):
                holder.rotate_tenant("acme")
            assert sealer.open("b", "d", 1, "f", kept) == b"text"
        assert ring.shred("acme").shred_time == receipt.shred_time
        tombstone = next(known for known in ring.list_tenants() if known.tenant == "acme")
        assert tombstone.keys == ()

    def test_a_backup_of_the_key_store_dies_with_the_master_key_of_its_time(self, tmp_path: Path) -> None:
        path, live, backup = tmp_path / "m" / "master.key", tmp_path / "live", tmp_path / "backup"
        master = FileMasterKey.create(path)
        store = SqliteKeyStore.open(live / "keys.db")
        ring = Keyring(master, store)
        token = Sealer(ring).seal("acme", "d", 1, "f", b"text")
        ring.for_tenant("b")
        shutil.copytree(live, backup)
        receipt = ring.shred("acme")
        restored = SqliteKeyStore.open(backup / "keys.db")
        # This is what the documentation warns of: the key store of yesterday with the master key of yesterday.
        assert Sealer(Keyring(FileMasterKey(path), restored)).open("acme", "d", 1, "f", token) == b"text"
        master.add_key()
        assert ring.rewrap_all() == 1
        for key_id in receipt.master_key_ids:
            master.forget(key_id)
        with pytest.raises(MasterKeyMissing):
            Sealer(Keyring(FileMasterKey(path), restored)).open("acme", "d", 1, "f", token)
        store.close()
        restored.close()

    def test_the_files_keep_no_trace_of_destroyed_keys(self, tmp_path: Path, world: World) -> None:
        store = SqliteKeyStore.open(tmp_path / "keys" / "keys.db")
        ring = world.keyring(store)
        destroyed: list[bytes] = []

        def note(tenant: str) -> None:
            record = store.get(tenant)
            assert record is not None
            destroyed.extend(key.wrapped for key in record.keys)

        for i in range(40):
            ring.for_tenant(f"t{i}")
        note("t1")
        ring.shred("t1")
        ring.rotate_tenant("t2")
        note("t2")
        ring.retire("t2", clean_since=world.clock.time + 60)
        for i in range(2, 40):
            note(f"t{i}")
        ring.rewrap_all(SecretMasterKey.generate())
        content = b"".join(path.read_bytes() for path in files_of(tmp_path))
        assert [wrapped for wrapped in destroyed if wrapped in content or wrapped[-24:] in content] == []
        note_after = store.get("t2")
        assert note_after is not None
        assert note_after.keys[0].wrapped in content
        store.close()


class TestSecrecy:
    def test_no_key_shows_or_leaves(self, world: World) -> None:
        keys = world.keyring().for_tenant("acme")
        root = keys._root_keys[1]
        for thing in (keys, world.keyring(), world.store.get("acme"), world.master):
            shown = repr(thing) + str(thing)
            assert repr(root)[2:-1] not in shown
            assert root.hex() not in shown
        record = world.store.get("acme")
        assert record is not None
        assert repr(record.keys[0].wrapped) not in repr(record)
        for thing in (keys, world.master):
            with pytest.raises(TypeError):
                pickle.dumps(thing)

    @pytest.mark.parametrize(
        "text",
        ["", "# only a comment", "short", "a" * 44, "A" * 43 + "=", f"{generate_key()[:-4]}", "é" * 44],
        ids=["empty", "a comment", "short", "one letter", "zeros", "cut", "not ASCII"],
    )
    def test_a_bad_master_key_is_refused_and_not_repeated(self, text: str) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            parse_keys(text)
        assert not text or text not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_both_alphabets_of_base64_are_read(self) -> None:
        key = generate_key()
        assert parse_keys(f"# a comment\n{key}\n{key.replace('+', '-').replace('/', '_')},{key}") == parse_keys(key) * 3


class TestFiles:
    def test_all_are_their_owners_alone_whatever_the_umask(self, tmp_path: Path) -> None:
        umask = os.umask(0)
        try:
            FileMasterKey.create(tmp_path / "a" / "master.key").add_key()
            store = SqliteKeyStore.open(tmp_path / "b" / "keys.db")
            # In the middle of a change, so that the journal is there too.
            store._connection.execute("BEGIN IMMEDIATE")
            store._connection.execute("INSERT INTO checkpoints VALUES ('a', 'b', 'c')")
            paths = list(files_of(tmp_path))
        finally:
            os.umask(umask)
        assert {path.name for path in paths} >= {"master.key", "keys.db", "keys.db-journal"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
        assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o700}
        store._connection.execute("ROLLBACK")
        store.close()

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o700])
    def test_a_file_that_others_can_open_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "master.key"
        FileMasterKey.create(path)
        path.chmod(mode)
        with pytest.raises(FailedPrecondition, match="chmod 600"):
            FileMasterKey(path)
        SqliteKeyStore.open(tmp_path / "keys" / "keys.db").close()
        (tmp_path / "keys" / "keys.db").chmod(mode)
        with pytest.raises(FailedPrecondition, match="chmod 600"):
            SqliteKeyStore.open(tmp_path / "keys" / "keys.db")

    def test_a_running_process_notices_when_its_file_is_opened_to_others(self, tmp_path: Path) -> None:
        master = FileMasterKey.create(tmp_path / "master.key")
        (tmp_path / "master.key").chmod(0o644)
        with pytest.raises(FailedPrecondition):
            master.wrap(b"key", {})

    def test_a_directory_that_others_can_enter_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "lax").mkdir(mode=0o755)
        with pytest.raises(FailedPrecondition, match="chmod 700"):
            SqliteKeyStore.open(tmp_path / "lax" / "keys.db")
        (tmp_path / "lax").chmod(0o777)
        with pytest.raises(FailedPrecondition):
            FileMasterKey.create(tmp_path / "lax" / "master.key")

    def test_what_is_no_plain_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(FailedPrecondition, match="regular"):
            FileMasterKey(tmp_path / "pipe")
        FileMasterKey.create(tmp_path / "master.key")
        (tmp_path / "link").symlink_to(tmp_path / "master.key")
        mounted = FileMasterKey(tmp_path / "link")
        assert mounted.unwrap(mounted.wrap(b"key", {}), {}) == b"key"
        with pytest.raises(FailedPrecondition, match="link"):
            mounted.add_key()

    def test_nothing_is_overwritten_by_mistake(self, tmp_path: Path) -> None:
        path = tmp_path / "master.key"
        key_id = FileMasterKey.create(path).key_id
        with pytest.raises(FailedPrecondition):
            FileMasterKey.create(path)
        assert FileMasterKey(path).key_id == key_id

    def test_a_missing_file_is_not_named(self, tmp_path: Path) -> None:
        with pytest.raises(MasterKeyUnavailable) as caught:
            FileMasterKey(tmp_path / "absent.key")
        assert "absent" not in str(caught.value)

    def test_a_forgotten_key_is_overwritten_in_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "master.key"
        master = FileMasterKey.create(path)
        old = master.key_id
        master.add_key()
        written = path.read_text().split()[-1]
        (tmp_path / "hard link").hardlink_to(path)
        master.forget(old)
        assert written not in (tmp_path / "hard link").read_text()
        assert written not in path.read_text()
        assert {path.name for path in tmp_path.iterdir()} == {"hard link", "master.key", ".master.key.lock"}


class TestSqliteKeyStore:
    def test_everything_is_there_after_it_is_opened_again(self, tmp_path: Path, world: World) -> None:
        path = tmp_path / "keys" / "keys.db"
        store = SqliteKeyStore.open(path)
        token = Sealer(world.keyring(store)).seal("acme", "d", 1, "f", b"text")
        world.keyring(store).for_tenant("gone")
        world.keyring(store).shred("gone")
        store.close()
        store = SqliteKeyStore.open(path)
        assert Sealer(world.keyring(store)).open("acme", "d", 1, "f", token) == b"text"
        with pytest.raises(KeysShredded):
            world.keyring(store).for_tenant("gone")
        store.close()

    def test_changes_are_durable_and_deleted_keys_overwritten(self, tmp_path: Path) -> None:
        store = SqliteKeyStore.open(tmp_path / "keys" / "keys.db")
        found = [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "secure_delete")]
        assert found == [3, 1]
        store.close()

    def test_another_format_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "keys.db"
        SqliteKeyStore.open(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 7")
        connection.close()
        with pytest.raises(FailedPrecondition, match="format 7"):
            SqliteKeyStore.open(path)

    def test_a_damaged_file_is_data_loss(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "keys.db"
        SqliteKeyStore.open(path).close()
        path.write_bytes(os.urandom(8192))
        with pytest.raises(DataLoss) as caught:
            SqliteKeyStore.open(path)
        assert str(tmp_path) not in str(caught.value)

    def test_a_purpose_from_another_time_is_data_loss(self, tmp_path: Path) -> None:
        store = SqliteKeyStore.open(tmp_path / "keys" / "keys.db")
        Keyring(SecretMasterKey.generate(), store).for_tenant("acme")
        store._connection.execute("UPDATE wrapped_keys SET purpose = 'other' WHERE purpose = 'data'")
        with pytest.raises(DataLoss):
            store.get("acme")
        store.close()

    def test_a_locked_or_closed_store_is_unavailable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(key_stores, "_BUSY_SECONDS", 0.0)
        path = tmp_path / "keys" / "keys.db"
        store = SqliteKeyStore.open(path)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable):
            store.get("acme")
        with pytest.raises(Unavailable):
            store.replace(KeyRecord("acme", 1), expected=0)
        other.execute("ROLLBACK")
        other.close()
        assert store.replace(KeyRecord("acme", 1), expected=0)
        store.close()
        with pytest.raises(Unavailable):
            store.get("acme")

    def test_a_directory_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(Unavailable) as caught:
            SqliteKeyStore.open(tmp_path / "file" / "keys.db")
        assert str(tmp_path) not in str(caught.value)


class TestCommands:
    @pytest.mark.parametrize(
        "program",
        [
            "raise SystemExit(3)",
            "print('no json')",
            "print('[' * 100_000)",
            "print('[1]')",
            "print('{}')",
            """print('{"key_id": "", "data": ""}')""",
            """print('{"key_id": 5}')""",
            """print('{"key_id": "k", "data": "%"}')""",
            "print('x' * 1_000_000)",
        ],
    )
    def test_a_command_that_misbehaves_is_unavailable(self, program: str) -> None:
        master = CommandMasterKey([sys.executable, "-ISc", program])
        with pytest.raises(MasterKeyUnavailable):
            master.wrap(b"a secret key", {})
        with pytest.raises((MasterKeyUnavailable, FailedPrecondition)):
            printed_master_key([sys.executable, "-ISc", program])

    @pytest.mark.parametrize("argv", [[], [""], ["/nonexistent/command"], ["a\0b"]])
    def test_a_command_that_cannot_be_run_is_unavailable(self, argv: list[str]) -> None:
        with pytest.raises(MasterKeyUnavailable) as caught:
            printed_master_key(argv)
        assert "nonexistent" not in str(caught.value)

    def test_a_command_that_hangs_is_ended_with_its_children(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "alive")
        # The child holds the command's output and the write end of the pipe until it is killed.
        program = (
            "import subprocess, sys, time; pipe = open(sys.argv[1], 'w');"
            "subprocess.Popen([sys.executable, '-ISc', 'import time; time.sleep(600)'], pass_fds=[pipe.fileno()]);"
            "pipe.write('started'); pipe.flush(); time.sleep(600)"
        )
        pipe = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(MasterKeyUnavailable, match="in time"):
            printed_master_key([sys.executable, "-ISc", program, str(tmp_path / "alive")], timeout=2.0)
        os.set_blocking(pipe, True)
        # Reading ends when nobody holds the other end any more.
        with os.fdopen(pipe) as reader:
            assert reader.read() in {"started", ""}

    def test_no_shell_takes_part(self, tmp_path: Path) -> None:
        with pytest.raises(MasterKeyUnavailable):
            printed_master_key([f"echo {generate_key()} > {tmp_path}/made"])
        assert not (tmp_path / "made").exists()

    def test_the_context_is_bound_even_if_the_command_ignores_it(self) -> None:
        echo = (
            "import json, sys; r = json.load(sys.stdin); print(json.dumps({'key_id': 'k', 'data': r.get('data', '')}))"
        )
        master = CommandMasterKey([sys.executable, "-ISc", echo])
        wrapped = master.wrap(b"key", {"tenant": "a"})
        assert master.unwrap(wrapped, {"tenant": "a"}) == b"key"
        with pytest.raises(KeysDamaged):
            master.unwrap(wrapped, {"tenant": "b"})
