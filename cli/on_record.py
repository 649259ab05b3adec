"""What commands change in the data directory is on record, too: announced before, confirmed after.

A command has a spool of its own beside those of the services. The audit service of the same data directory takes it
up when the command has ended, or as soon as it runs.
"""

from __future__ import annotations

import asyncio
import getpass
import secrets
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import grpc

from cli.errors import CliError, ExitCode
from cli.file_errors import explain
from groundwire.audit.v1 import audit_service_pb2 as pb
from services.corpus.errors import GroundwireError, Unavailable
from services.journal.files import DirectoryFiles
from services.journal.spool import COMMAND_PREFIX, Kind, Spool, kept
from services.runtime.auditing.record import timestamp
from services.runtime.settings import Settings

_MAX_BYTES = 64 * 1024 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True)
class Noted:
    """What the body of :func:`on_record` may know and say: its spool's name, and what was changed besides."""

    spool: str
    changes: list[str] = field(default_factory=list)


@contextmanager
def on_record(settings: Settings, command: str, resource: str, *, tenant: str = "") -> Iterator[Noted]:
    """Announce that ``command`` is about to change ``resource``, and confirm it when the body has ended well.

    CliError, before anything was changed, when that cannot be made durable.
    """
    record = _Record(settings, command, resource, tenant)
    try:
        record.write(Kind.OPENS, record.event(pb.STAGE_BEGUN))
    except BaseException as error:
        record.close()
        if isinstance(error, GroundwireError):
            raise _cannot(error) from error
        raise
    noted = Noted(record.spool)
    # Only what ends in its usual ways is confirmed: everything else is found open, and said to be interrupted.
    try:
        yield noted
    except Exception:
        with suppress(GroundwireError):  # what went wrong in the first place is what has to be told
            record.write(Kind.CLOSES, record.event(pb.STAGE_ENDED, code=grpc.StatusCode.UNKNOWN))
        raise
    else:
        try:
            record.write(Kind.CLOSES, record.event(pb.STAGE_ENDED, changes=[resource, *noted.changes]))
        except GroundwireError as error:
            raise CliError(
                f"it was done, but that cannot be put on record ({error.message}): the audit log will call it interrupted",
                code=ExitCode.UNAVAILABLE,
            ) from error
    finally:
        record.close()


class _Record:
    def __init__(self, settings: Settings, command: str, resource: str, tenant: str) -> None:
        self._command = command
        self._resource = resource
        self._tenant = tenant
        self._start = time.time_ns()
        self._key = secrets.token_hex(16)
        # The spool's own loop: commands have one of theirs, or none.
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()
        try:
            self._spool = self._run(self._open(settings))
        except (GroundwireError, OSError) as error:
            self._run_down()
            raise _cannot(error) from error

    @property
    def spool(self) -> str:
        return f"{COMMAND_PREFIX}{self._key}"

    def event(
        self, stage: pb.Stage.ValueType, *, code: grpc.StatusCode = grpc.StatusCode.OK, changes: Sequence[str] = ()
    ) -> pb.AuditEvent:
        begun = stage == pb.STAGE_BEGUN
        return pb.AuditEvent(
            event_id=f"{self._key}.1" if begun else self._key,
            time=timestamp(time.time_ns() if begun else self._start),
            tenant=self._tenant,
            principal=f"local:{getpass.getuser()}",
            client_address="local",
            method=f"groundwire {self._command}",
            resource=self._resource,
            decision=pb.DECISION_ALLOWED,
            stage=stage,
            code=code.value[0],
            changes=changes,
        )

    def write(self, kind: Kind, event: pb.AuditEvent) -> None:
        self._run(self._write(kind, event.SerializeToString()))

    def close(self) -> None:
        try:
            self._run(self._spool.close())
        finally:
            self._run_down()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._thread.submit(self._runner.run, work).result()

    def _run_down(self) -> None:
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    async def _open(self, settings: Settings) -> Spool:
        files = DirectoryFiles.open(settings.spool_path(self.spool))
        return await Spool.open(files, _nobody, max_bytes=_MAX_BYTES)

    async def _write(self, kind: Kind, payload: bytes) -> None:
        await kept(partial(self._spool.submit, kind, self._key.encode(), payload))


async def _nobody(_: Sequence[bytes]) -> None:
    raise Unavailable("the audit service takes it up")


def _cannot(error: Exception) -> CliError:
    # The journal says what it could not do; the disk, why.
    origin = error if isinstance(error, OSError) else error.__cause__
    known = explain(origin) if isinstance(origin, OSError) else None
    why = known.message if known else error.message if isinstance(error, GroundwireError) else str(error)
    code = known.code if known else ExitCode.UNAVAILABLE
    return CliError(f"nothing was changed: it cannot be put on record: {why}", code=code)
