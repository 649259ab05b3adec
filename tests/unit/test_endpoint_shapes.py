"""Every shape that servers of language models are known to give, through the endpoint and the generator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from services.generation.adapters.memory import ScriptedEndpoint
from services.generation.adapters.openai import OpenAIEndpoint
from services.generation.adapters.openai_request import Parameters
from services.generation.balancing import BalancingPolicy
from services.generation.endpoint import CONSECUTIVE_FAILURES
from services.generation.generation import Final, GenerationRequest, GenerationResult, Generator, fold
from services.generation.ports import ABSTENTION, Citation, Draft
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Role
from tests import check_endpoints_page
from tests.support.completions import PASSAGES, THOUGHTS, Shape, Status
from tests.support.endpoint_shapes import GROUPS
from tests.support.fake_http import FakeAnswer, FakeHttpClient

BACKUP = "It is in the list. [1]"
SHAPES = {check_endpoints_page.shape_id(group, shape): shape for group, shapes in GROUPS.items() for shape in shapes}
FAILURES = {name: shape for name, shape in SHAPES.items() if shape.answer is None}
ADAPTED = {name: shape for name, shape in SHAPES.items() if "asked again" in shape.note}


class World:
    """A model behind a server that answers with ``shape``, cut into pieces of ``size`` bytes, and a backup."""

    def __init__(self, shape: Shape, size: int) -> None:
        self.shape = shape
        self.size = size
        self.bodies: list[dict[str, Any]] = []
        configured = dict(shape.endpoint)
        opened = configured.pop("opened", False)
        parameters = Parameters(
            configured.get("max_tokens", "max_tokens"),
            frozenset(configured.get("omitted", ())),
            configured.get("extra", {}),
        )
        self.endpoint = OpenAIEndpoint(
            "llm",
            "http://llm.test/v1",
            "m",
            parameters=parameters,
            opened=opened,
            client=FakeHttpClient(self.reply),
        )
        backup = ScriptedEndpoint("backup", [BACKUP, Draft(BACKUP, (Citation("[1]", "p1", 0, 7),), 1.0)])
        policy = BalancingPolicy(roles={"llm": Role.PRIMARY, "backup": Role.BACKUP})
        self.generator = Generator([self.endpoint, backup], lambda: 0.0, policy=policy)

    def reply(self, content: bytes) -> FakeAnswer:
        body: Mapping[str, Any] = json.loads(content)
        self.bodies.append(dict(body))
        wire = self.shape.wire(body) if callable(self.shape.wire) else self.shape.wire
        answer = wire if isinstance(wire, Status) else Status(200, wire if isinstance(wire, bytes) else b"")
        pieces = [answer.body[start : start + self.size] for start in range(0, len(answer.body), self.size)]
        return FakeAnswer(answer.status, pieces, answer.breaks)

    async def ask(self) -> GenerationResult:
        shown = ""
        async for event in self.generator.stream(GenerationRequest("What is the fee?", PASSAGES)):
            shown = fold(shown, event)
            if isinstance(event, Final):
                assert shown == event.result.answer
                assert "naive" not in event.result.answer
                return event.result
        raise AssertionError("a stream ends with Final")


def sizes(shape: Shape) -> list[int]:
    wire = shape.wire.body if isinstance(shape.wire, Status) else shape.wire
    long = isinstance(wire, bytes) and len(wire) > 20_000
    return [4096] if long else [1, 2, 7, 4096]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_shape(shape: Shape) -> None:
    for size in sizes(shape):
        world = World(shape, size)
        result = await world.ask()
        if shape.answer is None:
            assert (result.endpoint, result.answer) == ("backup", BACKUP)
            assert world.generator.list_endpoints()[0].error_message == shape.reason
        else:
            assert world.generator.list_endpoints()[0].error_message == ""
            assert result.endpoint == "llm"
            assert result.abstained == (shape.answer == "")
            assert result.answer == (shape.answer or ABSTENTION)
            assert tuple(notice.code for notice in result.warnings) == shape.warnings
        if shape.usage is not None:
            prompt = sum(len(message["content"].encode()) for message in world.bodies[-1]["messages"])
            read, written = shape.usage
            assert (result.usage.input_tokens, result.usage.output_tokens) == (read or -(-prompt // 4), written)
        await world.generator.close()


@pytest.mark.parametrize("shape", FAILURES.values(), ids=FAILURES)
async def test_breaker(shape: Shape) -> None:
    world = World(shape, 4096)
    for _ in range(CONSECUTIVE_FAILURES):
        await world.ask()
    assert (world.generator.list_endpoints()[0].breaker is BreakerState.OPEN) == shape.blamed
    await world.generator.close()


@pytest.mark.parametrize("shape", ADAPTED.values(), ids=ADAPTED)
async def test_what_a_server_refused_is_not_sent_again(shape: Shape, caplog: pytest.LogCaptureFixture) -> None:
    world = World(shape, 4096)
    await world.ask()
    first = len(world.bodies)
    assert first > 1
    await world.ask()
    assert len(world.bodies) == first + 1
    lines = [message for message in caplog.messages if "refuses the parameter" in message]
    assert len(lines) == 1
    assert "set " in lines[0]
    for name in set(world.bodies[0]) - set(world.bodies[-1]):
        assert name in lines[0]
    await world.generator.close()


async def test_a_model_whose_template_opens_its_thoughts_is_known_from_its_first_answer() -> None:
    shape = next(shape for shape in GROUPS["Thinking"] if shape.name == "opened")
    world = World(shape, 4096)
    await world.ask()
    items = [item async for item in world.endpoint.answer("What is the fee?", PASSAGES, 100)]
    assert "".join(item for item in items if isinstance(item, str)) == shape.answer
    assert THOUGHTS not in str(items)
    await world.generator.close()


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_has_every_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_endpoints_page.main([]) == 0, capsys.readouterr().out
    rows = [line for line in check_endpoints_page.PAGE.read_text().splitlines() if "`test_shape[" in line]
    assert len(rows) == len(SHAPES) >= 90
    assert len(SHAPES) == sum(map(len, GROUPS.values()))


def test_a_page_that_differs_is_found(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "endpoints.md"
    page.write_text(check_endpoints_page.PAGE.read_text().replace("test_shape[usage-none]", "edited by hand"))
    assert check_endpoints_page.main([], page=page) == 1
    assert "run `make docs`" in capsys.readouterr().out
    assert check_endpoints_page.main(["--write"], page=page) == 0
    assert page.read_text() == check_endpoints_page.PAGE.read_text()
