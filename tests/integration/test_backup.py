"""Backups of a catalog, an index and a log that are written meanwhile; and what a restore does with what is there."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.audit.note import Checkpoint, Note
from services.audit.witness.witness import LAST
from services.backup import gathering
from services.backup.checking import check_backup
from services.backup.gathering import Pace
from services.backup.journals import verify_log
from services.backup.keys_file import KeyPlaces, back_up_keys, read_keys
from services.backup.manifest import DocumentEntry, TenantKeys, encode
from services.backup.parts import read_part
from services.backup.restore import LogFate, Wishes
from services.catalog.contents import read_contents
from services.catalog.sql import SqlCatalog
from services.corpus.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound, Unavailable
from services.journal.files import DirectoryFiles
from services.journal.spool import Kind, Spool, kept
from services.runtime.encryption import open_key_store
from services.runtime.restoring import RESTORING, require_restored
from services.security.keyring import Keyring
from services.security.master_keys import NoMasterKey, SecretMasterKey
from services.security.revocation import SubjectRevoked
from services.security.revocation_sqlite import SqliteRevocationStore
from services.vectorstores.directory_lock import DirectoryLock
from services.vectorstores.ports import StoredChunk
from tests.support.audit_world import LOG
from tests.support.backup_world import (
    COLLECTION,
    PARTITION,
    READERS,
    TENANT,
    Installation,
    LastingStore,
    meddle,
    restore,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Installation]:
    opened = await Installation(tmp_path / "data").open()
    yield opened
    await opened.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "one"


def empty(tmp_path: Path, name: str = "new") -> Installation:
    return Installation(tmp_path / name)


async def chunks_of(store: LastingStore) -> dict[str, StoredChunk]:
    found: dict[str, StoredChunk] = {}
    after = ""
    while page := await store.list_chunks(PARTITION, after=after):
        found.update((one.chunk_id, one) for one in page)
        after = page[-1].chunk_id
    return found


# --- consistency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 3, 1000], ids=["held-at-the-end", "a-little", "held-for-most"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_backup_is_of_one_moment_whatever_is_written_meanwhile(
    world: Installation, target: Path, tmp_path: Path, seed: int, few: int
) -> None:
    dice = random.Random(seed)
    names = [f"busy-{n}" for n in range(12)]
    for name in [*names, *(f"still-{n}" for n in range(12)), "deleted"]:
        await world.put(name)
    await world.delete("deleted")
    ended = asyncio.Event()
    meddling = asyncio.create_task(meddle(world, names, dice, ended.is_set))
    try:
        manifest = await world.back_up(target, pace=Pace(few=few, rounds=3))
    finally:
        ended.set()
        changes = await meddling
    assert changes
    # Whole, and nothing else: each current version with all of its chunks.
    checked, _ = check_backup(target)
    assert checked == manifest
    assert manifest.lacking == ()
    contents = read_contents(target / "catalog.sqlite3")
    present = {document.document_id: document for document in contents.documents}
    assert {f"still-{n}" for n in range(12)} <= present.keys()
    assert "deleted" not in present
    for entry in manifest.collections:
        for one in (one for part in entry.parts for one in read_part(target / part)):
            assert one.payload == one.chunk_id.encode()
            assert one.terms == (one.document_id, f"v{one.version}")
            assert one.version == present[one.document_id].version
    # And so it is restored; who may read it is what the catalog says.
    new = empty(tmp_path)
    outcome = await restore(target, manifest, new)
    assert [(one.documents, one.chunks) for one in outcome.collections] == [(manifest.documents, manifest.chunks)]
    restored = await chunks_of(new.store)
    assert len(restored) == sum(document.chunks for document in contents.documents)
    assert all(one.reader_set == present[one.document_id].reader_set for one in restored.values())


async def test_a_change_of_readers_that_the_index_has_not_heard_of_is_restored(
    world: Installation, target: Path, tmp_path: Path
) -> None:
    await world.put("d")
    await world.share("d", READERS[1], and_the_store=False)
    manifest = await world.back_up(target)
    new = empty(tmp_path)
    await restore(target, manifest, new)
    (number,) = {one.reader_set for one in (await chunks_of(new.store)).values()}
    catalog = await SqlCatalog.open_sqlite(new.places.catalog)
    try:
        assert number in await catalog.reader_sets(TENANT, READERS[1].readers)
        assert number not in await catalog.reader_sets(TENANT, READERS[0].readers)
    finally:
        await catalog.close()


async def test_what_the_index_has_lost_is_named_and_the_rest_is_good(
    world: Installation, target: Path, tmp_path: Path
) -> None:
    await world.put("whole")
    version = await world.put("torn", chunks=5)
    del world.store._shelves[PARTITION].chunks[f"torn#{version}.3"]
    await world.put("lost", chunks=2)
    await world.store.delete_chunks(PARTITION, "lost")
    manifest = await world.back_up(target)
    assert {entry.document_id for entry in manifest.lacking} == {"torn", "lost"}
    assert DocumentEntry(TENANT, COLLECTION, "torn", version) in manifest.lacking
    assert (manifest.documents, manifest.chunks) == (3, 3 + 4)
    check_backup(target)
    new = empty(tmp_path)
    await restore(target, manifest, new)
    assert len(await chunks_of(new.store)) == 7


async def test_nothing_is_left_of_a_backup_that_failed(
    world: Installation, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put("d")
    answers = asyncio.Event()

    async def hang(*_: object, **__: object) -> list[StoredChunk]:
        await answers.wait()
        return []

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "list_chunks", hang)
        with pytest.raises(Unavailable, match="did not answer in time"):
            await world.back_up(target, pace=Pace(page=0.01))
    assert list(target.parent.iterdir()) == []
    # The catalog is not held any more.
    await world.put("d")
    await world.back_up(target)
    with pytest.raises(AlreadyExists):
        await world.back_up(target)


async def test_changes_that_outrun_the_walk_end_it(
    world: Installation, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time to hold the catalog, a document that is always changed before it is held is never whole."""
    await world.put("d")
    held = gathering.Catalog.held

    @asynccontextmanager
    async def busy(catalog: gathering.Catalog) -> AsyncIterator[None]:
        await world.put("d")
        async with held(catalog):
            yield

    monkeypatch.setattr(gathering.Catalog, "held", busy)
    with pytest.raises(Unavailable, match="change faster"):
        await world.back_up(target, pace=Pace(few=0, rounds=2, hold=-1.0, tries=2))
    assert list(target.parent.iterdir()) == []


async def test_there_is_nothing_to_back_up_where_nothing_was_stored(tmp_path: Path, target: Path) -> None:
    with pytest.raises(NotFound, match="nothing was stored yet"):
        await empty(tmp_path).back_up(target)
    assert not target.parent.exists()


# --- damage ---------------------------------------------------------------------------------------------------------


async def test_counts_that_are_not_the_catalogs_are_refused(world: Installation, target: Path) -> None:
    """Hashes tell of damage; that the files belong together is looked at besides."""
    for name in ("a", "b"):
        await world.put(name)
    manifest = await world.back_up(target)
    (entry,) = manifest.collections
    for wrong in (replace(entry, documents=1), replace(entry, chunks=5), replace(entry, parts=())):
        (target / "manifest.json").write_bytes(encode(replace(manifest, collections=(wrong,))))
        with pytest.raises(DataLoss, match="damaged"):
            check_backup(target)
    (target / "manifest.json").write_bytes(encode(manifest))
    check_backup(target)


# --- what waits for the log, revocations, keys ----------------------------------------------------------------------


async def test_spools_and_revocations_are_restored(world: Installation, target: Path, tmp_path: Path) -> None:
    await world.put("d")
    await world.write_log(3)

    async def nobody(_: object) -> None:
        raise Unavailable("nobody")

    for name in ("query", "command-own"):
        spool = await Spool.open(DirectoryFiles.open(world.places.spool / name), nobody, max_bytes=1 << 20)
        await kept(lambda then, spool=spool: spool.submit(Kind.OPENS, b"key", b"an event", then))  # type: ignore[misc] # bound now
        if name == "query":
            querying = spool
    store = SqliteRevocationStore(world.places.keys_dir / "revocations.sqlite3")
    world.places.keys_dir.mkdir(mode=0o700)
    await store.add(SubjectRevoked.at(1_800_000_000.0, TENANT, "alice"), 1_800_000_000.0)
    await store.close()
    manifest = await world.back_up(target, own_spool="command-own")
    assert not any(name.startswith("spool/command-own") for name in manifest.files)
    new = empty(tmp_path)
    await restore(target, manifest, new)
    got: list[bytes] = []

    async def deliver(payloads: Sequence[bytes]) -> None:
        got.extend(payloads)

    reopened = await Spool.open(DirectoryFiles.open(new.places.spool / "query"), deliver, max_bytes=1 << 20)
    assert reopened.left_open == {b"key": (b"an event",)}
    await reopened.deliver_all()
    assert got == [b"an event"]
    await reopened.close()
    await querying.close()
    revoked = SqliteRevocationStore(new.places.keys_dir / "revocations.sqlite3")
    assert len((await revoked.read(None)).revocations) == 1
    await revoked.close()


async def test_keys_come_back_from_their_own_file_and_shredded_ones_do_not(
    world: Installation, target: Path, tmp_path: Path
) -> None:
    master = SecretMasterKey.generate()
    places = KeyPlaces(world.places.keys_dir, world.log.audit / "signing-key", world.log.witness / "signing-key")
    store = open_key_store(places.keys_dir)
    keyring = Keyring(master, store)
    numbers = {tenant: keyring.for_tenant(tenant).newest for tenant in ("acme", "gone")}
    await world.put("d")
    await world.write_log(2)
    for path in (places.log_key, places.witness_key):
        path.write_bytes(b"secret")
        path.chmod(0o600)
    file = tmp_path / "keys.tar"
    assert set(back_up_keys(places, file, time="now")) == {
        *("tenants.sqlite3", "audit-signing-key", "witness-signing-key")
    }
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExists):
        back_up_keys(places, file, time="now")
    keyring.shred("gone")
    store.close()
    manifest = await world.back_up(target)
    assert manifest.keys == (
        TenantKeys("acme", (numbers["acme"],), shredded=False),
        TenantKeys("gone", (), shredded=True),
    )
    secrets = (b"secret", (places.keys_dir / "tenants.sqlite3").read_bytes()[-64:])
    assert not any(name.endswith(("signing-key", "tenants.sqlite3", "master.key")) for name in manifest.files)
    assert not any(secret in (target / name).read_bytes() for name in manifest.files for secret in secrets[:1])
    new = empty(tmp_path)
    outcome = await restore(target, manifest, new, keys=read_keys(file))
    assert outcome.shredded_again == ["gone"]
    assert (new.log.audit / "signing-key").read_bytes() == b"secret"
    assert (new.log.audit / "signing-key").stat().st_mode & 0o777 == 0o600
    restored = open_key_store(new.places.keys_dir)
    records = {record.tenant: record for record in Keyring(NoMasterKey(), restored).list_tenants()}
    assert records["gone"].keys == ()
    assert records["gone"].shred_time is not None
    assert Keyring(master, restored).for_tenant("acme").newest == numbers["acme"]
    restored.close()
    for wrong in (b"", file.read_bytes()[:700], file.read_bytes().replace(b"secret", b"SECRET")):
        (tmp_path / "wrong.tar").write_bytes(wrong)
        with pytest.raises(DataLoss):
            read_keys(tmp_path / "wrong.tar")
    with pytest.raises(NotFound):
        read_keys(tmp_path / "nowhere.tar")


# --- the log and its witness ----------------------------------------------------------------------------------------


async def test_a_lost_log_goes_on_from_the_backups(world: Installation, target: Path, tmp_path: Path) -> None:
    await world.put("d")
    await world.write_log(5)
    manifest = await world.back_up(target)
    new = empty(tmp_path)
    outcome = await restore(target, manifest, new)
    assert (outcome.log, outcome.lost_events, outcome.set_aside) == (LogFate.RESTORED, 0, None)
    assert verify_log(new.log).events == 5
    # The witness signs on: what it remembers came back with the log.
    await new.write_log(8)
    report = verify_log(new.log)
    assert (report.intact, report.events) == (True, 8)


async def test_a_newer_log_is_kept(world: Installation, target: Path) -> None:
    await world.put("d")
    await world.write_log(5)
    manifest = await world.back_up(target)
    await world.write_log(9)
    (world.places.keys_dir).mkdir(mode=0o700)
    (world.places.keys_dir / "master.key").write_text("kept")
    await world.put("later")
    await world.close()
    with pytest.raises(FailedPrecondition, match=r"is not empty.*--replace"):
        await restore(target, manifest, world)
    assert (world.data / "catalog.sqlite3").exists()
    outcome = await restore(target, manifest, world, Wishes(replace=True))
    assert outcome.log is LogFate.KEPT
    assert verify_log(world.log).events == 9
    assert (world.places.keys_dir / "master.key").read_text() == "kept"
    assert outcome.set_aside == world.data / "replaced-now"
    assert (outcome.set_aside / "catalog.sqlite3").exists()
    assert {document.document_id for document in read_contents(world.places.catalog).documents} == {"d"}


async def test_a_witness_that_has_seen_more_is_not_fooled(world: Installation, target: Path, tmp_path: Path) -> None:
    await world.put("d")
    await world.write_log(5)
    manifest = await world.back_up(target)
    await world.write_log(9)
    last = (world.log.witness / LAST).read_text()
    # The log is lost, the witness is not: it may even be in another place.
    new = empty(tmp_path)
    new.log = replace(new.log, witness=world.log.witness)
    with pytest.raises(FailedPrecondition, match=r"seen 9 events .* has 5: .*--new-log"):
        await restore(target, manifest, new)
    assert list(new.data.iterdir()) == []
    # Or only its checkpoint is at hand.
    with pytest.raises(FailedPrecondition, match="seen 9 events"):
        await restore(target, manifest, empty(tmp_path), Wishes(known=(last,)))
    outcome = await restore(target, manifest, empty(tmp_path), Wishes(known=(last,), new_log=True))
    assert (outcome.log, outcome.lost_events) == (LogFate.ENDED, 4)
    ended = tmp_path / "new" / "audit-ended" / manifest.backup_id
    assert not (tmp_path / "new" / "audit").exists()
    assert not (tmp_path / "new" / "witness").exists()
    report = verify_log(replace(world.log, audit=ended / "audit", witness=ended / "witness"))
    assert (report.intact, report.events) == (True, 5)


async def test_a_log_that_was_rewritten_since_is_not_kept(world: Installation, target: Path) -> None:
    """What is there must continue the backup's; a longer one that does not is no newer one."""
    await world.put("d")
    await world.write_log(5)
    manifest = await world.back_up(target)
    shutil.rmtree(world.log.audit)
    await world.close()
    await world.write_log(9, witnessed=False, rewritten=True)
    outcome = await restore(target, manifest, world, Wishes(replace=True))
    assert outcome.log is LogFate.RESTORED
    assert verify_log(world.log).events == 5
    assert outcome.set_aside is not None
    assert (outcome.set_aside / "audit" / "events").is_dir()


async def test_a_checkpoint_that_the_backup_contradicts_is_refused(
    world: Installation, target: Path, tmp_path: Path
) -> None:
    await world.put("d")
    await world.write_log(5)
    manifest = await world.back_up(target)
    checkpoint = Checkpoint(LOG.verifier.name, 4, bytes(32))
    forged = str(Note(checkpoint.body, ()).with_line(LOG.sign(checkpoint.body)))
    with pytest.raises(DataLoss, match="not those that were signed"):
        await restore(target, manifest, empty(tmp_path), Wishes(known=(forged,)))
    with pytest.raises(FailedPrecondition, match="not one of the backup's log"):
        await restore(target, manifest, empty(tmp_path), Wishes(known=("no note",)))


async def test_a_damaged_log_is_not_backed_up_as_a_good_one(world: Installation, target: Path) -> None:
    await world.put("d")
    await world.write_log(5)
    (segment,) = (world.log.audit / "events").glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    with pytest.raises(DataLoss):
        await world.back_up(target)
    assert list(target.parent.iterdir()) == []


async def test_a_frame_that_is_being_written_is_left_out(world: Installation, target: Path) -> None:
    await world.put("d")
    await world.write_log(5)
    (segment,) = (world.log.audit / "events").glob("*.segment")
    with segment.open("ab") as file:
        file.write(segment.read_bytes()[20:60])
    manifest = await world.back_up(target)
    assert manifest.audit is not None
    assert manifest.audit.events == 5
    check_backup(target)


# --- interruptions --------------------------------------------------------------------------------------------------


async def test_an_interrupted_restore_is_found_and_begun_again(
    world: Installation, target: Path, tmp_path: Path
) -> None:
    await world.put("d")
    manifest = await world.back_up(target)
    new = empty(tmp_path)
    (new.data / RESTORING / "tree").mkdir(parents=True)
    (new.data / RESTORING / "tree" / "catalog.sqlite3").write_bytes(b"half")
    await new.store.upsert_chunks(
        PARTITION, [replace_id(one, f"x{one.chunk_id}") for one in (await chunks_of(world.store)).values()]
    )
    with pytest.raises(FailedPrecondition, match="restore"):
        require_restored(new.data)
    outcome = await restore(target, manifest, new)
    assert outcome.went_on
    require_restored(new.data)
    assert len(await chunks_of(new.store)) == 3
    # One that was interrupted while things were moved: nothing is taken for its own that may be somebody else's.
    (new.data / RESTORING).mkdir()
    with pytest.raises(FailedPrecondition, match=r"was interrupted, and .* is not empty.*--replace"):
        await restore(target, manifest, new)
    outcome = await restore(target, manifest, new, Wishes(replace=True))
    assert outcome.set_aside is not None
    assert sorted(path.name for path in new.data.iterdir()) == ["catalog.sqlite3", "keys", "replaced-now"]


def replace_id(one: StoredChunk, chunk_id: str) -> StoredChunk:
    return replace(one, chunk_id=chunk_id)


async def test_a_restore_that_fails_leaves_everything_as_it_was(
    world: Installation, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put("d")
    manifest = await world.back_up(target)
    await world.close()
    before = sorted(path.name for path in world.data.iterdir())

    async def lose(*_: object, **__: object) -> int:
        return 2

    monkeypatch.setattr(world.store, "count_chunks", lose)
    with pytest.raises(DataLoss, match="1 documents in 2 chunks after the restore, and not 1 in 3"):
        await restore(target, manifest, world, Wishes(replace=True))
    assert sorted(path.name for path in world.data.iterdir()) == before


async def test_a_store_in_use_is_not_replaced(world: Installation, target: Path) -> None:
    await world.put("d")
    manifest = await world.back_up(target)
    lock = DirectoryLock.acquire(world.data / "store")
    try:
        with pytest.raises(FailedPrecondition, match="in use"):
            await restore(target, manifest, world, Wishes(replace=True))
    finally:
        lock.release()
