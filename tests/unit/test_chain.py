"""The interceptor chain as the production server builds it, over every shape of RPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from interceptors import current
from interceptors._shapes import Call, Context, Layer, Proceed
from interceptors.chain import Position, build
from interceptors.deadline import Deadline
from services.corpus.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from services.corpus.principal import Caller
from services.runtime import server as server_module
from services.runtime.identity import current_caller
from services.runtime.options import DevelopmentOptions
from services.runtime.settings import Settings
from tests.support.serving import (
    ECHO,
    RULE,
    SHAPES,
    Serving,
    Text,
    begin,
    call,
    echo_service,
    ended,
    path,
    running_out_of_time,
    until,
)

SECRET = "the salary of Alice is a secret"
each_shape = pytest.mark.parametrize("method", SHAPES)


# --- order ----------------------------------------------------------------------------------------------------------


class _Layer(Layer):
    async def around(self, call: Call, proceed: Proceed) -> Any:
        return await proceed(call)


async def _refuse(_call: Call) -> None:
    raise NotFound("no such method")


@pytest.mark.parametrize(
    "positions",
    [
        [Position.METRICS, Position.TRACING],
        [Position.TRACING, Position.TRACING],
        [Position.TRACING, Position.ERRORS, Position.AUDIT],
        [Position.AUTHORIZATION, Position.AUTHENTICATION],
    ],
)
def test_layers_out_of_order_are_refused(positions: list[Position]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        build([(position, _Layer()) for position in positions], _refuse)


def test_the_order_of_all_positions() -> None:
    assert [position.name for position in Position] == [
        "TRACING",
        "METRICS",
        "AUDIT",
        "ERRORS",
        "DEADLINE",
        "AUTHENTICATION",
        "AUTHORIZATION",
        "ADMISSION",
        "ANNOUNCEMENT",
    ]
    build([(position, _Layer()) for position in Position], _refuse)


async def test_the_production_server_has_every_indispensable_layer(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Position] = []

    def spy(layers: Any, refuse: Any, **options: Any) -> Any:
        built.extend(position for position, _ in layers)
        return build(layers, refuse, **options)

    monkeypatch.setattr(server_module, "build", spy)
    await serving.serve()
    optional = {Position.AUDIT, Position.ADMISSION}
    assert set(built) >= set(Position) - optional


# --- calls that go well ---------------------------------------------------------------------------------------------


@each_shape
async def test_a_call_goes_through(serving: Serving, method: str) -> None:
    server = await serving.serve()
    outcome = await call(serving.connect(server), method, "hello")
    assert (outcome.code, outcome.responses) == (grpc.StatusCode.OK, ["hello"])
    await until(lambda: server.metrics.by_method[f"{ECHO}/{method}", "OK"].count == 1)


async def test_streams_keep_their_order_in_both_directions(serving: Serving) -> None:
    channel = serving.connect(await serving.serve())
    texts = [str(i) for i in range(100)]
    assert (await call(channel, "BidiStream", *texts)).responses == texts
    assert (await call(channel, "ClientStream", *texts)).responses == ["".join(texts)]


@each_shape
async def test_code_behind_a_call_knows_its_context(serving: Serving, method: str) -> None:
    async def body(text: str, context: Context) -> str:
        remaining = current.remaining()
        bounded = remaining is not None and 0 < remaining <= 60
        return f"{current.request_id.get()} {current_caller().subject} {bounded}"

    development = DevelopmentOptions(subject="alice")
    server = await serving.serve(echo_service(body), settings=Settings(development=development))
    outcome = await call(serving.connect(server), method, "", metadata=[("x-request-id", "req-1")])
    assert outcome.responses == [f"req-1 alice {method != 'WatchStream'}"]


async def test_one_call_does_not_see_another_ones_context(serving: Serving) -> None:
    all_started = asyncio.Event()
    waiting: list[str] = []

    async def body(text: str, context: Context) -> str:
        waiting.append(text)
        if len(waiting) == 20:
            all_started.set()
        await all_started.wait()
        return current.request_id.get()

    channel = serving.connect(await serving.serve(echo_service(body)))
    ids = [f"id-{i}" for i in range(20)]
    methods = list(SHAPES) * 4
    outcomes = await asyncio.gather(
        *(call(channel, method, i, metadata=[("x-request-id", i)]) for method, i in zip(methods, ids, strict=False))
    )
    assert [outcome.responses for outcome in outcomes] == [[i] for i in ids]


# --- request ids ----------------------------------------------------------------------------------------------------


@each_shape
async def test_a_valid_request_id_is_kept(serving: Serving, method: str) -> None:
    channel = serving.connect(await serving.serve())
    outcome = await call(channel, method, "x", metadata=[("x-request-id", "Order-66_a.b")])
    assert outcome.trailing["x-request-id"] == "Order-66_a.b"


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "semi;colon", "quote\"'", "a/b", None])
async def test_any_other_request_id_is_replaced(serving: Serving, given: str | None) -> None:
    channel = serving.connect(await serving.serve())
    metadata = [] if given is None else [("x-request-id", given)]
    made = [(await call(channel, "Unary", "x", metadata=metadata)).trailing["x-request-id"] for _ in range(2)]
    assert all(isinstance(i, str) and len(i) == 32 and int(i, 16) >= 0 for i in made)
    assert made[0] != made[1]


# --- errors ---------------------------------------------------------------------------------------------------------


@each_shape
async def test_a_domain_error_becomes_a_rich_status(serving: Serving, method: str) -> None:
    async def body(text: str, context: Context) -> str:
        raise NotFound("no such thing", reason="COLLECTION_NOT_FOUND", metadata={"collection": "legal"})

    server = await serving.serve(echo_service(body))
    outcome = await call(serving.connect(server), method, "x", metadata=[("x-request-id", "abc")])
    assert (outcome.code, outcome.details) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert (outcome.status.code, outcome.status.message) == (grpc.StatusCode.NOT_FOUND.value[0], "no such thing")
    info = outcome.detail(error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "COLLECTION_NOT_FOUND",
        "groundwire",
        {"collection": "legal"},
    )
    assert outcome.detail(error_details_pb2.BadRequest) is None
    assert outcome.detail(error_details_pb2.RetryInfo) is None
    assert outcome.trailing["x-request-id"] == "abc"
    await until(lambda: (f"{ECHO}/{method}", "NOT_FOUND") in server.metrics.by_method)


@each_shape
async def test_every_violated_field_is_named(serving: Serving, method: str) -> None:
    async def body(text: str, context: Context) -> str:
        raise InvalidRequest([FieldViolation(f"items[{i}].name", f"wrong {i}") for i in range(20)])

    outcome = await call(serving.connect(await serving.serve(echo_service(body))), method, "x")
    assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT
    violations = outcome.detail(error_details_pb2.BadRequest).field_violations
    assert [(v.field, v.description) for v in violations] == [(f"items[{i}].name", f"wrong {i}") for i in range(20)]


async def test_a_status_stays_within_what_a_client_accepts(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        raise InvalidRequest([FieldViolation(f"items[{i}].名前", "ü" * 300) for i in range(int(text))])

    channel = serving.connect(await serving.serve(echo_service(body)))
    for count in (1, 10, 100, 10_000):
        outcome = await call(channel, "Unary", str(count))
        assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT, outcome.details
        violations = outcome.detail(error_details_pb2.BadRequest).field_violations
        if count > 10:
            assert violations[-1].description == f"{count - len(violations) + 1} more fields are wrong"


async def test_unavailable_says_when_to_come_back(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        raise Unavailable("not now", retry_after=2.5)

    outcome = await call(serving.connect(await serving.serve(echo_service(body))), "Unary", "x")
    assert outcome.code is grpc.StatusCode.UNAVAILABLE
    assert outcome.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2500


@each_shape
async def test_nothing_of_an_unexpected_exception_leaves(serving: Serving, method: str) -> None:
    async def body(text: str, context: Context) -> str:
        raise RuntimeError(SECRET)

    server = await serving.serve(echo_service(body))
    outcome = await call(serving.connect(server), method, SECRET, metadata=[("x-request-id", "abc")])
    assert outcome.code is grpc.StatusCode.INTERNAL
    assert outcome.reason == "INTERNAL"
    assert outcome.detail(error_details_pb2.ErrorInfo).metadata["request_id"] == "abc"
    assert not leaks(outcome)


async def test_an_exception_after_partial_output(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        if text == "bad":
            raise RuntimeError(SECRET)
        return text

    outcome = await call(serving.connect(await serving.serve(echo_service(body))), "BidiStream", "a", "b", "bad")
    assert (outcome.responses, outcome.code) == (["a", "b"], grpc.StatusCode.INTERNAL)
    assert not leaks(outcome)


@each_shape
async def test_bytes_that_are_no_message_are_refused_inside_the_chain(serving: Serving, method: str) -> None:
    server = await serving.serve()
    channel = serving.connect(server)
    request_streaming, response_streaming = SHAPES[method]
    kind = f"{'stream' if request_streaming else 'unary'}_{'stream' if response_streaming else 'unary'}"
    garbage = b"\xff\xff\xff"
    running = getattr(channel, kind)(path(method), response_deserializer=Text.FromString)(
        iter([garbage]) if request_streaming else garbage
    )
    outcome = await ended(running)
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert not leaks(outcome)
    await until(lambda: (f"{ECHO}/{method}", "INVALID_ARGUMENT") in server.metrics.by_method)


@each_shape
async def test_an_answer_of_the_wrong_type_is_internal(serving: Serving, method: str) -> None:
    async def body(text: str, context: Context) -> Any:
        return _Unwritable()

    server = await serving.serve(echo_service(body))
    outcome = await call(serving.connect(server), method, "x")
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert not leaks(outcome)
    await until(lambda: (f"{ECHO}/{method}", "INTERNAL") in server.metrics.by_method)


class _Unwritable:
    def __repr__(self) -> str:
        return SECRET


async def test_an_answer_that_cannot_be_serialized_is_internal(serving: Serving) -> None:
    service = echo_service()

    async def nothing(request: Text, context: Context) -> None:
        return None

    def register(server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(nothing, Text.FromString, Text.SerializeToString)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO, {"Unary": handler}),))

    server = await serving.serve(
        server_module.Service("echo", service.descriptors, register, service.ready, service.close, service.recorder)
    )
    outcome = await call(serving.connect(server), "Unary", "x")
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "SerializeToString" not in str(outcome)


@each_shape
async def test_an_abort_passes(serving: Serving, method: str) -> None:
    async def body(text: str, context: Context) -> str:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "beyond the end")
        raise AssertionError

    server = await serving.serve(echo_service(body))
    outcome = await call(serving.connect(server), method, "x", metadata=[("x-request-id", "abc")])
    assert (outcome.code, outcome.details) == (grpc.StatusCode.OUT_OF_RANGE, "beyond the end")
    assert outcome.trailing["x-request-id"] == "abc"
    await until(lambda: (f"{ECHO}/{method}", "OUT_OF_RANGE") in server.metrics.by_method)


def leaks(outcome: Any) -> bool:
    shown = repr((outcome.details, outcome.initial, outcome.trailing, outcome.responses))
    return any(part in shown for part in (SECRET, "Alice", "RuntimeError", "TypeError", "DecodeError", "Traceback"))


# --- methods that are not served ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unknown",
    [path("Nope"), "/nope.Service/Unary", f"/{ECHO}", f"/{ECHO}/Unary/", f"//{ECHO}/Unary", f"/{ECHO.lower()}/Unary"],
)
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_path_that_is_not_served_is_measured_and_refused(serving: Serving, unknown: str, kind: str) -> None:
    server = await serving.serve()
    # No message: one that is still on its way when the refusal arrives makes the client library say INTERNAL instead.
    request = iter(()) if kind.startswith("stream") else b"x"
    running = getattr(serving.connect(server), kind)(unknown)(request, metadata=[("x-request-id", "abc")])
    outcome = await ended(running)
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert outcome.trailing["x-request-id"] == "abc"
    await until(lambda: server.metrics.by_method)
    assert set(server.metrics.by_method) == {("unknown", "NOT_FOUND")}


async def test_made_up_paths_leave_nothing_behind(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    chains: list[Any] = []

    def spy(layers: Any, refuse: Any, **options: Any) -> Any:
        chains.append(build(layers, refuse, **options))
        return chains[-1]

    monkeypatch.setattr(server_module, "build", spy)
    server = await serving.serve()
    channel = serving.connect(server)
    for i in range(50):
        multicallable: Any = channel.unary_unary(f"/made.up.Service/Method{i}")
        await ended(multicallable(b""))
    await call(channel, "Unary", "x")
    assert list(chains[0]._wrapped) == [path("Unary")]
    assert {name for name, _ in server.metrics.by_method} <= {"unknown", f"{ECHO}/Unary"}


async def test_a_caller_without_the_permission_is_refused(serving: Serving) -> None:
    settings = Settings(development=DevelopmentOptions(roles=("reader",)))
    server = await serving.serve(settings=settings)
    outcome = await call(serving.connect(server), "Unary", "x")
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    info = outcome.detail(error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"permission": f"{RULE.resource}:{RULE.action}"}


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method in SHAPES if method != "WatchStream"])
async def test_a_call_without_a_deadline_is_capped(serving: Serving, method: str) -> None:
    cancelled = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return text

    server = await serving.serve(echo_service(body, deadline_cap=0.05))
    outcome = await call(serving.connect(server), method, "x")
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert outcome.details == "the call's time ran out"
    assert cancelled.is_set()
    await until(lambda: (f"{ECHO}/{method}", "DEADLINE_EXCEEDED") in server.metrics.by_method)


async def test_the_cap_ends_a_stream_whose_caller_does_not_read(serving: Serving) -> None:
    closed = asyncio.Event()

    async def endless(request: Text, context: Context) -> AsyncIterator[Text]:
        try:
            while True:
                yield Text(value="x" * 100_000)
        finally:
            closed.set()

    service = echo_service()

    def register(server: grpc.aio.Server) -> None:
        handler = grpc.unary_stream_rpc_method_handler(endless, Text.FromString, Text.SerializeToString)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO, {"ServerStream": handler}),))

    server = await serving.serve(replace(service, register=register, deadline_cap=0.2))
    running = begin(serving.connect(server), "ServerStream", "x")
    await anext(running.__aiter__())
    await closed.wait()
    outcome = await ended(running)
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/ServerStream", "DEADLINE_EXCEEDED")})


async def test_a_watch_is_not_capped(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        return str(current.deadline.get() is None)

    channel = serving.connect(await serving.serve(echo_service(body, deadline_cap=1000)))
    assert (await call(channel, "WatchStream", "x")).responses == ["True"]
    assert (await call(channel, "ServerStream", "x")).responses == ["False"]


async def test_a_callers_own_deadline_counts_not_the_cap(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        return str((current.remaining() or 0) > 30)

    channel = serving.connect(await serving.serve(echo_service(body, deadline_cap=0.001)))
    assert (await call(channel, "Unary", "x", timeout=1000)).responses == ["True"]


@each_shape
async def test_a_caller_whose_time_ran_out_is_counted_as_that(serving: Serving, method: str) -> None:
    begun = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        begun.set()
        await asyncio.Event().wait()
        return text

    server = await serving.serve(echo_service(body))
    channel = serving.connect(server)
    running = await running_out_of_time(lambda seconds: begin(channel, method, "x", timeout=seconds), begun.is_set)
    assert (await ended(running)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: server.metrics.by_method)
    assert set(server.metrics.by_method) == {(f"{ECHO}/{method}", "DEADLINE_EXCEEDED")}


class _NoTime:
    def time_remaining(self) -> float:
        return 0.0


async def test_work_whose_time_is_already_up_is_not_begun() -> None:
    layer = Deadline(lambda _method: 60.0, lambda: DeadlineExceeded("too late"))
    context: Any = _NoTime()

    async def work(_call: Call) -> None:
        pytest.fail("the work was begun")

    with pytest.raises(DeadlineExceeded):
        await layer.around(Call("/x/y", True, context, "id"), work)


async def test_a_time_out_of_the_work_itself_is_not_the_callers(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        raise TimeoutError(SECRET)

    outcome = await call(serving.connect(await serving.serve(echo_service(body))), "Unary", "x")
    assert outcome.code is grpc.StatusCode.INTERNAL
    assert not leaks(outcome)


# --- what concerns a method -----------------------------------------------------------------------------------------


async def test_a_layer_runs_around_the_calls_that_it_concerns_alone() -> None:
    asked: list[str] = []
    seen: list[str] = []

    class Some(Layer):
        def concerns(self, method: str) -> bool:
            asked.append(method)
            return method != "/x/Free"

        async def around(self, call: Call, proceed: Proceed) -> Any:
            seen.append(call.method)
            return await proceed(call)

    context: Any = None

    async def handle(_request: Any, _context: Any) -> Any:
        return b""

    async def continuation(_details: Any) -> Any:
        return grpc.stream_unary_rpc_method_handler(handle)

    chain = build([(Position.METRICS, Some())], _refuse)
    for method in ("/x/Free", "/x/Guarded") * 3:
        details: Any = SimpleNamespace(method=method, invocation_metadata=())
        wrapped: Any = await chain.intercept_service(continuation, details)
        assert await wrapped.stream_unary(None, context) == b""
    assert seen == ["/x/Guarded"] * 3
    assert asked == ["/x/Free", "/x/Guarded"]


# --- cancellation ---------------------------------------------------------------------------------------------------


@each_shape
async def test_a_cancelled_call_is_recorded_and_releases_its_handler(serving: Serving, method: str) -> None:
    started, released = asyncio.Event(), asyncio.Event()

    async def body(text: str, context: Context) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            released.set()
        return text

    server = await serving.serve(echo_service(body))
    running = begin(serving.connect(server), method, "x")
    waiting = asyncio.ensure_future(_swallow(running))
    await started.wait()
    running.cancel()
    await released.wait()
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/{method}", "CANCELLED")})
    await waiting


async def _swallow(running: Any) -> None:
    with suppress(asyncio.CancelledError):
        await ended(running)


def test_a_caller_without_identity_fails_closed() -> None:
    assert current.caller.get() is None
    with pytest.raises(Exception, match="valid credentials"):
        current_caller()
    assert Caller("t", "s").principals == {"tenant:*", "user:s"}
