"""Restoring a backup: everything is built and verified beside what is there, and moved into place at the end.

The data directory may be where a disk is mounted, so the work is done inside of it, in ``.restoring``. While that is
there no service starts: an interrupted restore is found, and begun again.

What a backup must not undo stays: a log that is newer than the backup's and continues it is kept, with its witness and
what waits for it; and so are keys, unless they are restored, too. A log that is not there any more is continued from the
backup's, which the witness allows only if it has not seen more of it. If it has, the log has to end, and a new one to
begin (``new_log``): whoever restores says so.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.audit.note import NoteError
from services.audit.records import EVENTS
from services.audit.witness.witness import LAST
from services.backup.backup import REVOCATIONS, Watching
from services.backup.checking import check_log
from services.backup.folder import copy_file, sync_directory, sync_tree
from services.backup.gathering import CATALOG
from services.backup.indexing import Restored, write_index
from services.backup.journals import AUDIT, SPOOL, WITNESS, Log, size_of, verify_log
from services.backup.keys_file import LOG_KEY, WITNESS_KEY, KeyPlaces, restore_keys
from services.backup.manifest import AuditEntry, Manifest
from services.corpus.errors import DataLoss, FailedPrecondition
from services.journal.files import DirectoryFiles
from services.runtime.restoring import RESTORING
from services.security.key_files import ensure_private_directory
from services.vectorstores.directory_lock import DirectoryLock
from services.vectorstores.ports import VectorStore

KEYS = "keys"
ENDED = "audit-ended"
_TREE = "tree"
_ASIDE = "replaced-"
# Where a volume begins, and nothing of ours.
_FOREIGN = {"lost+found"}


class LogFate(StrEnum):
    """What became of the audit log: the one that was there is newer, say, and was kept."""

    RESTORED = "restored"
    KEPT = "kept"
    ENDED = "ended"
    NONE = "none"


@dataclass(frozen=True)
class Wishes:
    """What whoever restores decided. ``known`` are checkpoints from elsewhere that the log must contain.

    ``replace`` sets aside what is in the data directory; ``new_log`` ends the backup's log, and lets a new one begin.
    """

    replace: bool = False
    new_log: bool = False
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What was done.

    ``log`` is RESTORED, KEPT, ENDED or NONE; ``lost_events`` is how many events of it are known to be gone.
    ``shredded_again`` are tenants whose keys came back and were destroyed once more; ``set_aside`` is where what was there
    before is kept; ``went_on`` says that an interrupted restore was found.
    """

    collections: Sequence[Restored]
    log: LogFate
    lost_events: int
    shredded_again: Sequence[str]
    set_aside: Path | None
    went_on: bool


class Restoring:
    """One restore of ``root`` (a backup that was checked) into ``data_dir``. ``log`` is where a log may still be."""

    def __init__(self, root: Path, manifest: Manifest, data_dir: Path, log: Log, wishes: Wishes) -> None:
        self._root = root
        self._manifest = manifest
        self._data_dir = data_dir
        self._here = log
        self._wishes = wishes
        self._work = data_dir / RESTORING
        self.tree = self._work / _TREE
        """The data directory that is being built."""
        self._keep: set[str] = set()
        self.log = LogFate.NONE
        """What becomes of the log; known once this has begun."""
        self.lost_events = 0
        self._went_on = False
        self._collections: Sequence[Restored] = ()
        self._shredded_again: Sequence[str] = ()
        self._held = ExitStack()

    def begin(self) -> None:
        """Look whether this may be done, and make the place for it. Blocking.

        FailedPrecondition if the data directory is not empty (and may not be replaced), in use, or its witness has
        seen more of the log than the backup has.
        """
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._went_on = self._work.exists()
        if self._there() and not self._wishes.replace:
            interrupted = "an earlier restore was interrupted, and " if self._went_on else ""
            raise FailedPrecondition(
                f"{interrupted}{self._data_dir} is not empty: name another place, or use --replace, which keeps aside "
                "what is there"
            )
        try:
            self._require_stopped()
            self._decide_about_the_log()
            if self._work.exists():
                shutil.rmtree(self._work)
            self.tree.mkdir(mode=0o700, parents=True)
            sync_directory(self._data_dir)
        except BaseException:
            self._held.close()
            raise

    def abandon(self) -> None:
        """Leave everything as it was. Blocking."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._held.close()

    async def build(
        self,
        open_store: Callable[[Path], Awaitable[VectorStore]],
        watching: Watching,
        keys: Mapping[str, bytes] | None,
    ) -> None:
        """Write catalog, index, log, spools, revocations and keys beside what is there, and verify them. DataLoss."""
        await asyncio.to_thread(copy_file, self._root / CATALOG, self.tree / CATALOG)
        self._collections = await write_index(self._root, self._manifest, self.tree, open_store, watching)
        await asyncio.to_thread(self._build_files, keys)

    def commit(self, aside: str) -> Outcome:
        """Move what was built into place, and what was there into its directory ``aside``. Blocking."""
        sync_tree(self.tree)
        set_aside: Path | None = None
        for entry in self._there():
            if entry.name not in self._keep and not entry.name.startswith(_ASIDE):
                set_aside = self._data_dir / f"{_ASIDE}{aside}"
                set_aside.mkdir(mode=0o700, exist_ok=True)
                entry.rename(set_aside / entry.name)
        for entry in sorted(self.tree.iterdir()):
            if entry.name not in self._keep:
                entry.rename(self._data_dir / entry.name)
        sync_directory(self._data_dir)
        # Only now may anybody use it.
        shutil.rmtree(self._work)
        sync_directory(self._data_dir)
        self._held.close()
        return Outcome(self._collections, self.log, self.lost_events, self._shredded_again, set_aside, self._went_on)

    # --- before anything is written ------------------------------------------------------------------------------

    def _there(self) -> list[Path]:
        return [entry for entry in sorted(self._data_dir.iterdir()) if entry.name not in {RESTORING, *_FOREIGN}]

    def _require_stopped(self) -> None:
        """Nobody may use what is there, nor begin to."""
        if (self._data_dir / "store").is_dir():
            self._held.callback(DirectoryLock.acquire(self._data_dir / "store").release)
        for directory in (self._here.audit / EVENTS, self._here.witness):
            if directory.is_dir():
                self._held.callback(DirectoryFiles.open(directory).release)

    def _decide_about_the_log(self) -> None:
        audit = self._manifest.audit
        if audit is None:
            return
        if self._wishes.new_log:
            self.log = LogFate.ENDED
            self.lost_events = max(0, self._seen(audit) - audit.events)
            return
        if self._here.exists and self._continues_the_backup(audit):
            self.log = LogFate.KEPT
            self._keep |= {AUDIT, WITNESS, SPOOL}
            return
        seen = self._seen(audit)
        if seen > audit.events:
            raise FailedPrecondition(
                f"the witness has seen {seen:,} events of the audit log, and this backup has {audit.events:,}: it would "
                "sign nothing more. Put back a newer copy of the log, or use --new-log to end this one and begin "
                "another (docs/backup.md)"
            )
        report = verify_log(Log(self._root / AUDIT, self._root / WITNESS), known=tuple(self._known()))
        if not report.intact:
            raise DataLoss(f"the backup's audit log does not hold: {report.problems[0]}")
        self.log = LogFate.RESTORED
        if (self._here.witness / LAST).is_file():
            self._keep.add(WITNESS)  # it remembers at least as much

    def _continues_the_backup(self, audit: AuditEntry) -> bool:
        report = verify_log(self._here, known=(audit.checkpoint,) if audit.checkpoint else ())
        return report.intact and report.events >= audit.events

    def _known(self) -> list[str]:
        last = self._here.witness / LAST
        return [*self._wishes.known, *([last.read_text()] if last.is_file() else [])]

    def _seen(self, audit: AuditEntry) -> int:
        """How many events of the backup's log somebody is known to have seen."""
        seen = 0
        for checkpoint in self._known():
            try:
                seen = max(seen, size_of(checkpoint, audit.log_key))
            except NoteError as error:
                raise FailedPrecondition(f"a known checkpoint is not one of the backup's log: {error}") from error
        return seen

    # --- in the new tree -----------------------------------------------------------------------------------------

    def _build_files(self, keys: Mapping[str, bytes] | None) -> None:
        match self.log:
            case LogFate.RESTORED:
                log = Log(self.tree / AUDIT, self.tree / WITNESS)
                self._copy(AUDIT, log.audit)
                self._copy(WITNESS, log.witness)
                check_log(log, self._manifest)
            case LogFate.ENDED:
                ended = self.tree / ENDED / self._manifest.backup_id
                self._copy(AUDIT, ended / AUDIT)
                self._copy(WITNESS, ended / WITNESS)
        self._copy(SPOOL, self.tree / SPOOL)
        ensure_private_directory(self.tree / KEYS)
        if (self._root / REVOCATIONS).is_file():
            copy_file(self._root / REVOCATIONS, self.tree / KEYS / REVOCATIONS)
        if keys is None:
            if (self._data_dir / KEYS).is_dir():
                self._keep.add(KEYS)  # no backup has them: what is there is all that there is
            return
        wanted = dict(keys)
        if self.log is not LogFate.RESTORED:
            # A new log has a new key, and one that is kept has its own.
            wanted = {name: data for name, data in keys.items() if name not in (LOG_KEY, WITNESS_KEY)}
        places = KeyPlaces(self.tree / KEYS, self.tree / AUDIT / "signing-key", self.tree / WITNESS / "signing-key")
        shredded = [entry.tenant for entry in self._manifest.keys if entry.shredded]
        self._shredded_again = restore_keys(wanted, places, shredded=shredded)

    def _copy(self, name: str, target: Path) -> None:
        """Copy the files of one part."""
        for file in self._manifest.files:
            part, _, rest = file.partition("/")
            if part == name:
                copy_file(self._root / file, target / rest)
