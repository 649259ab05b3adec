"""The audit service's composition root."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import structlog

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.adapters.command_spools import command_spools
from services.audit.adapters.own_log import OwnLog
from services.audit.adapters.remote_witness import RemoteWitness
from services.audit.checkpointing import Checkpointing, WitnessKey
from services.audit.keys import PUBLIC, load_signer, read_verifier
from services.audit.log import AuditLog
from services.audit.note import Algorithm, NoteError, Signer, Verifier
from services.audit.ports import Witness
from services.audit.records import CHECKPOINTS, EVENTS
from services.audit.servicer import AuditServicer
from services.audit.settings import AuditSettings
from services.audit.verify import Report, verify_directory
from services.corpus.errors import FailedPrecondition, Unavailable
from services.journal.files import DirectoryFiles
from services.journal.segments import segment_names
from services.runtime.auditing.recorder import Recorder
from services.runtime.identity import current_caller
from services.runtime.process import Process
from services.runtime.server import MIB, Service
from services.runtime.status import from_rpc_error

_log = structlog.get_logger(__name__)


async def assemble(settings: AuditSettings, process: Process, *, witness: Witness | None = None) -> Service:
    """Open the log, checking all of it, and begin to sign checkpoints. Tests hand in another witness."""
    options, directory = settings.audit, settings.directory
    signer, events, checkpoints = await asyncio.to_thread(_open_files, settings)
    log = await AuditLog.open(events, checkpoints, signer, remembered=options.remembered_events)
    for cut in log.trimmed:
        _log.warning("a torn tail was cut off", file=cut.file, offset=cut.offset, bytes=cut.size)
    if witness is None and options.witness:
        channel = process.channel(settings, "witness", "audit")
        witness = RemoteWitness(channel, lambda error: from_rpc_error(error, "witness"))
    key = _FoundKey(options.witness_key, settings.data_dir / "witness" / PUBLIC)
    checkpointing = Checkpointing(log, witness, key)

    async def verify() -> Report:
        keys = [found] if (found := key.found()) else []
        return await asyncio.to_thread(verify_directory, directory, [signer.verifier], keys, living=True)

    servicer = AuditServicer(log, verify, current_caller)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_AuditServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        if log.failure is not None:
            raise Unavailable(log.failure.message)
        if checkpointing.refused is not None:
            raise checkpointing.refused

    commands = command_spools(settings.spool_path(""), log)

    async def close() -> None:
        await commands.close()
        await checkpointing.close()
        await log.close()

    checkpointing.start()
    recorder = Recorder("audit", OwnLog(log), leftovers=commands)
    process.attend(recorder)
    return Service(
        name="audit",
        descriptors=[pb.DESCRIPTOR.services_by_name["AuditService"]],
        register=register,
        ready=ready,
        close=close,
        recorder=recorder,
        max_request_bytes=16 * MIB,
    )


def _open_files(settings: AuditSettings) -> tuple[Signer, DirectoryFiles, DirectoryFiles]:
    directory = settings.directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    events = DirectoryFiles.open(directory / EVENTS)
    try:
        checkpoints = DirectoryFiles.open(directory / CHECKPOINTS)
        try:
            path = settings.audit.signing_key or directory / "signing-key"
            fresh = not segment_names(events) and not segment_names(checkpoints)
            signer = load_signer(path, Algorithm.ED25519, "audit", fresh=fresh)
            if path.parent != directory:
                (directory / PUBLIC).write_text(f"{signer.verifier}\n")
            return signer, events, checkpoints
        except BaseException:
            checkpoints.release()
            raise
    except BaseException:
        events.release()
        raise


class _FoundKey(WitnessKey):
    """The witness's key: from the settings, or from where the witness of the same data directory writes it."""

    def __init__(self, given: str, path: Path) -> None:
        try:
            super().__init__(Verifier.parse(given) if given else None)
        except NoteError as error:
            raise FailedPrecondition(f"audit.witness_key: {error}") from error
        self._path = path

    def found(self) -> Verifier | None:
        try:
            return self.get()
        except NoteError:
            return None

    def _find(self) -> Verifier:
        key = read_verifier("", self._path)
        if key is None:
            raise NoteError("the witness's key is not known yet")
        return key
