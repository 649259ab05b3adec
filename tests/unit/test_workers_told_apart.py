"""Whoever reads logs and traces can tell the processes of one service apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from rich.console import Console

from cli import up as up_module
from cli.errors import CliError
from cli.options import Globals
from cli.output import Format, Screen
from services.runtime import logs
from services.runtime.options import LogOptions
from services.runtime.telemetry import Telemetry


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """What a process configures once, put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("worker", [None, 2])
def test_each_line_says_which_worker_wrote_it(worker: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogOptions(format="json"), worker=worker)
    structlog.get_logger("x").info("ours")
    logging.getLogger("library").warning("theirs")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line.get("worker")) for line in lines] == [("ours", worker), ("theirs", worker)]


async def test_spans_say_which_process_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # An endpoint that nobody reaches: what spans carry is all that this looks at, and none is sent.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    processes = [Telemetry("1") for _ in range(2)]
    instances = [[instance(process, service) for service in ("query", "retrieval")] for process in processes]
    assert [len(set(of_one_process)) for of_one_process in instances] == [1, 1]
    assert instances[0][0] != instances[1][0]
    for process in processes:
        await process.close()


def instance(process: Telemetry, service: str) -> object:
    tracer = process.tracer(service)
    assert tracer is not None
    # In a context of its own: another test may have left the one of a call behind.
    span = tracer.start_span("x", context=Context())
    assert isinstance(span, ReadableSpan)
    return span.resource.attributes["service.instance.id"]


@pytest.mark.parametrize(("processes", "told"), [(False, True), (True, False)])
def test_up_says_that_one_process_has_no_workers(
    processes: bool, told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GROUNDWIRE_RETRIEVAL__WORKERS", "3")
    monkeypatch.setattr(up_module, "supervisor", _nothing)
    screen = Screen(Format.TEXT)
    screen.err = Console(record=True, width=200)
    with pytest.raises(CliError, match="enough seen"):
        up_module.up(
            Globals(), screen, processes=processes, data_dir=tmp_path, port_base=0, verbose=False, insecure=False
        )
    assert ("retrieval.workers: ignored" in screen.err.export_text()) is told


def _nothing(*_: object, **__: object) -> None:
    raise CliError("enough seen")
