"""What `groundwire status` makes of what it was told: pictures, their changes, and who serves now."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cli.status_changes import changes
from cli.status_tables import render
from cli.status_view import EndpointView, Picture, ServiceView, read_services, text_lines
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

NOW = datetime(2026, 3, 1, 12, 0, 5, 250_000, tzinfo=UTC)
UP = EndpointView("10.0.0.1:52", "healthy", role="primary", breaker="closed", serving=True, in_flight=0)
SPARE = EndpointView("10.0.0.1:62", "healthy", role="backup", breaker="closed", serving=False, in_flight=0)
STORE = retrieval_pb.StoreStatus(name="main", engine="chroma", dense=True, healthy=True, breaker="closed")
LLM = generation_pb.EndpointStatus(name="llm", healthy=True, breaker="closed", role="primary", serving=True)


def service(*endpoints: EndpointView, state: str = "healthy", detail: str = "") -> ServiceView:
    return ServiceView("retrieval", state, detail, endpoints or (UP,))


def picture(
    *services: ServiceView, store: retrieval_pb.StoreStatus = STORE, llm: generation_pb.EndpointStatus = LLM
) -> Picture:
    return Picture(services or (service(),), [store], [llm], watched=True)


def told(before: Picture | None, after: Picture) -> list[str]:
    lines = [change.line(NOW) for change in changes(before, after)]
    assert all(line.startswith("2026-03-01T12:00:05+00:00 ") for line in lines)
    return [line.partition(" ")[2] for line in lines]


def test_at_first_it_is_told_how_everything_is_and_what_is_not_as_expected() -> None:
    assert told(None, picture(service(UP, SPARE))) == [
        "retrieval is healthy",
        "retrieval at 10.0.0.1:52 is healthy",
        "retrieval at 10.0.0.1:62 is healthy",
        "vector store main is healthy",
        "LLM endpoint llm is healthy",
    ]
    down = replace(UP, state="unhealthy", breaker="open", serving=False, detail="it does not answer in time")
    degraded = service(down, replace(SPARE, serving=True), state="degraded", detail="why")
    assert told(None, picture(degraded))[:-2] == [
        "retrieval is degraded: why",
        "retrieval at 10.0.0.1:52 has a breaker that is open",
        "retrieval at 10.0.0.1:52 is unhealthy: it does not answer in time",
        "retrieval at 10.0.0.1:52 does not serve now",
        "retrieval at 10.0.0.1:62 is healthy",
        "retrieval at 10.0.0.1:62 serves",
    ]


def test_what_stays_as_it_is_is_not_told() -> None:
    assert told(picture(), picture()) == []
    busy = service(replace(UP, in_flight=7, milliseconds=3.0))
    assert told(picture(), picture(busy)) == []


def test_an_endpoint_that_nobody_calls_any_more_has_not_changed() -> None:
    assert told(picture(), picture(service(replace(UP, breaker="")))) == []
    opened = picture(service(replace(UP, breaker="open")))
    assert told(picture(), opened) == ["retrieval at 10.0.0.1:52 has a breaker that is open, was closed"]


def test_a_service_that_was_asked_itself_takes_nothing_back() -> None:
    """It does not know its breakers, nor whether it serves."""
    asked = picture(service(EndpointView("10.0.0.1:52", "healthy")))
    assert told(picture(), asked) == []
    assert told(asked, picture()) == []


def test_another_reason_for_the_same_state_is_told() -> None:
    before, after = (picture(service(state="degraded", detail=why)) for why in ("one thing", "another"))
    assert told(before, after) == ["retrieval is degraded: another"]


def test_what_comes_and_goes_is_told() -> None:
    two, one = picture(service(UP, SPARE)), picture(service(UP))
    assert "retrieval at 10.0.0.1:62 is gone" in told(two, one)
    assert "retrieval at 10.0.0.1:62 is healthy" in told(one, two)


def test_stores_and_models_change_too() -> None:
    store = retrieval_pb.StoreStatus(name="main", breaker="half-open", error_message="no answer in time")
    llm = generation_pb.EndpointStatus(name="llm", breaker="open", role="primary", error_message="HTTP status 503")
    assert told(picture(), picture(store=store, llm=llm)) == [
        "vector store main is failing, was healthy: no answer in time",
        "vector store main has a breaker that is half-open, was closed",
        "LLM endpoint llm is failing, was healthy: HTTP status 503",
        "LLM endpoint llm has a breaker that is open, was closed",
        "LLM endpoint llm does not serve now",
    ]


def test_a_change_is_one_json_object() -> None:
    (change,) = changes(picture(), picture(service(replace(UP, serving=False))))
    assert change.as_document(NOW) == {
        "time": "2026-03-01T12:00:05.250+00:00",
        "kind": "endpoint",
        "name": "retrieval",
        "address": "10.0.0.1:52",
        "what": "serving",
        "before": True,
        "after": False,
        "detail": "",
    }


def test_services_are_in_the_order_of_the_mesh_and_unknown_states_are_not_healthy() -> None:
    found = read_services(
        [
            pb.ServiceTopology(service_name="store", status=pb.SERVICE_HEALTH_HEALTHY),
            pb.ServiceTopology(service_name="later", status=pb.SERVICE_HEALTH_HEALTHY),
            pb.ServiceTopology(service_name="query", status=pb.SERVICE_HEALTH_UNSPECIFIED),
        ]
    )
    assert [(each.service, each.state) for each in found] == [
        ("query", "unhealthy"),
        ("store", "healthy"),
        ("later", "healthy"),
    ]


@pytest.mark.parametrize(
    ("seen", "well"),
    [
        (picture(), True),
        (picture(service(state="degraded")), False),
        (picture(store=retrieval_pb.StoreStatus(name="main")), False),
        (picture(llm=generation_pb.EndpointStatus(name="llm")), False),
        (replace(picture(), stores=None, llms=None), True),
    ],
)
def test_all_is_well_only_if_every_part_is(seen: Picture, well: bool) -> None:
    assert seen.all_well is well


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_ENDPOINTS = st.builds(
    pb.EndpointTopology,
    address=st.one_of(st.just("10.0.0.1:52"), st.just("unix:/a/long/path/" + "x" * 70)),
    breaker=st.sampled_from(["", "closed", "open", "half-open"]),
    zone=st.sampled_from(["", "eu-1a"]),
    role=st.sampled_from([pb.ENDPOINT_ROLE_PRIMARY, pb.ENDPOINT_ROLE_BACKUP]),
    serving=st.booleans(),
    in_flight=st.integers(0, 100_000),
    health=st.builds(pb.HealthCheck, error_message=_TEXT),
)
_SERVICES = st.builds(
    pb.ServiceTopology,
    service_name=st.sampled_from(["query", "monitoring", "\x1b[31mred"]),
    error_message=_TEXT,
    endpoints=st.lists(_ENDPOINTS, max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(services=st.lists(_SERVICES, max_size=4), width=st.sampled_from([80, 120]))
def test_tables_fit_and_show_nothing_that_a_terminal_obeys(services: list[pb.ServiceTopology], width: int) -> None:
    seen = Picture(read_services(services), [STORE], [LLM], watched=True)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False, markup=False).print(render(seen, width))
    assert all(cell_len(line) <= width for line in out.getvalue().splitlines())
    assert "\x1b" not in out.getvalue()
    for line in text_lines(seen):
        assert "\x1b" not in line
        assert "\n" not in line
