"""What an endpoint may put in every place of its answer: the answer stands, or the next endpoint is asked (G3)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.generation.adapters.memory import ScriptedEndpoint
from services.generation.adapters.openai import OpenAIEndpoint
from services.generation.balancing import BalancingPolicy
from services.generation.completions.completion import Completion
from services.generation.completions.sse import Event
from services.generation.convert import event_to_pb, status_to_pb
from services.generation.generation import Final, GenerationRequest, Generator
from services.generation.ports import Citation, Draft
from services.resilience.endpoints import Role
from tests.support.completions import ANSWER, DONE, PASSAGES, event
from tests.support.fake_http import FakeAnswer, FakeHttpClient

BACKUP = "It is in the list. [1]"
DOCUMENT: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion.chunk",
    "choices": [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ANSWER, "reasoning_content": "hm"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    "error": None,
}
DEEP: Any = "deep"
for _ in range(400):
    DEEP = [{"type": "thinking", "text": DEEP}]
VALUES: dict[str, Any] = {
    "huge": 10**30,
    "negative": -1,
    "fraction": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "null": None,
    "text": "12",
    "digits": "9" * 30,
    "surrogate": "\ud83d",
    "surrogates": "\udc00\ud800 [1] \ud83d",
    "empty": "",
    "list": [],
    "object": {},
    "objects": [{"\ud83d": ["\udc00"]}, 1, "\ud83d", None],
    "deep": DEEP,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def put(path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(DOCUMENT)
    *way, last = path
    place = document
    for key in way:
        place = place[key]
    place[last] = value
    return document


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_any_value_in_any_place(value: Any) -> None:
    """Streamed or not, as JSON or in an event of any type: no call fails, and what leaves can be sent."""
    for path in places(DOCUMENT):
        written = json.dumps(put(path, value)).encode()
        wires = [event(written) + DONE, b"event: ping\n" + event(written) + DONE, written]
        for wire in wires:

            def reply(_content: bytes, wire: bytes = wire) -> FakeAnswer:
                return FakeAnswer(200, [wire])

            endpoint = OpenAIEndpoint("llm", "http://llm.test/v1", "m", client=FakeHttpClient(reply))
            backup = ScriptedEndpoint("backup", [BACKUP, Draft(BACKUP, (Citation("[1]", "p1", 0, 7),), 1.0)])
            policy = BalancingPolicy(roles={"llm": Role.PRIMARY, "backup": Role.BACKUP})
            generator = Generator([endpoint, backup], lambda: 0.0, policy=policy)
            final = None
            async for step in generator.stream(GenerationRequest("What is the fee?", PASSAGES)):
                event_to_pb(step).SerializeToString()
                final = step
            assert isinstance(final, Final)
            status = generator.list_endpoints()[0]
            status_to_pb(status).SerializeToString()
            assert (final.result.endpoint == "llm") == (status.error_message == "")
            assert "unexpectedly" not in status.error_message, path
            # Never more than what was sent and came, and what a server may add to each.
            assert 0 < final.result.usage.input_tokens < 10_000 or final.result.endpoint == "backup"
            assert final.result.usage.output_tokens < 10_000


@pytest.mark.parametrize(
    ("usage", "read", "written"),
    [
        ({"prompt_tokens": 5_999, "completion_tokens": 1_099}, 5_999, 1_099),
        ({"prompt_tokens": 9_000_000, "completion_tokens": 9_000_000}, 6_000, 1_100),
        ({"prompt_tokens": 3, "total_tokens": 9_000_000}, 3, 1_100),
        ({"prompt_tokens": 10**30, "completion_tokens": -5}, 1_250, 8),
    ],
)
def test_claimed_usage_is_at_most_what_was_sent_and_came(usage: dict[str, Any], read: int, written: int) -> None:
    """(G5)."""
    completion = Completion(PASSAGES, 100, prompt=5_000)
    completion.feed(Event(json.dumps({"choices": [{"delta": {"content": ANSWER}, "finish_reason": "stop"}]})))
    completion.feed(Event(json.dumps({"usage": usage})))
    ended = completion.finish()
    assert (ended.read, ended.written) == (read, written)
