"""Copies of append-only journals that others write: the audit log, its checkpoints, and the spools. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.audit.keys import PUBLIC
from services.audit.note import NoteError, Verifier, open_checkpoint
from services.audit.records import CHECKPOINTS, EVENTS, read_checkpoint
from services.audit.verify import Report, verify_directory
from services.audit.witness.witness import LAST
from services.backup.folder import Folder
from services.backup.manifest import AuditEntry
from services.corpus.errors import DataLoss, Unavailable
from services.journal.files import DirectoryFiles
from services.journal.frames import HEADER_SIZE
from services.journal.memory import MemoryFiles
from services.journal.segments import CUT, DamagedJournalError, scan, segment_names

AUDIT = "audit"
WITNESS = "witness"
SPOOL = "spool"
PINNED = "log-key"
"""The log's key as the witness remembers it."""
_TRIES = 10


@dataclass(frozen=True)
class Log:
    """The directories of a log and of its witness."""

    audit: Path
    witness: Path

    @property
    def exists(self) -> bool:
        """Whether there ever was a log."""
        return (self.audit / PUBLIC).is_file() and (self.audit / CHECKPOINTS).is_dir()


def copy_spools(directory: Path, folder: Folder, *, without: str = "") -> None:
    """Copy what waits for the audit log. ``without`` names the spool of the command that makes the backup.

    Before the log: what is handed on in between is in both, and the log recognises what it gets twice.
    """
    if not directory.is_dir():
        return
    for spool in sorted(path for path in directory.iterdir() if path.is_dir() and path.name != without):
        _copy_whole(spool, f"{SPOOL}/{spool.name}", folder)


def copy_log(log: Log, folder: Folder) -> AuditEntry:
    """Copy the log and what its witness remembers, and verify the copy; DataLoss if it does not hold.

    The witness first, then checkpoints, then events: what is copied later continues what was copied before.
    """
    for name in (LAST, PUBLIC, PINNED):
        if (log.witness / name).is_file():
            _copy(log.witness / name, f"{WITNESS}/{name}", folder)
    _copy(log.audit / PUBLIC, f"{AUDIT}/{PUBLIC}", folder)
    for name in (CHECKPOINTS, EVENTS):
        if (log.audit / name).is_dir():
            _copy_journal(log.audit / name, f"{AUDIT}/{name}", folder)
    copied = Log(folder.root / AUDIT, folder.root / WITNESS)
    report = verify_log(copied)
    if not report.intact:
        raise DataLoss(f"the audit log is damaged: {report.problems[0]}")
    return describe(copied, report)


def describe(log: Log, report: Report) -> AuditEntry:
    """What the manifest says of a log that was verified."""
    checkpoint = last_checkpoint(log)
    return AuditEntry(
        events=report.events,
        covered=report.covered,
        log_key=_text(log.audit / PUBLIC),
        checkpoint=checkpoint,
        witness_key=_text(log.witness / PUBLIC),
        witness_checkpoint=_text(log.witness / LAST),
    )


def verify_log(log: Log, *, known: tuple[str, ...] = ()) -> Report:
    """Verify a log with the keys that lie beside it, against what its witness remembers and the ``known`` checkpoints."""
    try:
        key = Verifier.parse(_text(log.audit / PUBLIC))
        witness = _text(log.witness / PUBLIC)
        witnesses = [Verifier.parse(witness)] if witness else []
    except NoteError as error:
        return Report(problems=[f"a verifier key cannot be read: {error}"])
    remembered = _text(log.witness / LAST)
    # The known ones are what a backup noted of its own log, cosigned or not yet.
    checkpoints = [*known, *([remembered] if remembered else [])]
    return verify_directory(log.audit, [key], witnesses, checkpoints, known_cosigned=False)


def last_checkpoint(log: Log) -> str:
    """The newest checkpoint of a log, as a signed note; empty if there is none."""
    files = DirectoryFiles.unlocked(log.audit / CHECKPOINTS)
    key = Verifier.parse(_text(log.audit / PUBLIC))
    for name in reversed(segment_names(files)):
        payloads = [payload for _, _, payload in scan(files, name)]
        if payloads:
            return str(read_checkpoint(payloads[-1], (key,)).note)
    return ""


def size_of(checkpoint: str, log_key: str) -> int:
    """How many events a checkpoint covers; NoteError if the log did not sign it."""
    return open_checkpoint(checkpoint, [Verifier.parse(log_key)])[1].size


def _copy_journal(source: Path, name: str, folder: Folder) -> None:
    """Copy a journal that only grows, up to its last whole frame."""
    files = DirectoryFiles.unlocked(source)
    for segment, data in _whole_segments(files, segment_names(files)):
        with folder.create(f"{name}/{segment}") as copy:
            copy.write(data)


def _copy_whole(source: Path, name: str, folder: Folder) -> None:
    """Copy a journal whose owner removes segments from its beginning; Unavailable if that happens again and again."""
    files = DirectoryFiles.unlocked(source)
    for _ in range(_TRIES):
        copied: list[str] = []
        try:
            for segment, data in _whole_segments(files, segment_names(files)):
                with folder.create(f"{name}/{segment}") as copy:
                    copy.write(data)
                copied.append(f"{name}/{segment}")
        except FileNotFoundError:  # delivered, and gone meanwhile
            for done in copied:
                folder.remove(done)
            continue
        return
    raise Unavailable(f"{name} changes faster than it can be copied; try again")


def _whole_segments(files: DirectoryFiles, names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        last = name == names[-1]
        data = files.read(name, 0, files.size(name))
        try:
            size = _whole_size(data, name, last=last)
        except DamagedJournalError as error:
            raise DataLoss(f"{files.directory.name}: {error.message}") from error
        if size:
            yield name, data[:size]


def _whole_size(data: bytes, name: str, *, last: bool) -> int:
    if last and len(data) < HEADER_SIZE:
        return 0  # it is being begun
    # What was read, and not the file, which has grown since.
    files = MemoryFiles()
    files.write(files.create(name), data)
    try:
        for _ in scan(files, name):
            pass
    except DamagedJournalError as error:
        if last and error.what == CUT:
            return error.offset
        raise
    return len(data)


def _copy(source: Path, name: str, folder: Folder) -> None:
    with folder.create(name) as copy:
        copy.write(source.read_bytes())


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
