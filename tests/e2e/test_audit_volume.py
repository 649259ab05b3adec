"""The audit volume is full: what must be on record is refused, what need not be goes on, and space is enough to recover."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from groundwire.monitoring.v1 import monitoring_service_pb2 as monitoring
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc as monitoring_rpc
from groundwire.query.v1 import query_service_pb2, query_service_pb2_grpc
from services.audit.keys import PUBLIC
from services.audit.note import Verifier
from services.audit.verify import verify_directory
from tests.support.processes import Mesh, health, mesh_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def can_mount(folder: Path) -> bool:
    """Whether this machine lets its users have file systems of their own."""
    if shutil.which("unshare") is None:
        return False
    command = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def mesh_with_small_volume(tmp_path: Path) -> Iterator[tuple[Mesh, Path]]:
    """A mesh whose audit log and spools share 24 MiB, and where the volume can be seen from here."""
    volume = tmp_path / "volume"
    volume.mkdir()
    if not can_mount(volume):
        pytest.skip("a file system of its own takes unshare(1) and user namespaces")
    script = 'mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@"'
    environment = {
        "GROUNDWIRE_AUDIT__DIRECTORY": str(volume / "audit"),
        "GROUNDWIRE_SPOOL__DIRECTORY": str(volume / "spool"),
    }
    before = (*UNSHARE, "sh", "-c", script, str(volume))
    with mesh_up(tmp_path / "data", environment=environment, before=before) as mesh:
        yield mesh, Path(f"/proc/{mesh.processes['up'].process.pid}/root{volume}")


class Client:
    def __init__(self, mesh: Mesh) -> None:
        self._metadata = mesh.authorization()
        self._ingestion: Any = rpc.IngestionServiceStub(grpc.insecure_channel(mesh.addresses["ingestion"]))
        self._monitoring: Any = monitoring_rpc.MonitoringServiceStub(
            grpc.insecure_channel(mesh.addresses["monitoring"])
        )
        self._query: Any = query_service_pb2_grpc.QueryServiceStub(grpc.insecure_channel(mesh.addresses["query"]))

    def ingest(self, name: str) -> None:
        document = pb.DocumentInput(document_id=name, media_type="text/plain", content=b"Backups are kept for a year.")
        request = pb.IngestDocumentsRequest(documents=[document])
        assert self._ingestion.IngestDocuments(request, metadata=self._metadata, timeout=60).failed == 0

    def share(self, name: str, reader: str) -> grpc.RpcError | None:
        access = core_pb2.Access(readers=["user:developer", reader])
        return self._error(
            self._ingestion.UpdateDocumentAccess, pb.UpdateDocumentAccessRequest(document_id=name, access=access)
        )

    def ask(self) -> grpc.RpcError | None:
        return self._error(self._query.Query, query_service_pb2.QueryRequest(query="How long are backups kept?"))

    def list_documents(self) -> list[Any]:
        return list(self._ingestion.ListDocuments(pb.ListDocumentsRequest(), metadata=self._metadata).documents)

    def health_of(self, service: str) -> str:
        """As monitoring sees it."""
        found = self._monitoring.GetTopology(monitoring.GetTopologyRequest(), metadata=self._metadata, timeout=30)
        (health,) = {each.status for each in found.services if each.service_name == service}
        return str(monitoring.ServiceHealth.Name(health)).removeprefix("SERVICE_HEALTH_")

    def _error(self, call: Any, request: Any) -> grpc.RpcError | None:
        try:
            call(request, metadata=self._metadata, timeout=30)
        except grpc.RpcError as error:
            return error
        return None


def details(error: Any) -> tuple[str, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(info) or detail.Unpack(retry)
    return error.code().name, info, retry


def fill(volume: Path) -> Path:
    """Use all of the volume that is left."""
    path = volume / "rest"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def test_a_full_audit_volume_fails_closed_and_recovers(tmp_path: Path) -> None:
    with mesh_with_small_volume(tmp_path) as (mesh, volume):
        client = Client(mesh)
        client.ingest("one")
        assert client.share("one", "user:before") is None
        rest = fill(volume)
        # What was begun of a page still has room.
        refused = until(lambda: client.share("one", "user:meanwhile"), "refusal")
        code, info, retry = details(refused)
        assert (code, info.reason) == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
        assert 0 < retry.retry_delay.ToMilliseconds() <= 1000
        # A question must be on record, too; a list need not be, unless it is refused.
        asked = until(client.ask, "refusal")
        assert details(asked)[:1] == ("UNAVAILABLE",)
        (document,) = client.list_documents()
        before = list(document.access.readers)
        assert client.share("one", "user:never") is not None
        assert list(client.list_documents()[0].access.readers) == before, "refused, and so not done"
        until(lambda: health(mesh.addresses["ingestion"]) == "NOT_SERVING", "degraded state")
        assert health(mesh.addresses["ingestion"], "") == "SERVING"
        assert client.health_of("ingestion") == "DEGRADED"
        assert "service\tingestion\tdegraded\t" in mesh.groundwire("status", "--timeout", "60", check=False).stdout
        rest.unlink()
        until(lambda: client.share("one", "user:after") is None, "recovery")
        until(lambda: client.ask() is None, "recovery")
        until(lambda: health(mesh.addresses["ingestion"]) == "SERVING", "healthy state")
        until(lambda: client.health_of("ingestion") == "HEALTHY", "healthy mesh")
        assert "user:after" in client.list_documents()[0].access.readers
        audit = volume / "audit"
        verifier = Verifier.parse((audit / PUBLIC).read_text())
        assert until(lambda: verify_directory(audit, [verifier], living=True).intact, "intact log")
        # What was refused is written once there is space, and handed on after that.
        listed = ("audit", "list", "--limit", "10000", "--output", "json")
        until(lambda: '"AUDIT_UNAVAILABLE"' in mesh.groundwire(*listed).stdout, "record of the refused calls")
