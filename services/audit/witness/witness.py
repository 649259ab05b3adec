"""The witness's decision (C2SP tlog-witness), and what it remembers.

It signs a checkpoint only if that is the last one it saw or provably continues it, and remembers the new one durably
before its signature leaves. So whoever holds the log's key can still lie, but never two ways: a log that was rewritten,
rolled back, cut or forked gets no more signatures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from services.audit.merkle import verify_consistency
from services.audit.note import Checkpoint, Note, NoteError, Signer, Verifier, open_checkpoint
from services.audit.ports import CheckpointRefused
from services.corpus.errors import DataLoss, FieldViolation, InvalidRequest, Unavailable
from services.journal.ports import Files, replace

LAST = "last-checkpoint"


def decide(last: Checkpoint | None, old_size: int, proof: Sequence[bytes], new: Checkpoint) -> None:
    """Return if ``new`` may be signed after ``last``; CheckpointRefused otherwise. Pure."""
    seen = last.size if last is not None else 0
    if old_size != seen:
        raise CheckpointRefused(f"the checkpoint seen last has {seen:,} events, not {old_size:,}", seen)
    if new.size < seen:
        raise CheckpointRefused(f"a checkpoint of {seen:,} events was seen: the log was rolled back", seen)
    if last is None:
        return
    if last.origin != new.origin:
        raise CheckpointRefused("another log is being witnessed here", seen)
    if not verify_consistency(seen, new.size, proof, last.root, new.root):
        raise CheckpointRefused(f"it does not continue the checkpoint of {seen:,} events that was seen", seen)


class CheckpointWitness:
    """Decides, remembers, signs. Blocking, and safe to call from several threads."""

    def __init__(
        self,
        files: Files,
        signer: Signer,
        log_key: Callable[[], Verifier],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``log_key`` gives the log's key, or raises Unavailable. DataLoss if what was remembered is damaged."""
        self._files = files
        self._signer = signer
        self._log_key = log_key
        self._now = now
        self._lock = threading.Lock()
        self._last: tuple[Note, Checkpoint] | None = None
        if LAST in files.names():
            content = files.read(LAST, 0, files.size(LAST))
            try:
                note = Note.parse(content.decode())
                # Our own signature over it: nobody else can change what we remember.
                signed = note.signed_by(signer.verifier)
                self._last = note, Checkpoint.parse(note.body)
            except (NoteError, UnicodeDecodeError) as error:
                raise DataLoss(f"{LAST} is damaged: {error}") from error
            if signed is None:
                raise DataLoss(f"{LAST} does not carry the witness's own signature")

    @property
    def last(self) -> tuple[Note, Checkpoint] | None:
        """The last checkpoint that was signed, with the cosignature."""
        return self._last

    def cosign(self, old_size: int, proof: Sequence[bytes], text: str) -> tuple[str, int]:
        """A cosignature line and the size that was seen last.

        InvalidRequest for a checkpoint that the log did not sign, CheckpointRefused for one that does not continue
        the last one, Unavailable if the decision cannot be made durable.
        """
        try:
            note, checkpoint = open_checkpoint(text, [self._log_key()])
        except NoteError as error:
            raise InvalidRequest([FieldViolation("note", str(error))]) from error
        with self._lock:
            decide(self._last[1] if self._last else None, old_size, proof, checkpoint)
            line = self._signer.sign(checkpoint.body, int(self._now()))
            seen = note.with_line(line)
            try:
                replace(self._files, LAST, str(seen).encode())
            except OSError as error:
                raise Unavailable("the witness cannot remember the checkpoint, so it does not sign it") from error
            self._last = seen, checkpoint
        return line, checkpoint.size

    def close(self) -> None:
        """Give the directory back."""
        self._files.release()
