"""Traces and metrics of one process, exported over OTLP when the standard OTEL_* variables say so.

Spans are queued and sent from a thread of the SDK's: a collector that is slow, or not there, costs a bounded queue
and never a call. Without a configured endpoint no span is made at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from services.resilience.pool import PoolEvent
from services.runtime.otlp import configured_collector, open_exporter

# How long a stopping process waits for its last spans to be taken.
_FLUSH_SECONDS = 2.0
_EXPORT_SECONDS = 5
# The bounds of OpenTelemetry's rpc.server.call.duration histogram, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@dataclass
class CallStatistics:
    """How often a method ended with a status, and how long it took."""

    count: int = 0
    total_seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))


class CallMetrics:
    """``rpc.server.call.duration`` by method and status, as a histogram in memory, and gauges read when asked for."""

    def __init__(self) -> None:
        self.by_method: dict[tuple[str, str], CallStatistics] = {}
        self._observed: list[Callable[[], Mapping[tuple[str, str], float]]] = []

    def observe(self, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """Have ``read`` give values by metric and label whenever somebody asks for them."""
        self._observed.append(read)

    def gauges(self) -> dict[tuple[str, str], float]:
        """What is observed, by metric and label, at this moment."""
        return {key: value for read in self._observed for key, value in read().items()}

    def record(self, method: str, code: str, seconds: float) -> None:
        """Count one ended call."""
        statistics = self.by_method.get((method, code))
        if statistics is None:
            statistics = self.by_method[method, code] = CallStatistics()
        statistics.count += 1
        statistics.total_seconds += seconds
        statistics.buckets[bisect_left(BUCKETS, seconds)] += 1


class EndpointMetrics:
    """How often endpoints went up and down, and breakers changed, in memory."""

    def __init__(self) -> None:
        self.changes: Counter[tuple[str, str, str]] = Counter()
        """By caller, service and what happened: "up", "down", or the state that a breaker went to."""

    def record(self, caller: str, service: str, event: PoolEvent) -> None:
        """Count a change."""
        if event.breaker is not None:
            self.changes[caller, service, event.breaker[1].value] += 1
        elif event.up is not None:
            self.changes[caller, service, "up" if event.up else "down"] += 1


def sdk_tracer(provider: TracerProvider, version: str) -> Tracer | None:
    """The provider's tracer; None where the SDK is switched off."""
    tracer = provider.get_tracer("groundwire", version)
    return tracer if isinstance(tracer, Tracer) else None


class Telemetry:
    """The process's exporter, and a tracer for each service that runs in it."""

    def __init__(self, version: str) -> None:
        """Raises ConfigurationError when the OTEL_* variables cannot be obeyed."""
        self._version = version
        self.endpoints = EndpointMetrics()
        # Of this process alone, so that the workers of one service can be told apart.
        self._instance = str(uuid.uuid4())
        self._processor: BatchSpanProcessor | None = None
        collector = configured_collector()
        if collector is not None:
            self._processor = BatchSpanProcessor(open_exporter(collector, _EXPORT_SECONDS))

    def tracer(self, service: str) -> Tracer | None:
        """A tracer whose spans carry ``service.name = groundwire-<service>``; None when traces go nowhere.

        ``service.instance.id`` is a random UUID of this process, as OpenTelemetry's semantic conventions recommend.
        """
        if self._processor is None:
            return None
        resource = Resource.create(
            {
                "service.name": f"groundwire-{service}",
                "service.version": self._version,
                "service.instance.id": self._instance,
            }
        )
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        return sdk_tracer(provider, self._version)

    async def close(self) -> None:
        """Send what is queued, for a bounded time: an unreachable collector must not hold up a stop."""
        processor, self._processor = self._processor, None
        if processor is None:
            return
        loop = asyncio.get_running_loop()
        flushed = asyncio.Event()

        def flush() -> None:
            # The SDK ignores the time-out of force_flush; that of shutdown it keeps, up to one export.
            processor.shutdown()  # type: ignore[no-untyped-call] # the SDK leaves it untyped
            with contextlib.suppress(RuntimeError):  # the loop may have ended long ago
                loop.call_soon_threadsafe(flushed.set)

        # A daemon, because an end of the loop or of the interpreter would wait for a thread of an executor.
        threading.Thread(target=flush, name="telemetry-flush", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(flushed.wait(), _FLUSH_SECONDS)
