"""Structured logs on stderr: one event per line, as JSON or, for people, on a console."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.dev import plain_traceback

from interceptors import current
from services.corpus.cleaning import cleaned, escaped
from services.runtime.metadata_logs import hide_metadata
from services.runtime.options import LogOptions


def configure(options: LogOptions, *, worker: int | None = None) -> None:
    """Send structlog's events and the standard library's to stderr in one form. Call once per process.

    ``worker`` is put into every line, so that the processes of one service can be told apart.
    """

    def add_worker(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if worker is not None:
            event.setdefault("worker", worker)
        return event

    as_json = options.format == "json" or (options.format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        add_worker,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if as_json
        else [_clean, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(options.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A later configuration, such as a command's quieter one, counts for loggers that were used before, too.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    hide_metadata()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(options.level.upper())
    # Libraries that narrate every request, or that retry in the background and say so each time.
    for name in ("httpx", "httpcore", "chromadb", "pypdf", "opentelemetry.exporter.otlp"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _json(event: Any, **options: Any) -> str:
    return escaped(json.dumps(event, **options))


def _clean(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For people: an event stays one line, whatever stands in it, and nothing of it is obeyed by a terminal."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = cleaned(value).replace("\n", "\\n")
    return event


def _traceback(stream: TextIO, exc_info: Any) -> None:
    # Plain: the default shows local variables, which hold requests.
    plain = io.StringIO()
    plain_traceback(plain, exc_info)
    stream.write(cleaned(plain.getvalue()))


def _add_request_id(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if request_id := current.request_id.get():
        event.setdefault("request_id", request_id)
    return event
