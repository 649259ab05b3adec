"""Signs checkpoints in time, has the witness cosign them, and brings the log back after a failed disk.

A checkpoint is due a second after the first event that none covers, or when a thousand events wait for one. The witness
is asked for the newest one alone: while it does not answer the log goes on without its signature, and catches up.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from services.audit.log import AuditLog
from services.audit.note import Checkpoint, NoteError, Verifier
from services.audit.ports import CheckpointRefused, Witness
from services.corpus.errors import DataLoss, GroundwireError

INTERVAL = 1.0
EVENTS = 1000
_REPAIR_INTERVAL = 1.0
_log = structlog.get_logger(__name__)


class Checkpointing:
    """Two loops beside one log. ``witness_key`` says whose cosignatures count, as soon as that is known."""

    def __init__(
        self,
        log: AuditLog,
        witness: Witness | None,
        witness_key: WitnessKey,
        *,
        interval: float = INTERVAL,
        witness_interval: float = INTERVAL,
    ) -> None:
        self._log = log
        self._witness = witness
        self._witness_key = witness_key
        self._interval = interval
        self._witness_interval = witness_interval
        self._seen = 0  # the size that the witness signed last, as far as we know
        self._signed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._problem = ""
        self.refused: DataLoss | None = None
        """Set while the witness says that this log is not the one that it saw."""

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._sign())]
        if self._witness is not None:
            self._tasks.append(asyncio.create_task(self._cosign()))

    async def close(self) -> None:
        """Stop, sign a last checkpoint, and ask the witness for it once more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with contextlib.suppress(GroundwireError):
            await self._log.sign()
        if self._witness is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._ask_safely()
            await self._witness.close()

    async def _sign(self) -> None:
        while True:
            try:
                await self._log.sign()
                self._signed.set()
                await self._log.grown_or_failed(self._log.covered)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._log.grown_or_failed(self._log.covered + EVENTS - 1)
            except GroundwireError as error:
                _log.error("the audit log cannot be written", reason=error.message)
                await self._repair()

    async def _repair(self) -> None:
        while True:
            await asyncio.sleep(_REPAIR_INTERVAL)
            try:
                await self._log.repair()
            except GroundwireError as error:
                _log.error("the audit log still cannot be written", reason=error.message)
            else:
                _log.warning("the audit log is written again, to a new segment")
                return

    async def _cosign(self) -> None:
        while True:
            await self._signed.wait()
            self._signed.clear()
            while not await self._ask_safely():  # noqa: ASYNC110 - another process's return is announced by nobody
                await asyncio.sleep(self._witness_interval)

    async def _ask_safely(self) -> bool:
        """Whether the newest checkpoint is cosigned; every reason why not is told once."""
        try:
            await self._ask()
        except CheckpointRefused as error:
            self.refused = DataLoss(f"the witness refuses this log: {error.message}")
            self._tell("refuses the log: it is not a continuation of what the witness saw", error.message)
            return False
        except (GroundwireError, NoteError) as error:
            self._tell("did not cosign", str(error))
            return False
        if self._problem:
            _log.info("the witness cosigns again")
        self._problem, self.refused = "", None
        return True

    def _tell(self, what: str, why: str) -> None:
        if self._problem != why:
            self._problem = why
            _log.error(f"the witness {what}", reason=why)

    async def _ask(self) -> None:
        last = self._log.last
        if last is None or self._witness is None:
            return
        key = self._witness_key.get()
        if last.note.signed_by(key) is not None:
            return
        try:
            line = await self._ask_from(self._seen, last.checkpoint, str(last.note))
        except CheckpointRefused as error:
            if error.witnessed_size == self._seen or error.witnessed_size > last.checkpoint.size:
                raise
            line = await self._ask_from(error.witnessed_size, last.checkpoint, str(last.note))
        if last.note.with_line(line).signed_by(key) is None:
            raise NoteError("what the witness sent is not its signature")
        self._seen = last.checkpoint.size
        await self._log.add_cosignature(last.checkpoint.size, line)

    async def _ask_from(self, old_size: int, checkpoint: Checkpoint, note: str) -> str:
        witness = self._witness
        assert witness is not None  # noqa: S101 - the caller looked
        proof, _ = self._log.consistency_proof(old_size, checkpoint.size)
        return await witness.cosign(old_size, proof, note)


class WitnessKey:
    """The verifier key of the witness; tests give it at once."""

    def __init__(self, key: Verifier | None = None) -> None:
        self._key = key

    def get(self) -> Verifier:
        """The key; Unavailable while it is not known."""
        if self._key is None:
            self._key = self._find()
        return self._key

    def _find(self) -> Verifier:
        raise NoteError("the witness's key is not known")
