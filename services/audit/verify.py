"""Verifying a log's directory with public keys alone: every frame, the chain, every root, every signature.

What this cannot see is a log that was rewritten or cut as a whole, with the log's own key: it is consistent in itself.
That shows where the witness's signatures end (:attr:`Report.unwitnessed`), and against a checkpoint from elsewhere that
the witness signed, such as the last one (``known``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.audit.event import decode
from services.audit.merkle import MerkleTree
from services.audit.note import Checkpoint, Note, NoteError, Verifier, open_checkpoint
from services.audit.records import CHECKPOINTS, EVENTS, FIRST_CHAIN, SignedCheckpoint, read_checkpoint, read_event
from services.journal.files import DirectoryFiles
from services.journal.ports import Files
from services.journal.segments import CUT, DamagedJournalError, name_of, scan, segment_names

_MOST_PROBLEMS = 100


@dataclass
class Report:
    """What was found. ``notes`` are no problems: what a copy of a living log may look like."""

    events: int = 0
    checkpoints: int = 0
    cosigned: int = 0
    covered: int = 0
    unwitnessed: int = 0
    """How many events at the end no checkpoint covers that every witness key signed; 0 without witness keys."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    def add(self, problem: str) -> None:
        """Note a problem; after a hundred there is nothing more to learn."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def verify_directory(
    directory: Path,
    log_keys: Sequence[Verifier],
    witness_keys: Sequence[Verifier] = (),
    known: Sequence[str] = (),
    *,
    living: bool = False,
    known_cosigned: bool = True,
) -> Report:
    """Verify a log, or a copy of one, in ``directory``. Blocking; reads every byte.

    ``known`` are checkpoints from elsewhere that the log must contain. With ``witness_keys`` they must carry every
    witness's signature, because the log's key alone signs anything; ``known_cosigned`` set to False lets the log's do.
    A checkpoint whose end is missing is a problem, because one whose length was changed looks the same, unless the log
    is ``living``: then it is one that is being written.
    """
    missing = [name for name in (CHECKPOINTS, EVENTS) if not (directory / name).is_dir()]
    if missing:
        return Report(problems=[f"{name}/ is missing" for name in missing])
    opened = [DirectoryFiles.unlocked(directory / name) for name in (CHECKPOINTS, EVENTS)]
    return verify_files(
        opened[0], opened[1], log_keys, witness_keys, known, living=living, known_cosigned=known_cosigned
    )


def verify_files(
    checkpoints: Files,
    events: Files,
    log_keys: Sequence[Verifier],
    witness_keys: Sequence[Verifier],
    known: Sequence[str],
    *,
    living: bool = False,
    known_cosigned: bool = True,
) -> Report:
    """See :func:`verify_directory`."""
    report = Report()
    witnesses = tuple(witness_keys)
    # Checkpoints first: of a log that grows meanwhile, later events are no contradiction.
    signed = _read_checkpoints(checkpoints, tuple(log_keys), report, living=living)
    tree = _read_events(events, report)
    report.events = tree.size
    cosigned: set[int] = set()
    for where, one in signed:
        holds = _check_root(tree, one.checkpoint, where, report)
        report.covered = max(report.covered, one.checkpoint.size)
        if witnesses and _is_cosigned(one.note, witnesses, where, report) and holds:
            cosigned.add(one.checkpoint.size)
    report.cosigned = len(cosigned)
    if not signed and tree.size:
        report.add(f"{CHECKPOINTS}/: there is no checkpoint")
    cosigned |= _check_known(tree, known, tuple(log_keys), witnesses, report, must_be_cosigned=known_cosigned)
    if witnesses and tree.size:
        _note_unwitnessed(max(cosigned, default=0), report)
    if report.covered < report.events:
        report.notes.append(f"the last {report.events - report.covered:,} events are not covered by a checkpoint yet")
    return report


def _check_known(
    tree: MerkleTree,
    known: Sequence[str],
    log_keys: Sequence[Verifier],
    witnesses: Sequence[Verifier],
    report: Report,
    *,
    must_be_cosigned: bool,
) -> set[int]:
    """The sizes of those checkpoints from elsewhere that hold and that every witness signed."""
    cosigned: set[int] = set()
    for text in known:
        try:
            note, checkpoint = open_checkpoint(text, log_keys)
        except NoteError as error:
            report.add(f"the known checkpoint: {error}")
            continue
        where = f"the known checkpoint of {checkpoint.size:,} events"
        holds = _check_root(tree, checkpoint, where, report)
        if not witnesses:
            continue
        if _is_cosigned(note, witnesses, where, report):
            if holds:
                cosigned.add(checkpoint.size)
        elif must_be_cosigned:
            report.add(f"{where}: does not carry the witness's signature; the log's own proves nothing of the log")
    return cosigned


def _check_root(tree: MerkleTree, checkpoint: Checkpoint, where: str, report: Report) -> bool:
    if checkpoint.size > tree.size:
        report.add(f"{where}: covers {checkpoint.size:,} events, but only {tree.size:,} are whole")
    elif tree.root(checkpoint.size) != checkpoint.root:
        report.add(f"{where}: the first {checkpoint.size:,} events are not those that were signed")
    else:
        return True
    return False


def _is_cosigned(note: Note, witnesses: Sequence[Verifier], where: str, report: Report) -> bool:
    try:
        seen = [note.signed_by(key) for key in witnesses]  # all of them: one that is wrong is told
    except NoteError as error:
        report.add(f"{where}: {error}")
        return False
    return None not in seen


def _note_unwitnessed(newest: int, report: Report) -> None:
    report.unwitnessed = report.events - newest
    if not newest:
        report.notes.append("no checkpoint carries the witness's signature")
    elif report.unwitnessed:
        report.notes.append(f"the witness has signed up to {newest:,} of {report.events:,} events")


def _read_checkpoints(
    files: Files, log_keys: tuple[Verifier, ...], report: Report, *, living: bool
) -> list[tuple[str, SignedCheckpoint]]:
    found: list[tuple[str, SignedCheckpoint]] = []
    for where, number, payload in _frames(files, CHECKPOINTS, report, may_be_cut=living):
        try:
            signed = read_checkpoint(payload, log_keys)
        except NoteError as error:
            report.add(f"{where}: checkpoint {number:,}: {error}")
            continue
        if found and signed.checkpoint.size < found[-1][1].checkpoint.size:
            report.add(f"{where}: checkpoint {number:,} is older than the one before it")
        found.append((where, signed))
    report.checkpoints = len({signed.checkpoint.size for _, signed in found})
    return found


def _read_events(files: Files, report: Report) -> MerkleTree:
    tree = MerkleTree()
    chain = FIRST_CHAIN
    for where, index, payload in _frames(files, EVENTS, report, may_be_cut=True):
        if index != tree.size:
            report.add(f"{where}: event {index:,} stands where {tree.size:,} belongs")
            return tree
        try:
            leaf, leaf_hash, chain = read_event(payload, chain)
        except ValueError as error:
            report.add(f"{where}: event {index:,}: {error}")
            return tree
        try:
            decode(leaf)
        except (ValueError, KeyError, TypeError):
            report.add(f"{where}: event {index:,} cannot be read")
        tree.append(leaf_hash)
    return tree


def _frames(files: Files, folder: str, report: Report, *, may_be_cut: bool) -> Iterator[tuple[str, int, bytes]]:
    """Every whole frame with its place, up to the first problem."""
    names = segment_names(files)
    if not names:
        report.add(f"{folder}/: there is no segment")
    expected = 0
    for name in names:
        try:
            if name != name_of(expected):
                report.add(f"{folder}/{name}: does not begin where the file before it ends, at {expected:,}")
                return
            for offset, number, payload in scan(files, name):
                yield f"{folder}/{name}, byte {offset:,}", number, payload
                expected = number + 1
        except DamagedJournalError as error:
            if error.what == CUT and name == names[-1] and may_be_cut:
                report.notes.append(f"{folder}/{name}, byte {error.offset:,}: {CUT}; it was never acknowledged")
            else:
                report.add(f"{folder}/{error.message}")
            return
        except OSError as error:
            report.add(f"{folder}/{name}: cannot be read: {error.strerror}")
            return
