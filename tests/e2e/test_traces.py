"""Traces: one Query is one trace at a real collector, and a collector that is not there costs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.processes import Running, collector, free_ports, mesh_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTION = "When does the zeppelin leave Ghent?"
TEXT = "The zeppelin leaves Ghent at noon every Friday. Passengers show their badge to the purser."


# Methods that a question leads to, with who calls them and who serves them.
CALLS = (
    ("Retrieve", "query", "retrieval"),
    ("StreamGenerate", "query", "generation"),
    ("SearchDense", "retrieval", "store"),
    ("SearchLexical", "retrieval", "store"),
    ("FetchChunks", "retrieval", "store"),
)


@dataclass(frozen=True)
class Span:
    """A span as the collector printed it."""

    service: str
    trace: str
    parent: str
    id: str
    name: str
    kind: str


_SPAN = re.compile(
    r"service\.name: Str\((?P<service>[^)]*)\)"
    r"|Trace ID\s+: (?P<trace>\w+)\s+Parent ID\s+: (?P<parent>\w*)\s+ID\s+: (?P<id>\w+)\s+"
    r"Name\s+: (?P<name>\S+)\s+Kind\s+: SPAN_KIND_(?P<kind>\w+)"
)


def spans(text: str) -> list[Span]:
    """The spans in the collector's output."""
    found = []
    service = ""
    for match in _SPAN.finditer(text):
        if match["service"]:
            service = match["service"].removeprefix("groundwire-")
        else:
            found.append(Span(service, match["trace"], match["parent"], match["id"], match["name"], match["kind"]))
    return found


@pytest.mark.skipif(find_spec("rotel") is None, reason="the collector has no wheel for this platform")
def test_one_query_is_one_trace_across_processes(tmp_path: Path) -> None:
    document = tmp_path / "zeppelin.txt"
    document.write_text(TEXT)
    with collector() as (address, received):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with mesh_up(tmp_path / "data", "--processes", environment=variables) as mesh:
            mesh.groundwire("ingest", str(document), "--readers", "tenant:*")
            answer = mesh.ask(QUESTION)
            assert "noon" in answer["answer"]
            # While everything runs: a process that stops sends its last spans for a bounded time.
            query = until(lambda: _root_of_whole_trace(received), "all spans of the query")
        trace = [span for span in spans(received.text()) if span.trace == query.trace]

    by_id = {span.id: span for span in trace}
    # One root, and everything else hangs below a span of the same trace.
    assert [span for span in trace if span.parent not in by_id] == [query]
    # The call path: each server span's parent is the client span of the service before it.
    path = {(span.name.rpartition("/")[2], span.kind): span for span in trace}
    for method, caller, callee in CALLS:
        client, server = path[method, "CLIENT"], path[method, "SERVER"]
        assert (client.service, server.service) == (caller, callee)
        assert server.parent == client.id
    assert path["Retrieve", "CLIENT"].parent == query.id
    assert path["StreamGenerate", "CLIENT"].parent == query.id
    assert path["SearchDense", "CLIENT"].parent == path["Retrieve", "SERVER"].id

    # No words of questions, documents or answers, in any span of anything.
    shown = received.text().lower()
    assert not [word for word in ("zeppelin", "ghent", "noon", "purser") if word in shown]


def _root_of_whole_trace(received: Running) -> Span | None:
    """The query's span once all others of its trace have arrived; each process sends its own when it likes."""
    found = spans(received.text())
    roots = [span for span in found if span.name.endswith("QueryService/StreamQuery") and span.kind == "SERVER"]
    if not roots:
        return None
    trace = [span for span in found if span.trace == roots[0].trace]
    there = {(span.name.rpartition("/")[2], span.kind) for span in trace}
    ids = {span.id for span in trace}
    wanted = {(method, kind) for method, _, _ in CALLS for kind in ("CLIENT", "SERVER")}
    whole = wanted <= there and all(span.parent in ids for span in trace if span is not roots[0])
    return roots[0] if whole else None


@pytest.mark.long
def test_an_unreachable_collector_breaks_nothing(tmp_path: Path) -> None:
    document = tmp_path / "zeppelin.txt"
    document.write_text(TEXT)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    with mesh_up(tmp_path / "data", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": nowhere}) as mesh:
        mesh.groundwire("ingest", str(document), "--readers", "tenant:*")
        assert "noon" in mesh.ask(QUESTION)["answer"]
        supervisor = mesh.processes["up"]
        supervisor.process.terminate()
        assert supervisor.wait() in (0, 143)
