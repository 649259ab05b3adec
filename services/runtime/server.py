"""The one server assembly: every service and every test is served by what stands here.

A :class:`Service` is what a service's own assembly makes: its servicers, what it needs to be ready, and what must be
closed. :class:`Server` puts the interceptor chain, health, reflection and drain around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc
from opentelemetry.sdk.trace import Tracer

from groundwire.monitoring.v1.dependency_service_pb2_grpc import add_DependencyServiceServicer_to_server
from groundwire.policy.v1 import policy_pb2
from interceptors import current
from interceptors._shapes import Call, Layer
from interceptors.admission import Admission
from interceptors.audit import Announcement, Audit
from interceptors.authentication import Authentication, Confirm, Identify
from interceptors.authorization import Authorization
from interceptors.chain import Position, build
from interceptors.deadline import Deadline
from interceptors.errors import Errors
from interceptors.metrics import Metrics
from interceptors.permits import Permits
from interceptors.tracing import Tracing
from services.corpus.errors import DeadlineExceeded, GroundwireError, NotYetImplemented, Unavailable
from services.resilience.brownout import Brownout
from services.resilience.health import HealthBoard, ServingStatus
from services.runtime import health, reflection, shared_port, standing
from services.runtime.admission import Admissions
from services.runtime.auditing.record import CallRecord, Policy
from services.runtime.auditing.recorder import Recorder
from services.runtime.failover_channel import FailoverChannel
from services.runtime.limits import MIB, server_options
from services.runtime.settings import ConfigurationError, Settings, is_loopback
from services.runtime.sockets import untrusted_directory
from services.runtime.standing import DependencyServicer, Standing
from services.runtime.status import to_status
from services.runtime.telemetry import CallMetrics
from services.runtime.tls import demands_certificates, listening_tls, server_credentials
from services.security.permissions import (
    Authorizer,
    administrators_only,
    lasting_methods,
    policy_version,
    role_table,
    rule_table,
)

__all__ = ["MIB", "READINESS", "Server", "Service", "refuse_unknown", "server_options"]

READINESS = "readiness"
_READINESS_INTERVAL = 1.0
_READINESS_TIMEOUT = 5.0
_READINESS_PATIENCE = 1.0
_TIDY_SECONDS = 5.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Service:
    """One service, ready to be served.

    ``register`` adds its servicers to a server; ``descriptors`` are the contract's services that they implement.
    ``recorder`` makes the record of its calls; the server closes it after everything else.
    ``ready`` raises while something that the service cannot do without is missing. ``close`` runs after the last
    call has ended. ``deadline_cap`` is the longest that a call without a deadline may take, in seconds.
    ``initial_limit`` is how many calls it may serve at once until it has been learned what it does well with;
    ``brownout`` is driven by its load, where it can do less for each call. ``impairment`` says in a few safe words what
    it works without now, beside services of the mesh; nothing if all is there.
    """

    name: str
    descriptors: Sequence[ServiceDescriptor]
    register: Callable[[grpc.aio.Server], None]
    ready: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
    recorder: Recorder
    deadline_cap: float = 60.0
    max_request_bytes: int = 4 * MIB
    initial_limit: int = 128
    brownout: Brownout | None = None
    impairment: Callable[[], str] = str

    async def end(self) -> None:
        """Close what the service holds, and then the recorder: closing may still leave something to record."""
        try:
            await self.close()
        finally:
            await self.recorder.close()


@dataclass
class Server:
    """Serves one :class:`Service` on one address.

    The life of a server is ``start`` → (serving) → ``drain``. Starting raises ConfigurationError when the address
    is taken, when others than programs on this machine could reach it without TLS, or when TLS is configured by half.
    With ``development_secrets`` (None: what the settings say) others are refused even with TLS. ``dependencies`` are
    the channels to those that the service calls, which say how well it can work.
    ``shared`` says that other processes serve the same address, a port that somebody holds for all of them
    (:mod:`.shared_port`). ``confirm`` says whether those whom ``identify`` let in would still be.
    """

    service: Service
    settings: Settings
    identify: Identify
    tracer: Tracer | None = None
    metrics: CallMetrics = field(default_factory=CallMetrics)
    development_secrets: bool | None = None
    dependencies: Sequence[FailoverChannel] = ()
    shared: bool = False
    confirm: Confirm | None = None
    port: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        names = tuple(descriptor.full_name for descriptor in self._descriptors)
        self.board = HealthBoard(("", READINESS, *names), max_watchers=self.settings.connections.max_health_watchers)
        self._standing = Standing([channel.pool for channel in self.dependencies], self.service.impairment)
        self._readiness: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._socket: Path | None = None
        self._server: grpc.aio.Server | None = None
        self.admissions: Admissions | None = None

    async def start(self, address: str) -> None:
        """Bind ``address`` (``host:port``, port 0 for any, or ``unix:/path``) and begin to serve."""
        tls = self._tls(address)
        server = self._build(address)
        if address.startswith("unix:"):
            self._prepare_socket(Path(address.removeprefix("unix:")))
        try:
            self.port = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls)
        except RuntimeError:
            raise ConfigurationError(
                f"{self.service.name}: cannot listen on {address}: the address is already in use "
                "(is another groundwire running? `groundwire status` shows it)"
            ) from None
        if self._socket is not None:
            self._socket.chmod(0o600)
        await server.start()
        self._server = server
        self.service.recorder.start()
        for name in self.board.statuses():
            if name != READINESS:
                self.board.set(name, ServingStatus.SERVING)
        self._readiness = asyncio.create_task(self._follow_readiness())
        self._starting = asyncio.create_task(self._start_dependencies())
        _log.info("serving", service=self.service.name, address=address, port=self.port, tls=tls is not None)

    async def let_go(self) -> None:
        """Leave the address to the others that share it: return when callers have gone to them, without a failed call.

        What remains is calls that take longer than ``workers.connection_age``; :meth:`drain` comes next.
        """
        await shared_port.let_go(self.port, self.settings.workers.connection_age)

    async def drain(self, *, delay: float | None = None, grace: float | None = None, announce: bool = True) -> None:
        """Stop without losing an accepted call.

        Health says NOT_SERVING, so that callers go elsewhere; after ``delay`` seconds new calls are refused with
        UNAVAILABLE; those in flight get ``grace`` seconds to end; then everything that the service held is closed.
        Without ``announce`` health says nothing, because others still serve the address.
        """
        server, self._server = self._server, None
        if server is None:
            return
        options = self.settings.drain
        for task in (self._readiness, self._starting):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if announce:
            self.board.end()
        await asyncio.sleep(options.delay if delay is None else delay)
        # A watch never ends by itself: without this every drain would last as long as its grace.
        self.board.close_watchers()
        self._admission.close()
        patience = options.grace if grace is None else grace
        end = asyncio.get_running_loop().time() + patience
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), patience)
        await server.stop(max(0.0, end - asyncio.get_running_loop().time()))
        # Handlers that were cancelled may still be tidying up with what is closed next.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), _TIDY_SECONDS)
        # What was recorded last may still need what is closed next: the log itself, in the service that has it.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.service.recorder.settled(), _TIDY_SECONDS)
        try:
            await self.service.end()
        finally:
            if self._socket is not None:
                self._socket.unlink(missing_ok=True)
        _log.info("stopped", service=self.service.name)

    def _build(self, address: str) -> grpc.aio.Server:
        service = self.service
        with_reflection = self.settings.reflection is not False
        limits = self.settings.connections
        chain = build(self.layers(address), refuse_unknown, request_time=limits.request_time)
        age = self.settings.workers.connection_age if self.shared else None
        options = server_options(service.max_request_bytes, connections=limits, shared_age=age)
        server = grpc.aio.server(interceptors=[chain], options=options)
        service.register(server)
        add_DependencyServiceServicer_to_server(DependencyServicer(self._standing), server)
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(self.board), server)
        if with_reflection:
            reflection.add_reflection([*(d.full_name for d in self._descriptors), health.SERVICE], server)
        return server

    def layers(self, address: str) -> list[tuple[Position, Layer]]:
        """The interceptors that guard the service at ``address``, outermost first."""
        service = self.service
        authorizer = self._authorizer(address)
        watches = authorizer.watches
        roles = role_table(self.settings.authorization.roles)
        recorder, version = service.recorder, policy_version(authorizer.rules, roles)
        recorder.policy_version = version
        policies = {
            path: Policy(rule.audit, rule.permission, version)
            for path, rule in authorizer.rules.items()
            if rule.audit != policy_pb2.AUDIT_NONE
        }
        unknown = Policy(policy_pb2.AUDIT_DENIALS, "", version)
        announced = {
            path for path, rule in authorizer.rules.items() if rule.streaming and rule.audit == policy_pb2.AUDIT_ALWAYS
        }

        def open_record(call: Call) -> CallRecord | None:
            policy = policies.get(call.method)
            if policy is None:
                if call.known:
                    return None
                policy = unknown
            return recorder.open(call, policy)

        def cap(method: str) -> float | None:
            return None if method in watches or method == health.WATCH else service.deadline_cap

        if self.settings.admission.enabled:
            self.admissions = Admissions(
                self.settings.admission,
                initial_limit=service.initial_limit,
                rules=authorizer.rules,
                brownout=service.brownout,
            )
            self.metrics.observe(self.admissions.readings)
        self._admission = Admission(
            exempt=authorizer.is_open,
            endless=watches.__contains__,
            refusal=lambda: Unavailable("this server is shutting down", reason="DRAINING"),
            permits=Permits(self.admissions) if self.admissions is not None else None,
        )
        return [
            (Position.TRACING, Tracing(self.tracer, authorizer.is_open)),
            (Position.METRICS, Metrics(self.metrics.record)),
            (Position.AUDIT, Audit(open_record, to_status)),
            (Position.ERRORS, Errors(to_status)),
            (Position.DEADLINE, Deadline(cap, lambda: DeadlineExceeded("the call's time ran out"))),
            (Position.AUTHENTICATION, self._authentication(authorizer)),
            (Position.AUTHORIZATION, Authorization(authorizer.decide)),
            (Position.ADMISSION, self._admission),
            (Position.ANNOUNCEMENT, Announcement(announced.__contains__)),
        ]

    def _authentication(self, authorizer: Authorizer) -> Authentication:
        streams = {path for path, rule in authorizer.rules.items() if rule.streaming}
        lasting = streams | lasting_methods(self._descriptors)
        return Authentication(self.identify, authorizer.is_open, self.confirm, lasting.__contains__)

    @property
    def _descriptors(self) -> list[ServiceDescriptor]:
        return [*self.service.descriptors, standing.SERVICE]

    def _authorizer(self, address: str) -> Authorizer:
        rules = rule_table(self._descriptors)
        open_services = {health.SERVICE}
        if self.settings.reflection or (self.settings.reflection is None and is_loopback(address)):
            open_services.update(reflection.SERVICES)
        elif self.settings.reflection is None:
            # Who can reach this from elsewhere learns the contract only if they may do everything anyway.
            rules |= {method: administrators_only(streaming=True) for method in reflection.METHODS}
        return Authorizer(rules, open_services=frozenset(open_services))

    def _tls(self, address: str) -> grpc.ServerCredentials | None:
        name, options = self.service.name, self.settings.tls
        tls = listening_tls(self.settings, name, address, development_secrets=self.development_secrets)
        if tls is not None:
            return server_credentials(tls, client_certificates=demands_certificates(options, name))
        if not is_loopback(address):
            _log.warning(
                "INSECURE: tokens, questions and texts cross the network in clear", service=name, address=address
            )
        return None

    def _prepare_socket(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if problem := untrusted_directory(path.parent):
            raise ConfigurationError(f"{self.service.name}: cannot listen on {path}: {problem}")
        if path.exists():
            if not path.is_socket():
                raise ConfigurationError(f"{self.service.name}: cannot listen on {path}: there is another file")
            if _answers(path):
                raise ConfigurationError(f"{self.service.name}: cannot listen on {path}: another process does")
            path.unlink()  # left behind by a process that was killed
        self._socket = path

    async def _start_dependencies(self) -> None:
        await asyncio.gather(*(channel.start() for channel in self.dependencies))

    async def _follow_readiness(self) -> None:
        was: str | None = ""
        began = False
        while True:
            problem: str | None = None
            told: str | None = None
            # Who is not there is not waited for: that is what is to be told.
            current.deadline.set(time.monotonic() + _READINESS_PATIENCE)
            try:
                async with asyncio.timeout(_READINESS_TIMEOUT):
                    await self.service.ready()
                if self.service.recorder.failure is not None:
                    raise self.service.recorder.failure  # noqa: TRY301 - one more reason not to be ready
            except Exception as error:  # noqa: BLE001 - whatever it is, the service is not ready
                problem = str(error) or type(error).__name__
                # Others are told what is meant for others alone.
                told = error.message if isinstance(error, GroundwireError) else "something that it needs fails"
            self.board.set(READINESS, ServingStatus.NOT_SERVING if problem else ServingStatus.SERVING)
            self._standing.set_problem(told)
            if problem != was:
                was = problem
                # At its start a service waits for others, and that is nothing to warn of.
                log = _log.warning if problem and began else _log.info
                log("not ready" if problem else "ready", service=self.service.name, reason=problem)
            began = began or problem is None
            await asyncio.sleep(_READINESS_INTERVAL if problem is None else _READINESS_INTERVAL / 5)


async def refuse_unknown(_call: Call) -> None:
    """End a call to a path that is not served."""
    # Authorization refuses unknown paths already; this is what remains if it ever would not.
    raise NotYetImplemented("no such method")


def _answers(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)  # a listener whose queue is full must not hold up the loop
        return probe.connect_ex(os.fspath(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
