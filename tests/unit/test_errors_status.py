"""Domain errors on the wire: one total table, and the way back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2, status_pb2

from interceptors._shapes import Context
from services.corpus import errors
from services.corpus.errors import (
    AlreadyExists,
    CredentialsRefused,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    GroundwireError,
    InvalidRequest,
    NotFound,
    NotYetImplemented,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violations,
)
from services.runtime.status import CODES, code_of, from_rpc_error, reasons
from tests.support.serving import Serving, call, echo_service, ended, path


def subclasses(kind: type[GroundwireError]) -> Iterator[type[GroundwireError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_domain_error_has_a_status() -> None:
    defined = {kind for kind in GroundwireError.__subclasses__() if kind.__module__ == errors.__name__}
    assert defined == set(CODES)
    assert len(set(CODES.values())) == len(CODES), "two errors share a status"
    for kind in subclasses(GroundwireError):
        assert any(parent in CODES for parent in kind.__mro__), kind


def test_a_subclass_has_the_status_of_its_parent() -> None:
    class Narrower(NotFound):
        pass

    assert code_of(Narrower("x")) is grpc.StatusCode.NOT_FOUND
    assert code_of(errors.KeysDestroyed("x")) is grpc.StatusCode.FAILED_PRECONDITION


def reasons_in(source: str) -> Iterator[str]:
    """Every constant that is given as a reason: to a call, as a default, as a class's attribute."""
    for node in ast.walk(ast.parse(source)):
        values: list[ast.expr | None] = []
        match node:
            case ast.keyword(arg="reason", value=value):
                values = [value]
            case ast.AnnAssign(target=ast.Name(id="reason"), value=value):
                values = [value]
            case ast.Assign(targets=[ast.Name(id="reason")], value=value):
                values = [value]
        for value in values:
            for constant in ast.walk(value) if value is not None else ():
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and constant.value:
                    yield constant.value


def test_reasons_are_found_where_they_stand() -> None:
    source = 'class A:\n    reason = "ONE"\n    reason: str = "TWO"\nraise E("x", reason="THREE" if y else "FOUR")'
    assert set(reasons_in(source)) == {"ONE", "TWO", "THREE", "FOUR"}


def test_every_reason_is_in_the_contract(repository: Path) -> None:
    used = {
        (file.name, reason)
        for file in (repository / "services").rglob("*.py")
        for reason in reasons_in(file.read_text())
        # Reasons in words (of a coverage, of a log line) are not those of the contract.
        if reason.isupper() and " " not in reason
    }
    assert len(used) > len(CODES)
    assert {(file, reason) for file, reason in used if reason not in reasons()} == set()
    for kind in CODES:
        assert kind.reason in reasons()


def test_the_contract_knows_reasons_by_their_short_names() -> None:
    enum = descriptor_pool.Default().FindEnumTypeByName("groundwire.common.v1.ErrorReason")
    assert len(enum.values) == len(reasons())
    assert "NOT_FOUND" in reasons()


# --- over the wire and back -----------------------------------------------------------------------------------------

VIOLATIONS = [FieldViolation("documents[2].media_type", "is not supported"), FieldViolation("größe", "zu groß")]
PASSED_ON: list[GroundwireError] = [
    InvalidRequest(VIOLATIONS),
    NotFound("no such collection", reason="COLLECTION_NOT_FOUND", metadata={"collection": "legal"}),
    AlreadyExists("there already", metadata={"collection": "legal"}),
    FailedPrecondition("run `groundwire reindex`", reason="EMBEDDING_MISMATCH", metadata={"collection": "legal"}),
    PermissionDenied("not you", metadata={"permission": "documents:delete"}),
    ResourceExhausted("slow down", retry_after=12.25),
    ResourceExhausted("used up", retry_after=60, reason="QUOTA_EXCEEDED"),
    Unavailable("later", retry_after=0.25, metadata={"dependency": "llm"}),
    Unavailable("no vector store answered", reason="NO_STORE_ANSWERED"),
    NotYetImplemented("not in this release"),
    DataLoss("a chunk is damaged"),
]


async def over_the_wire(serving: Serving, error: Exception) -> GroundwireError:
    """What a caller in another service gets for ``error``."""

    async def body(text: str, context: Context) -> str:
        raise error

    channel = serving.connect(await serving.serve(echo_service(body)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path("Unary"))(b"")  # type: ignore[arg-type] # without a serializer: bytes
    return from_rpc_error(caught.value, "echo")


@pytest.mark.parametrize("error", PASSED_ON, ids=lambda error: f"{type(error).__name__}-{error.reason}")
async def test_what_concerns_the_caller_arrives_as_it_was(serving: Serving, error: GroundwireError) -> None:
    arrived = await over_the_wire(serving, error)
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.reason, arrived.metadata) == (error.message, error.reason, error.metadata)
    assert getattr(arrived, "violations", None) == getattr(error, "violations", None)
    assert getattr(arrived, "retry_after", None) == getattr(error, "retry_after", None)


def test_the_round_trip_covers_every_error() -> None:
    # DeadlineExceeded names the dependency; whose credentials it refuses is found out by the authentication layer.
    assert {type(error) for error in PASSED_ON} == set(CODES) - {DeadlineExceeded, Unauthenticated}


async def test_a_dependencys_own_failures_become_unavailable_with_its_name(serving: Serving) -> None:
    kinds = {
        RuntimeError("a secret"): Unavailable,
        Unauthenticated(): CredentialsRefused,
        GroundwireError("odd"): Unavailable,
    }
    for error, kind in kinds.items():
        arrived = await over_the_wire(serving, error)
        assert type(arrived) is kind
        assert arrived.message == "the echo service did not answer"
        assert (arrived.reason, arrived.metadata) == ("DEPENDENCY_UNAVAILABLE", {"dependency": "echo"})


async def test_time_that_ran_out_there_ran_out_here(serving: Serving) -> None:
    arrived = await over_the_wire(serving, DeadlineExceeded("x"))
    assert type(arrived) is DeadlineExceeded
    assert "echo" in arrived.message


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_bare_status_says_nothing_of_its_own(code: grpc.StatusCode) -> None:
    # What something other than one of our services sent: a proxy, or the library itself.
    bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "connect to 10.0.0.7 failed")
    arrived = from_rpc_error(bare, "retrieval")
    assert type(arrived) is (DeadlineExceeded if code is grpc.StatusCode.DEADLINE_EXCEEDED else Unavailable)
    assert "10.0.0.7" not in arrived.message


def test_details_of_another_domain_are_not_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="example.org")
    status = status_pb2.Status(code=5, message="gone")
    status.details.add().Pack(info)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, "gone")
    assert type(from_rpc_error(error, "x")) is Unavailable


def test_details_that_cannot_be_read_are_ignored() -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, "gone")
    assert type(from_rpc_error(error, "x")) is Unavailable


async def test_a_server_that_is_not_there_is_unavailable(serving: Serving, tmp_path: Path) -> None:
    channel = serving.connect(f"unix:{tmp_path}/nobody.sock")
    outcome = await call(channel, "Unary", "x")
    assert outcome.code is grpc.StatusCode.UNAVAILABLE
    assert (await ended(channel.unary_stream(path("ServerStream"))(b""))).code is grpc.StatusCode.UNAVAILABLE  # type: ignore[arg-type] # as above


# --- collecting violations ------------------------------------------------------------------------------------------


def test_violations_are_collected_in_order() -> None:
    violations = Violations()
    assert not violations
    violations.raise_if_any()
    violations.require(True, "a", "fine")
    violations.require(False, "b", "wrong")
    violations.extend([FieldViolation("c", "odd")])
    assert violations
    with pytest.raises(InvalidRequest) as raised:
        violations.raise_if_any()
    assert raised.value.violations == (FieldViolation("b", "wrong"), FieldViolation("c", "odd"))
    assert raised.value.message == "invalid request: b: wrong; c: odd"


def test_the_message_lists_a_few_the_error_has_all() -> None:
    error = InvalidRequest([FieldViolation(f"f{i}", "bad") for i in range(8)])
    assert error.message.endswith("f4: bad (and 3 more)")
    assert len(error.violations) == 8


def test_credentials_are_refused_in_one_way() -> None:
    assert Unauthenticated().message == Unauthenticated().message == "valid credentials are required"
