"""``groundwire backup`` and ``groundwire restore``: what stands around :mod:`services.backup`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cli.errors import usage
from cli.file_errors import refuse_obstacle
from cli.keys import explained
from cli.on_record import Noted, on_record
from cli.options import Globals
from cli.output import Screen
from cli.progress import progress
from cli.recovery_report import advice, show_backup, show_keys, show_restored, show_verified
from cli.services import KEYS, STORE
from services.audit.settings import AuditSettings
from services.audit.witness.settings import WitnessSettings
from services.backup import tars
from services.backup.backup import Places, Watching, back_up_to, new_backup_id
from services.backup.checking import check_backup
from services.backup.folder import Told
from services.backup.journals import Log
from services.backup.keys_file import KeyPlaces, back_up_keys, read_keys
from services.backup.manifest import Manifest
from services.backup.restore import LogFate, Outcome, Restoring, Wishes
from services.corpus.errors import FailedPrecondition, NotFound
from services.ingestion.settings import IngestionSettings
from services.runtime import logs
from services.runtime.process import VERSION, Process
from services.runtime.settings import Settings
from services.store.assembly import open_store
from services.store.settings import StoreSettings
from services.vectorstores.directory_lock import DirectoryLock
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import ChunkStore

_MIB = 1024 * 1024
_SIGNING_KEY = "signing-key"


@dataclass(frozen=True)
class Installation:
    """What the settings say of what is backed up, or restored."""

    settings: Settings
    store: StoreSettings
    store_address: str
    audit: AuditSettings
    witness: WitnessSettings

    @classmethod
    def of(cls, options: Globals, data_dir: Path | None) -> Installation:
        """Read the settings; ``data_dir`` goes before them."""
        ours = {} if data_dir is None else {"data_dir": data_dir.absolute()}
        return cls(
            options.load(Settings).replace(**ours),
            options.load(StoreSettings).replace(**ours),
            options.load(IngestionSettings).ingestion.vector_store_url,
            options.load(AuditSettings).replace(**ours),
            options.load(WitnessSettings).replace(**ours),
        )

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return self.settings.data_dir

    @property
    def log(self) -> Log:
        """The audit log and its witness."""
        return Log(self.audit.directory, self.witness.directory)

    @property
    def places(self) -> Places:
        """What is backed up."""
        return Places(
            self.settings.catalog_path, self.settings.keys_dir, self.log, self.settings.spool_path("x").parent
        )

    @property
    def key_places(self) -> KeyPlaces:
        """Where keys are."""
        return KeyPlaces(
            self.settings.keys_dir,
            self.audit.audit.signing_key or self.log.audit / _SIGNING_KEY,
            self.witness.witness.signing_key or self.log.witness / _SIGNING_KEY,
        )


@dataclass(frozen=True)
class Wanted:
    """What ``restore`` was told."""

    source: Path
    keys: Path | None
    replace: bool
    new_log: bool
    checkpoints: tuple[Path, ...]


# --- backup ---------------------------------------------------------------------------------------------------------


async def back_up(screen: Screen, installation: Installation, target: Path | None, keys: Path | None) -> int:
    """Write a backup, the keys, or both; returns the exit code."""
    refuse_obstacle(installation.settings.data_dir)
    logs.configure(installation.settings.log.model_copy(update={"level": "warning"}))
    now = datetime.now(UTC)
    backup_id = new_backup_id(now)
    with explained():
        if not installation.settings.catalog_path.is_file():
            raise NotFound(
                f"there is nothing to back up in {installation.data_dir}: nothing was stored yet, or it is another place"
            )
        code = 0
        if target is not None:
            with on_record(installation.settings, "backup", f"backups/{backup_id}") as noted:
                manifest, digest = await _write(screen, installation, target, backup_id, noted)
            code = show_backup(screen, target, manifest, digest)
        if keys is not None:
            # After the data, so that every key is in it under which something in the backup is sealed.
            with on_record(installation.settings, "backup --keys", f"key-backups/{backup_id}"):
                names = await asyncio.to_thread(
                    back_up_keys, installation.key_places, keys, time=now.isoformat(timespec="seconds")
                )
            show_keys(screen, keys, names, installation.settings, alone=target is None)
    return code


async def _write(
    screen: Screen, installation: Installation, target: Path, backup_id: str, noted: Noted
) -> tuple[Manifest, str]:
    packed = tars.packing(target) if target.suffix == tars.SUFFIX else nullcontext(target)
    with packed as folder, _watching(screen, "Copying") as watching:
        async with _opened_index(installation) as store:
            manifest, digest = await back_up_to(
                folder,
                installation.places,
                store,
                backup_id=backup_id,
                product=VERSION,
                encrypted=installation.settings.encryption.enabled,
                own_spool=noted.spool,
                watching=watching,
            )
    # Signed with the log: whoever changes the backup and its hashes afterwards is found out.
    noted.changes.append(f"sha256:{digest}")
    return manifest, digest


@asynccontextmanager
async def _opened_index(installation: Installation) -> AsyncIterator[ChunkStore]:
    """The store that ingestion writes to: through its service, or opened here while nobody has it."""
    settings, directory = installation.settings, installation.data_dir / STORE
    if installation.store_address or not await asyncio.to_thread(_is_free, directory):
        process = Process(tls=settings.tls)
        try:
            # From here on this process's calls carry its own token of the mesh.
            await process.identify(settings)
            store = process.remote_store(installation.store_address or settings.address(STORE), KEYS, STORE)
            try:
                yield store
            finally:
                await store.close()
        finally:
            await process.close()
        return
    # Without the directory nothing was ever stored.
    store = await open_store(installation.store) if directory.is_dir() else MemoryVectorStore()
    try:
        yield store
    finally:
        await store.close()


def _is_free(directory: Path) -> bool:
    if directory.is_dir():
        try:
            DirectoryLock.acquire(directory).release()
        except FailedPrecondition:
            return False
    return True


# --- verify and restore ---------------------------------------------------------------------------------------------


def verify(screen: Screen, source: Path) -> None:
    """Check everything in a backup, and show what it holds."""
    with explained(), tars.opened(source) as root, _checking(screen) as told:
        manifest, digest = check_backup(root, told)
    show_verified(screen, manifest, digest)


async def restore(screen: Screen, installation: Installation, wanted: Wanted) -> None:
    """Restore a backup, and show what was restored."""
    logs.configure(installation.settings.log.model_copy(update={"level": "warning"}))
    known = tuple(_read(path) for path in wanted.checkpoints)
    room = installation.data_dir.absolute().parent
    with explained():
        keys = None if wanted.keys is None else await asyncio.to_thread(read_keys, wanted.keys)
        room.mkdir(parents=True, exist_ok=True)
        with tars.opened(wanted.source, room=room) as root:
            with _checking(screen) as told:
                manifest, digest = await asyncio.to_thread(check_backup, root, told)
            wishes = Wishes(wanted.replace, wanted.new_log, known)
            restoring = Restoring(root, manifest, installation.data_dir, installation.log, wishes)
            await asyncio.to_thread(restoring.begin)
            try:
                outcome = await _restore(screen, installation, restoring, manifest, digest, keys)
            except BaseException:
                restoring.abandon()
                raise
        show_restored(screen, manifest, outcome)
        screen.note("\n".join(advice(manifest, outcome, installation.settings, installation.log)))


async def _restore(
    screen: Screen,
    installation: Installation,
    restoring: Restoring,
    manifest: Manifest,
    digest: str,
    keys: dict[str, bytes] | None,
) -> Outcome:
    async def open_in(tree: Path) -> ChunkStore:
        return await open_store(installation.store.replace(data_dir=tree))

    # In the log that will be there afterwards: the one that is kept, or the one that is being put back.
    kept = restoring.log is LogFate.KEPT
    where = installation.settings if kept else installation.settings.replace(data_dir=restoring.tree)
    aside = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with on_record(where, "restore", f"backups/{manifest.backup_id}") as noted:
        noted.changes.append(f"sha256:{digest}")
        noted.changes.append(f"as of {manifest.time}")
        if manifest.audit is not None and not kept:
            size, lost = manifest.audit.events, restoring.lost_events
            noted.changes.append(f"audit log {restoring.log}: {size} events of it, {lost} known to be lost")
            noted.changes.extend(manifest.audit.checkpoint.splitlines()[:3])
        with _watching(screen, "Restoring") as watching:
            await restoring.build(open_in, watching, keys)
        if kept:
            return await asyncio.to_thread(restoring.commit, aside)
    return await asyncio.to_thread(restoring.commit, aside)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"{path} cannot be read: {error}") from None


@contextmanager
def _watching(screen: Screen, label: str) -> Iterator[Watching]:
    shown = progress(screen.err, label, "chunk")
    try:
        yield Watching(shown.begin, shown.advance)
    finally:
        shown.end()


@contextmanager
def _checking(screen: Screen) -> Iterator[Told]:
    shown = progress(screen.err, "Checking", "MiB")
    checked = 0

    def told(size: int) -> None:
        nonlocal checked
        before, checked = checked, checked + size
        shown.advance(checked // _MIB - before // _MIB)

    shown.begin(0)
    try:
        yield told
    finally:
        shown.end()
