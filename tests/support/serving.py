"""Serves small services through the production server, and calls them in all four RPC shapes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.sdk.trace import Tracer

from groundwire.policy.v1 import policy_pb2
from interceptors._shapes import Context
from services.runtime.auditing.recorder import Recorder
from services.runtime.identity import development_identity
from services.runtime.server import Server, Service
from services.runtime.settings import Settings
from tests.support.recording import memory_recorder

Text = wrappers_pb2.StringValue
Body = Callable[[str, Context], Awaitable[str]]
Serve = Callable[..., Awaitable[Server]]


class _Ends(Protocol):
    def done(self) -> bool: ...


Ends = TypeVar("Ends", bound=_Ends)

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CLIENTS_OWN = "Internal error from Core"

ECHO = "groundwire.test.v1.EchoService"
# Every shape that a handler can have: its method, whether requests and responses stream.
SHAPES = {
    "Unary": (False, False),
    "ServerStream": (False, True),
    "ServerWrite": (False, True),  # a coroutine that calls context.write itself
    "ClientStream": (True, False),
    "BidiStream": (True, True),
    "WatchStream": (False, True),  # a watch by its name: it has no deadline of its own
}


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nothing announces; the test's own time-out ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.002)


PATIENT = (0.05, 0.5, 5.0, 50.0)
"""Time-outs to try one after the other, in seconds, where something has to be too slow and the rest must not be."""


async def running_out_of_time(begin: Callable[[float], Ends], reached: Callable[[], object]) -> Ends:
    """A call whose time runs out after it got as far as ``reached``; ``begin`` takes the seconds that it has.

    On a busy machine a call may be over before it got there: then the next one has more time.
    """
    seconds = 0.3
    while True:
        call = begin(seconds)
        while not call.done():
            if reached():
                return call
            await asyncio.sleep(0.002)
        seconds *= 4


def make_service(
    name: str,
    methods: dict[str, tuple[bool, bool]],
    *,
    rule: policy_pb2.AccessRule | None,
    idempotency: descriptor_pb2.MethodOptions.IdempotencyLevel.ValueType | None = None,
) -> ServiceDescriptor:
    """A service that no contract has, described in the way that generated code does."""
    package, _, short = name.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name.replace('.', '/')}.proto",
        package=package,
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto", "groundwire/policy/v1/policy.proto"],
    )
    service = file.service.add(name=short)
    for method, (client_streaming, server_streaming) in methods.items():
        added = service.method.add(
            name=method,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=client_streaming,
            server_streaming=server_streaming,
        )
        if rule is not None:
            added.options.Extensions[policy_pb2.access].CopyFrom(rule)
        if idempotency is not None:
            added.options.idempotency_level = idempotency
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    described: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(name)
    return described


RULE = policy_pb2.AccessRule(resource="echoes", action="read", audit=policy_pb2.AUDIT_NONE)
ECHO_DESCRIPTOR = make_service(ECHO, SHAPES, rule=RULE)
READS = "groundwire.test.v1.ReadService"
READS_DESCRIPTOR = make_service(READS, SHAPES, rule=RULE, idempotency=descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS)


async def _echo(text: str, _context: Context) -> str:
    return text


async def _nothing() -> None:
    return None


def echo_service(
    body: Body = _echo,
    *,
    name: str = "echo",
    descriptor: ServiceDescriptor = ECHO_DESCRIPTOR,
    ready: Callable[[], Awaitable[None]] = _nothing,
    close: Callable[[], Awaitable[None]] = _nothing,
    deadline_cap: float = 60.0,
    max_request_bytes: int = 4 * 1024 * 1024,
    recorder: Recorder | None = None,
) -> Service:
    """A service of which every method answers what ``body`` makes of the request's text."""

    async def unary(request: Text, context: Context) -> Text:
        return Text(value=await body(request.value, context))

    async def server_stream(request: Text, context: Context) -> AsyncIterator[Text]:
        yield Text(value=await body(request.value, context))

    async def server_write(request: Text, context: Context) -> None:
        await context.write(Text(value=await body(request.value, context)))

    async def client_stream(requests: AsyncIterator[Text], context: Context) -> Text:
        return Text(value=await body("".join([request.value async for request in requests]), context))

    async def bidi_stream(requests: AsyncIterator[Text], context: Context) -> AsyncIterator[Text]:
        async for request in requests:
            yield Text(value=await body(request.value, context))

    makers: dict[str, tuple[Any, Any]] = {
        "Unary": (grpc.unary_unary_rpc_method_handler, unary),
        "ServerStream": (grpc.unary_stream_rpc_method_handler, server_stream),
        "ServerWrite": (grpc.unary_stream_rpc_method_handler, server_write),
        "ClientStream": (grpc.stream_unary_rpc_method_handler, client_stream),
        "BidiStream": (grpc.stream_stream_rpc_method_handler, bidi_stream),
        "WatchStream": (grpc.unary_stream_rpc_method_handler, server_stream),
    }
    handlers = {
        method: make(behaviour, request_deserializer=Text.FromString, response_serializer=Text.SerializeToString)
        for method, (make, behaviour) in makers.items()
    }

    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))

    return Service(
        name=name,
        descriptors=[descriptor],
        register=register,
        ready=ready,
        close=close,
        recorder=recorder or memory_recorder()[0],
        deadline_cap=deadline_cap,
        max_request_bytes=max_request_bytes,
    )


@dataclass(frozen=True)
class Outcome:
    """What a caller saw of one call."""

    code: grpc.StatusCode
    details: str
    responses: list[str]
    initial: dict[str, str | bytes]
    trailing: dict[str, str | bytes]

    @property
    def status(self) -> status_pb2.Status:
        """The rich status; fails if there is none."""
        assert "grpc-status-details-bin" in self.trailing, self
        return status_pb2.Status.FromString(self.trailing["grpc-status-details-bin"])

    def detail(self, kind: Any) -> Any:
        """The one detail of a message type, or None."""
        for packed in self.status.details:
            message = kind()
            if packed.Unpack(message):
                return message
        return None

    @property
    def reason(self) -> str:
        """The reason of the ErrorInfo."""
        info = self.detail(error_details_pb2.ErrorInfo)
        return str(info.reason) if info else ""


def path(method: str, service: str = ECHO) -> str:
    return f"/{service}/{method}"


def begin(channel: grpc.aio.Channel, method: str, *texts: str, **options: Any) -> Any:
    """Start a call of the echo service and return it."""
    requests = [Text(value=text) for text in texts]
    request_streaming, response_streaming = SHAPES[method]
    kind = f"{'stream' if request_streaming else 'unary'}_{'stream' if response_streaming else 'unary'}"
    make = getattr(channel, kind)
    multicallable = make(path(method), request_serializer=Text.SerializeToString, response_deserializer=Text.FromString)
    if not request_streaming:
        return multicallable(requests[0], **options)
    running = multicallable(iter(requests), **options)
    if hasattr(running, "_cython_call"):  # not where a client's interceptors stand before it
        running.first = []
        running.add_done_callback(lambda done: done.first.append(done._cython_call._status))
    return running


async def call(channel: grpc.aio.Channel, method: str, *texts: str, **options: Any) -> Outcome:
    """Make a call and say how it went."""
    return await ended(begin(channel, method, *texts, **options))


async def ended(running: Any) -> Outcome:
    """How a call went."""
    responses: list[str] = []
    try:
        if hasattr(running, "__aiter__"):
            async for response in running:
                responses.append(response.value)  # noqa: PERF401 - what arrived before an error counts
        else:
            responses.append((await running).value)
    except grpc.aio.AioRpcError:
        pass
    status = await _sent(running) if hasattr(running, "first") else None
    return Outcome(
        code=await running.code() if status is None else _CODES[status.code()],
        details=(await running.details() if status is None else status.details()) or "",
        responses=responses,
        initial=dict(await running.initial_metadata() or ()),
        trailing=dict((await running.trailing_metadata() if status is None else status.trailing_metadata()) or ()),
    )


async def _sent(running: Any) -> Any:
    """The status that the server sent to a call that streams requests.

    When the call ends while a request is being written, grpc.aio's client (1.85) takes a status of its own for it:
    before the server's, or after it and for good (https://github.com/grpc/grpc/issues/36066).
    """
    await running.code()
    (first,) = running.first
    if first.details() != _CLIENTS_OWN:
        return first
    while await running.details() == _CLIENTS_OWN:
        await asyncio.sleep(0.002)
    return running._cython_call._status


@dataclass
class Serving:
    """Starts production servers and drains them all in the end."""

    directory: Path
    servers: list[Server] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def make(
        self, service: Service | None = None, *, settings: Settings | None = None, tracer: Tracer | None = None
    ) -> Server:
        """A server that has not been started."""
        settings = settings or Settings(data_dir=self.directory)
        return Server(service or echo_service(), settings, development_identity(settings), tracer)

    async def serve(
        self,
        service: Service | None = None,
        *,
        address: str = "127.0.0.1:0",
        settings: Settings | None = None,
        tracer: Tracer | None = None,
    ) -> Server:
        """A started server."""
        server = self.make(service, settings=settings, tracer=tracer)
        await server.start(address)
        self.servers.append(server)
        return server

    def connect(self, server: Server | str, **options: Any) -> grpc.aio.Channel:
        """A bare channel, as any client has."""
        address = server if isinstance(server, str) else f"127.0.0.1:{server.port}"
        # Without the shared pool: a channel must not inherit another one's broken connection or its back-off.
        channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1), *options.pop("options", ())], **options
        )
        self.channels.append(channel)
        return channel

    async def stop(self) -> None:
        """Close channels, drain servers."""
        for channel in self.channels:
            await channel.close()
        for server in self.servers:
            await server.drain(delay=0, grace=0)


class RawClient:
    """An HTTP/2 client made by hand, for what a proper client would never do: it grants no window to read into."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pump = asyncio.create_task(self._answer_settings())

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        """Connect with SETTINGS_INITIAL_WINDOW_SIZE = 0, so that the server can never send a message."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        no_window = (4).to_bytes(2, "big") + (0).to_bytes(4, "big")
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, no_window))
        await writer.drain()
        return cls(reader, writer)

    async def call(self, method_path: str, message: bytes, *, stream: int = 1, promised: int = 0) -> None:
        """Send a unary request; one that has ``promised`` more bytes is not complete."""
        block = self._headers(method_path)
        body = b"\0" + (len(message) + promised).to_bytes(4, "big") + message
        self._writer.write(_frame(1, 0x4, stream, block) + _frame(0, 0 if promised else 1, stream, body))
        await self._writer.drain()

    async def begin_and_reset(self, method_path: str, streams: range) -> None:
        """Begin a call on each stream (odd numbers) and take it back at once."""
        for stream in streams:
            reset = _frame(3, 0, stream, (8).to_bytes(4, "big"))
            self._writer.write(_frame(1, 0x4, stream, self._headers(method_path)) + reset)
        await self._writer.drain()

    async def close(self) -> None:
        """Drop the connection."""
        self._pump.cancel()
        self._writer.close()

    def _headers(self, method_path: str) -> bytes:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method_path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        # HPACK: literal fields without indexing, names and values not compressed (RFC 7541, 6.2.2).
        return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in fields.items())

    async def _answer_settings(self) -> None:
        while True:
            header = await self._reader.readexactly(9)
            await self._reader.readexactly(int.from_bytes(header[:3], "big"))
            if header[3] == 4 and not header[4] & 1:
                self._writer.write(_frame(4, 1, 0, b""))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127, "longer lengths need more bytes"
    return bytes((len(data),)) + data
