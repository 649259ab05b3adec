"""The audit service and its witness through their production assemblies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit import assembly as audit
from services.audit.convert import write_event
from services.audit.keys import PUBLIC
from services.audit.log import LoggedEvent
from services.audit.merkle import verify_consistency, verify_inclusion
from services.audit.note import Note, Verifier
from services.audit.settings import AuditOptions, AuditSettings
from services.audit.verify import verify_directory
from services.audit.witness import assembly as witness
from services.audit.witness.settings import WitnessSettings
from services.corpus.errors import DataLoss, FailedPrecondition
from services.runtime.identity import development_identity
from services.runtime.options import DevelopmentOptions
from services.runtime.process import Process
from services.runtime.server import Server
from services.runtime.settings import Settings
from tests.support.audit_world import event
from tests.support.mesh import ended
from tests.support.serving import Serving

if TYPE_CHECKING:
    from groundwire.audit.v1.audit_service_pb2_grpc import AuditServiceAsyncStub


@asynccontextmanager
async def served(directory: Path, kind: Any, settings: Settings, address: str) -> AsyncIterator[Server]:
    process = Process()
    server = Server(await kind.assemble(settings, process), settings, development_identity(settings))
    await server.start(address)
    try:
        yield server
    finally:
        await server.drain(delay=0, grace=0)
        await process.close()


def audit_service(directory: Path, *, tenant: str = "default", **options: Any) -> Any:
    settings = AuditSettings(
        data_dir=directory, audit=AuditOptions(**options), development=DevelopmentOptions(tenant=tenant)
    )
    return served(directory, audit, settings, "127.0.0.1:0")


def witness_service(directory: Path) -> Any:
    settings = WitnessSettings(data_dir=directory)
    return served(directory, witness, settings, settings.address("witness"))


def wire(number: int, **changes: Any) -> pb.AuditEvent:
    return write_event(LoggedEvent(0, event(number, **changes), b"")).event


@pytest.fixture
def stub_of(serving: Serving) -> Any:
    def make(server: Server) -> AuditServiceAsyncStub:
        return rpc.AuditServiceStub(serving.connect(server))

    return make


async def append(stub: AuditServiceAsyncStub, *events: pb.AuditEvent) -> list[int]:
    return list((await stub.AppendEvents(pb.AppendEventsRequest(events=events))).indexes)


async def read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def checkpoint_of(stub: AuditServiceAsyncStub, size: int, key: Verifier | None = None) -> pb.Checkpoint:
    """The newest checkpoint, once it covers ``size`` events (and the witness has signed it)."""
    while True:
        try:
            found = (await stub.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
        except grpc.aio.AioRpcError as error:
            # Until the first is signed there is none.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            if found.tree_size >= size and (key is None or Note.parse(found.note).signed_by(key)):
                return found
        await asyncio.sleep(0.02)


async def test_events_are_kept_listed_proved_and_verified(tmp_path: Path, stub_of: Any) -> None:
    async with audit_service(tmp_path, witness=False) as server:
        stub = stub_of(server)
        assert await append(stub, *(wire(n) for n in range(5))) == [0, 1, 2, 3, 4]
        assert await append(stub, wire(4), wire(5)) == [4, 5]
        first = await checkpoint_of(stub, 6)
        assert await append(stub, *(wire(n) for n in range(6, 1006))) == list(range(6, 1006))
        second = await checkpoint_of(stub, 1006)
        page = await stub.ListEvents(pb.ListEventsRequest(page_size=4))
        assert [logged.event for logged in page.events] == [wire(n) for n in range(4)]
        rest = await stub.ListEvents(pb.ListEventsRequest(page_size=4, page_token=page.next_page_token))
        assert [logged.index for logged in rest.events] == [4, 5, 6, 7]
        only = pb.EventFilter(request_id="request-900")
        assert [e.index for e in (await stub.ListEvents(pb.ListEventsRequest(filter=only))).events] == [900]
        proof = await stub.GetInclusionProof(pb.GetInclusionProofRequest(index=3, tree_size=second.tree_size))
        assert verify_inclusion(proof.leaf_hash, 3, proof.tree_size, list(proof.hashes), second.root_hash)
        both = await stub.GetConsistencyProof(
            pb.GetConsistencyProofRequest(first_tree_size=first.tree_size, second_tree_size=second.tree_size)
        )
        assert verify_consistency(
            first.tree_size, both.second_tree_size, list(both.hashes), first.root_hash, second.root_hash
        )
        verified = await stub.VerifyLog(pb.VerifyLogRequest())
        # Three listings are on record by now, too.
        assert (verified.intact, verified.events, list(verified.problems)) == (True, 1009, [])
        assert second.time.seconds > 1_700_000_000
        assert second.origin == Verifier.parse((tmp_path / "audit" / PUBLIC).read_text()).name
    async with audit_service(tmp_path, witness=False) as server:
        after = await checkpoint_of(stub_of(server), 1006)
        both = await stub_of(server).GetConsistencyProof(
            pb.GetConsistencyProofRequest(first_tree_size=second.tree_size, second_tree_size=after.tree_size)
        )
        assert verify_consistency(
            second.tree_size, after.tree_size, list(both.hashes), second.root_hash, after.root_hash
        )
    assert (tmp_path / "audit" / "signing-key").stat().st_mode & 0o777 == 0o600


async def test_everything_wrong_is_named(tmp_path: Path, stub_of: Any) -> None:
    async with audit_service(tmp_path, witness=False) as server:
        stub = stub_of(server)
        wrong = wire(1)
        wrong.event_id, wrong.query_hmac, wrong.code = "a b", b"x", 99
        wrong.ClearField("decision")
        wrong.ClearField("time")
        refused = await ended(stub.AppendEvents(pb.AppendEventsRequest(events=[wire(0), wrong])))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert sorted(refused.fields) == [
            f"events[1].{name}" for name in ("code", "decision", "event_id", "query_hmac", "time")
        ]
        for call, fields in (
            (stub.AppendEvents(pb.AppendEventsRequest()), ["events"]),
            (stub.AppendEvents(pb.AppendEventsRequest(events=[wire(n) for n in range(1001)])), ["events"]),
            (stub.ListEvents(pb.ListEventsRequest(page_size=-1, page_token="x")), ["page_size", "page_token"]),
            (stub.ListEvents(pb.ListEventsRequest(filter=pb.EventFilter.FromString(b"\x28\x07"))), ["filter.decision"]),
            (stub.GetInclusionProof(pb.GetInclusionProofRequest(index=-1, tree_size=-1)), ["index", "tree_size"]),
            (
                stub.GetConsistencyProof(pb.GetConsistencyProofRequest(first_tree_size=-1, second_tree_size=-1)),
                ["first_tree_size", "second_tree_size"],
            ),
        ):
            assert (await ended(call)).fields == fields
        for call in (
            stub.GetInclusionProof(pb.GetInclusionProofRequest(index=5)),
            stub.GetConsistencyProof(pb.GetConsistencyProofRequest(first_tree_size=5)),
        ):
            assert (await ended(call)).code is grpc.StatusCode.NOT_FOUND
        itself = await ended(stub.CosignCheckpoint(pb.CosignCheckpointRequest()))
        assert itself.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_administrator_sees_their_own_tenant_alone(tmp_path: Path, stub_of: Any) -> None:
    async with audit_service(tmp_path, witness=False) as server:
        await append(stub_of(server), *(wire(n, tenant=("default", "other")[n % 2]) for n in range(10)))
    async with audit_service(tmp_path, witness=False, tenant="other") as server:
        stub = stub_of(server)
        listed = (await stub.ListEvents(pb.ListEventsRequest())).events
        assert [logged.index for logged in listed] == [1, 3, 5, 7, 9]
        watching = stub.WatchEvents(pb.WatchEventsRequest())
        assert [(await watching.read()).event.index for _ in range(5)] == [1, 3, 5, 7, 9]
        watching.cancel()


async def test_a_watch_ends_with_the_service(tmp_path: Path, stub_of: Any) -> None:
    async with audit_service(tmp_path, witness=False) as server:
        stub = stub_of(server)
        watching = stub.WatchEvents(pb.WatchEventsRequest(start_index=-1))
        task = asyncio.ensure_future(watching.read())
        number = 0
        while not task.done():
            await append(stub, wire(number))
            number += 1
            await asyncio.sleep(0.01)
        # What comes first may be the record of the watch itself.
        assert (await task).event.event.tenant == "default"
    # There may be more of them; a status comes after everything before it was read.
    with pytest.raises(grpc.aio.AioRpcError):
        await read_to_the_end(watching)
    assert (
        verify_directory(tmp_path / "audit", [Verifier.parse((tmp_path / "audit" / PUBLIC).read_text())]).covered
        == number + 2  # the watch began and ended
    ), "the stop covered everything"


async def test_the_witness_cosigns_over_the_wire(tmp_path: Path, stub_of: Any, serving: Serving) -> None:
    async with audit_service(tmp_path) as server:
        stub = stub_of(server)
        await append(stub, wire(0))
        alone = await checkpoint_of(stub, 1)
        assert len(Note.parse(alone.note).signatures) == 1, "the log goes on without its witness"
        await server.service.ready()
        async with witness_service(tmp_path):
            key = Verifier.parse((tmp_path / "witness" / PUBLIC).read_text())
            await append(stub, wire(1))
            cosigned = await checkpoint_of(stub, 2, key)
            channel = serving.connect(
                WitnessSettings(data_dir=tmp_path).address("witness"), options=[("grpc.default_authority", "localhost")]
            )
            at_witness: AuditServiceAsyncStub = rpc.AuditServiceStub(channel)
            remembered = (await at_witness.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
            assert (remembered.tree_size, remembered.root_hash) == (2, cosigned.root_hash)
            refused = await ended(at_witness.ListEvents(pb.ListEventsRequest()))
            assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
            stale = pb.CosignCheckpointRequest(old_size=0, note=alone.note)
            refused = await ended(at_witness.CosignCheckpoint(stale))
            assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    log_key = Verifier.parse((tmp_path / "audit" / PUBLIC).read_text())
    report = verify_directory(tmp_path / "audit", [log_key], [key], [remembered.note])
    assert (report.intact, report.problems) == (True, [])
    assert report.cosigned >= 1


async def test_a_damaged_log_does_not_start(tmp_path: Path, stub_of: Any) -> None:
    async with audit_service(tmp_path, witness=False) as server:
        await append(stub_of(server), *(wire(n) for n in range(3)))
    (segment,) = (tmp_path / "audit" / "events").glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[200] ^= 1
    segment.write_bytes(content)
    with pytest.raises(DataLoss, match="byte 20"):
        await audit.assemble(AuditSettings(data_dir=tmp_path), Process())
    content[200] ^= 1
    segment.write_bytes(content)
    (tmp_path / "audit" / "signing-key").unlink()
    with pytest.raises(FailedPrecondition, match="missing"):
        await audit.assemble(AuditSettings(data_dir=tmp_path), Process())


async def test_the_newest_are_listed_first_in_pages_of_their_own(tmp_path: Path, stub_of: Any) -> None:
    async with audit_service(tmp_path, witness=False) as server:
        stub = stub_of(server)
        await append(stub, *(wire(n) for n in range(30)))
        wanted = pb.EventFilter(method="/groundwire.query.v1.QueryService/Query")
        found: list[int] = []
        request = pb.ListEventsRequest(filter=wanted, page_size=8, newest_first=True)
        while True:
            page = await stub.ListEvents(request)
            found += [logged.index for logged in page.events]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == list(range(29, -1, -1))
        # Where a page of one order goes on is no place in the other.
        request.newest_first = False
        refused = await ended(stub.ListEvents(request))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])
