"""The witness's composition root."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.keys import PUBLIC, load_signer, read_verifier
from services.audit.note import Algorithm, NoteError, Verifier
from services.audit.witness.servicer import WitnessServicer
from services.audit.witness.settings import WitnessSettings
from services.audit.witness.witness import LAST, CheckpointWitness
from services.corpus.errors import FailedPrecondition, Unavailable
from services.journal.files import DirectoryFiles
from services.journal.ports import replace
from services.runtime.process import Process
from services.runtime.server import Service

_PINNED = "log-key"


async def assemble(settings: WitnessSettings, process: Process) -> Service:
    """Open the witness's own directory."""
    witness = await asyncio.to_thread(_open, settings)
    servicer = WitnessServicer(witness)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_AuditServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        """It needs nobody: the log comes to it."""

    async def close() -> None:
        witness.close()

    return Service(
        name="witness",
        descriptors=[pb.DESCRIPTOR.services_by_name["AuditService"]],
        register=register,
        ready=ready,
        close=close,
        recorder=await process.recorder(settings, "witness"),
    )


def _open(settings: WitnessSettings) -> CheckpointWitness:
    directory = settings.directory
    files = DirectoryFiles.open(directory)
    try:
        signer = load_signer(
            settings.witness.signing_key or directory / "signing-key",
            Algorithm.COSIGNATURE_V1,
            "witness",
            fresh=LAST not in files.names(),
        )
        key = _LogKey(settings.witness.log_key, files, settings.data_dir / "audit" / PUBLIC)
        return CheckpointWitness(files, signer, key.get)
    except BaseException:
        files.release()
        raise


class _LogKey:
    """The log's key: from the settings, or the first that was there, for good."""

    def __init__(self, given: str, files: DirectoryFiles, path: Path) -> None:
        self._files = files
        self._path = path
        self._key: Verifier | None = None
        try:
            if given:
                self._key = Verifier.parse(given)
            elif _PINNED in files.names():
                self._key = Verifier.parse(files.read(_PINNED, 0, 4096).decode())
        except (NoteError, UnicodeDecodeError) as error:
            raise FailedPrecondition(f"the log's verifier key cannot be used: {error}") from error

    def get(self) -> Verifier:
        if self._key is None:
            try:
                key = read_verifier("", self._path)
                if key is None:
                    raise Unavailable("the log's key is not known yet")
                replace(self._files, _PINNED, f"{key}\n".encode())
            except (NoteError, OSError) as error:
                raise Unavailable("the log's key cannot be read") from error
            self._key = key
        return self._key
