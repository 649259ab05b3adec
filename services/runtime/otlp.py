"""Where spans go over OTLP, and how: the standard OTEL_* variables, read in one place.

OpenTelemetry's specification of its exporters names the variables
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/). Both of its binary protocols are spoken. The libraries that
speak them are imported where they are needed: a process that exports nothing starts without them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from services.runtime.settings import ConfigurationError, is_loopback, otel_variables

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

_LIBRARY = "opentelemetry.exporter.otlp"
_TRACES_PATH = "v1/traces"


class Protocol(StrEnum):
    """What is spoken to the collector."""

    GRPC = "grpc"
    HTTP = "http/protobuf"


_PORTS = {Protocol.GRPC: 4317, Protocol.HTTP: 4318}
"""Where collectors listen for each."""


@dataclass(frozen=True)
class Collector:
    """Where spans are sent. ``endpoint`` is the whole URL of ``http/protobuf``, its path included."""

    protocol: Protocol
    endpoint: str

    @property
    def on_this_machine(self) -> bool:
        """Whether no proxy is needed to reach it."""
        authority = urlsplit(self.endpoint).netloc or self.endpoint
        host = urlsplit(f"//{authority}").hostname or ""
        return is_loopback(f"{host}:0")


def configured_collector(variables: Mapping[str, str] | None = None) -> Collector | None:
    """Where the standard ``variables`` (None: those that are set) send spans; None if they send none anywhere.

    An endpoint, a protocol, or ``OTEL_TRACES_EXPORTER=otlp`` asks for it. Raises ConfigurationError, with one line, for a
    protocol that is not spoken and for an endpoint that it cannot be spoken to.
    """
    environ = otel_variables() if variables is None else variables
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return None
    endpoint_from, endpoint = _first(environ, "ENDPOINT")
    protocol_from, named = _first(environ, "PROTOCOL")
    if not endpoint and not named and exporter != "otlp":
        return None
    try:
        protocol = Protocol(named.lower()) if named else Protocol.GRPC
    except ValueError:
        spoken = " or ".join(Protocol)
        raise ConfigurationError(f"{protocol_from}: {named!r} is not spoken here; set it to {spoken}") from None
    if not endpoint:
        return Collector(protocol, _whole(f"http://localhost:{_PORTS[protocol]}", protocol))
    try:
        url = urlsplit(endpoint)
        valid = bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if protocol is Protocol.GRPC:
        # gRPC takes names without a scheme as well.
        if "://" in endpoint and not valid:
            raise ConfigurationError(f"{endpoint_from}: is not a URL such as http://localhost:{_PORTS[protocol]}")
        return Collector(protocol, endpoint)
    if not valid or url.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{endpoint_from}: {protocol} needs a URL such as http://localhost:{_PORTS[protocol]}, with http:// or https://"
        )
    # The variable for traces alone holds the whole URL; to the other one each signal adds its path.
    return Collector(protocol, endpoint if "_TRACES_" in endpoint_from else _whole(endpoint, protocol))


def _first(environ: Mapping[str, str], what: str) -> tuple[str, str]:
    """The variable that counts and its value: that for traces goes before that for all signals; empty counts as unset."""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        if value := environ.get(variable, "").strip():
            return variable, value
    return "", ""


def _whole(endpoint: str, protocol: Protocol) -> str:
    return endpoint if protocol is Protocol.GRPC else f"{endpoint.rstrip('/')}/{_TRACES_PATH}"


def open_exporter(collector: Collector, timeout: float) -> SpanExporter:
    """An exporter to ``collector``, which tries for ``timeout`` seconds. Headers, certificates and so on come from the environment.

    A collector on this machine is never asked for through the ``http_proxy`` of the environment.
    """
    if collector.protocol is Protocol.HTTP:
        return _over_http(collector, timeout, _session(collector))
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc  # noqa: PLC0415 - see the module

    direct: Any = (("grpc.enable_http_proxy", 0),) if collector.on_this_machine else None
    return over_grpc.OTLPSpanExporter(endpoint=collector.endpoint, timeout=timeout, channel_options=direct)


def _over_http(collector: Collector, timeout: float, session: Any) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http  # noqa: PLC0415 - see the module

    return over_http.OTLPSpanExporter(endpoint=collector.endpoint, timeout=timeout, session=session)


def _session(collector: Collector) -> Any:
    """What HTTP requests go through: answers are bounded in bytes and time."""
    from services.http.requests_adapter import bounded_session  # noqa: PLC0415 - see the module

    session = bounded_session()
    session.trust_env = not collector.on_this_machine
    return session


def try_export(collector: Collector, timeout: float = 3.0) -> str | None:
    """Send one span to ``collector``; None if the collector took it, else what went wrong, in a few words. Blocking."""
    answers: list[Any] = []
    with _complaints() as complaints:
        try:
            if collector.protocol is Protocol.HTTP:
                session = _session(collector)
                session.hooks["response"].append(lambda response, **_: answers.append(response))
                exporter = _over_http(collector, timeout, session)
            else:
                exporter = open_exporter(collector, timeout)
            try:
                taken = exporter.export([_span()]).name == "SUCCESS"
            finally:
                exporter.shutdown()
        except Exception as error:  # noqa: BLE001 - whatever the library, or a file that it needs, makes of it
            return str(error) or type(error).__name__
    if answers:
        return _http_problem(answers, taken=taken)
    return None if taken else next(iter(complaints), "nothing answered in time")


def _span() -> ReadableSpan:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see the module
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling  # noqa: PLC0415

    resource = Resource.create({"service.name": "groundwire-doctor"})
    provider = TracerProvider(resource=resource, sampler=sampling.ALWAYS_ON, shutdown_on_exit=False)
    span = provider.get_tracer("groundwire").start_span("groundwire doctor")
    span.end()
    if not isinstance(span, ReadableSpan):
        raise TypeError("the SDK is switched off")
    return span


def _http_problem(answers: list[Any], *, taken: bool) -> str | None:
    """What the answers say that came over HTTP: a web page that is there for something else says 200, too."""
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - see the module
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: PLC0415

    first, last = answers[0], answers[-1]
    if first.is_redirect or not taken:
        shown = first if first.is_redirect else last
        return f"it answers HTTP {shown.status_code} {shown.reason or ''}".rstrip()
    try:
        said = trace_service_pb2.ExportTraceServiceResponse.FromString(last.content)
    except DecodeError:
        return f"it answers HTTP {last.status_code}, but not as a collector does"
    refused = said.partial_success
    return f"it refused the span: {refused.error_message or 'without a reason'}" if refused.rejected_spans else None


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the exporters complain about, which they tell their log alone: here it goes nowhere else."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(_complaint(record))

    logger, handler = logging.getLogger(_LIBRARY), Collect(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    level = logger.level
    logger.setLevel(logging.WARNING)  # whatever the settings say of logs: the first complaint says most
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def _complaint(record: logging.LogRecord) -> str:
    arguments = record.args if isinstance(record.args, tuple) else ()
    # The exporter over gRPC logs what it exports, where to, the status code and its details.
    code = next((name for each in arguments if (name := getattr(each, "name", None))), None)
    error = next((each for each in arguments if isinstance(each, Exception)), None)
    if error is not None:
        return _cause(error)
    if code is not None:
        # Of "failed to connect to all addresses; last error: …" the second half says why.
        return f"{code}: {str(arguments[-1]).rpartition('last error: ')[2]}"
    return record.getMessage()


def _cause(error: BaseException) -> str:
    """What the operating system, or TLS, said in the first place; the libraries wrap it several times."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "no answer in HTTP"
