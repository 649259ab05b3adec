"""A deletion whose store hangs and whose process is killed: the next one finishes what the receipt says is missing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from tests.support.processes import GROUNDWIRE, PATIENCE, Mesh, mesh_served, running, until

if TYPE_CHECKING:
    from groundwire.ingestion.v1.ingestion_service_pb2_grpc import IngestionServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def complete(mesh: Mesh, receipt_id: str) -> pb.ErasureReceipt | None:
    """The receipt if it is complete. Asking for it erases nothing."""
    with grpc.insecure_channel(mesh.addresses["ingestion"]) as channel:
        stub: IngestionServiceStub = rpc.IngestionServiceStub(channel)
        request = pb.GetErasureReceiptRequest(receipt_id=receipt_id)
        response = stub.GetErasureReceipt(request, metadata=mesh.authorization(), timeout=PATIENCE, wait_for_ready=True)
    return response.receipt if response.receipt.HasField("complete_time") else None


def test_a_killed_process_goes_on_erasing_at_its_next_start(tmp_path: Path) -> None:
    (tmp_path / "canteen.txt").write_text("The canteen opens at 11:30.")
    with mesh_served(tmp_path / "data") as mesh:
        mesh.groundwire("ingest", str(tmp_path / "canteen.txt"))
        assert "11:30" in mesh.ask("When does the canteen open?")["answer"]
        store, ingestion = mesh.processes["store"], mesh.processes["ingestion"]
        store.signal(signal.SIGSTOP)
        try:
            receipt = json.loads(mesh.groundwire("delete", "canteen.txt", "--output", "json").stdout)
            ingestion.signal(signal.SIGKILL)
            ingestion.wait()
        finally:
            store.signal(signal.SIGCONT)
        assert "complete_time" not in receipt
        assert [(step["place"], step["removed"], step["remaining"]) for step in receipt["steps"]] == [
            ("catalog", "1", "0"),
            ("store", "0", "1"),
        ]
        assert mesh.ask("When does the canteen open?")["abstained"]
        with running(*GROUNDWIRE, "serve", "ingestion", environment=mesh.environment) as restarted:
            done = until(lambda: complete(mesh, receipt["receipt_id"]), "complete receipt", restarted)
        assert [(step.removed, step.remaining) for step in done.steps] == [(1, 0), (1, 0)]
