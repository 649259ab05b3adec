"""Reading completions: thoughts at every cut, bounded work, whole sentences, refused parameters, characters."""

from __future__ import annotations

import json

import pytest

from groundwire.generation.v1 import generation_service_pb2 as pb
from services.corpus.coverage import Notice
from services.corpus.errors import Unavailable
from services.generation.adapters.memory import ScriptedEndpoint, Step
from services.generation.adapters.openai_request import Parameters
from services.generation.completions.answer import AnswerFilter
from services.generation.completions.chunks import Unreadable, read_objects
from services.generation.completions.completion import Completion
from services.generation.completions.ending import Finish, ends_whole, read_finish, whole_sentences
from services.generation.completions.markers import MarkerReader
from services.generation.completions.parameters import refused_parameter
from services.generation.completions.sse import Event, SseDecoder
from services.generation.completions.thinking import ThinkingFilter
from services.generation.completions.wellformed import well_formed
from services.generation.convert import event_to_pb, result_to_pb, status_to_pb
from services.generation.endpoint import EndpointStatus
from services.generation.generation import Attempt, Delta, GenerationRequest, GenerationResult, Generator, Reset
from services.generation.grounding import cite, claims
from services.generation.ports import Draft, NoAnswer, Usage
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Role
from tests.support.completions import ANSWER, PASSAGES, Shape, delta
from tests.support.endpoint_shapes import GROUPS

HALF = "\ud83d"
STREAMS = {
    shape.name: shape for shape in GROUPS["Thinking"] if isinstance(shape.wire, bytes) and shape.answer is not None
}


def content(shape: Shape) -> str:
    """The text of a shape's stream, all chunks together."""
    assert isinstance(shape.wire, bytes)
    objects = [json.loads(event.data) for event in SseDecoder().feed(shape.wire) if event.data != "[DONE]"]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in objects if each["choices"])


def read(pieces: list[str], *, opened: bool = False) -> str:
    completion = Completion(PASSAGES, 1000, opened=opened)
    for piece in pieces:
        for event in SseDecoder().feed(delta(piece)):
            completion.feed(event)
    for event in SseDecoder().feed(delta(finish="stop")):
        completion.feed(event)
    return completion.finish().text


@pytest.mark.parametrize("shape", STREAMS.values(), ids=STREAMS)
def test_thoughts_are_never_in_an_answer_wherever_the_text_is_cut(shape: Shape) -> None:
    text = content(shape)
    opened = bool(shape.endpoint.get("opened", False))
    for place in range(len(text) + 1):
        assert read([text[:place], text[place:]], opened=opened) == shape.answer, place
    assert read(list(text), opened=opened) == shape.answer


# --- bounded work ---------------------------------------------------------------------------------------------------

_HOSTILE = {
    "blanks": " " * 20_000,
    "tabs": "\t \t" * 6_000,
    "less": "<" * 20_000,
    "less-blank": "< " * 10_000,
    "tags": "<think " + "a" * 20_000,
    "attributes": ("<think " + "a" * 150) * 100,
    "brackets": "[" * 20_000,
    "numbers": "[" + "1, " * 7_000,
    "lenses": "【1†" * 5_000,
    "round": "(Source " * 2_500,
    "backticks": "`" * 20_000,
    "entities": "&lt;" * 5_000,
    "tokens": "<|" + "a" * 20_000,
    "channels": "<|channel|>" * 2_000 + "x" * 5_000,
    "opening": "analysis" + "a" * 20_000,
    "roles": "<|im_start|>" * 2_000,
    "role": "<|im_start|>think" + "x" * 20_000,
    "tildes": "~" * 20_000,
    "sentinels": "NO ANSWER IN " * 2_000,
    "backslashes": "NO" + "\\" * 20_000,
    "code": "`<think>" * 2_500,
    "plain": "word " * 4_000,
    "thoughts": "<think>" + "word " * 4_000,
}


@pytest.mark.parametrize("text", _HOSTILE.values(), ids=_HOSTILE)
def test_little_is_held_back_so_that_work_is_linear(text: str) -> None:
    thinking, markers, answer = ThinkingFilter(), MarkerReader(2), AnswerFilter(2)
    held = 0
    for character in text:
        shown = thinking.feed(character)
        markers.feed(shown)
        answer.feed(shown)
        held = max(held, len(thinking._buffer), len(markers._buffer), len(answer._raw))
    assert held <= 400


def test_an_event_that_comes_in_single_bytes_is_read_in_linear_time() -> None:
    # Were all of it looked at again for every byte, this would be the work of 10^11 bytes.
    decoder, size = SseDecoder(), 200_000
    events = [event for _ in range(size) for event in decoder.feed(b"x")]
    assert events == []
    assert decoder.feed(b"\n\n") == []
    assert len(decoder.feed(b"data: " + b"y" * size + b"\n\n")) == 1


def test_messages_are_compared_with_the_text_so_far_within_bounds() -> None:
    # Each is compared with all that was written, until that was done too often.
    completion = Completion(PASSAGES, 4_000_000)
    for number in range(3_000):
        document = {"choices": [{"message": {"content": f"{number} " + "x" * 1000}}]}
        completion.feed(Event(json.dumps(document)))
    assert completion._compared < 16_000_000 + 4_000_000


def test_an_event_has_a_bounded_number_of_objects() -> None:
    assert len(list(read_objects("{}\n" * 5_000))) == 5_000
    with pytest.raises(Unreadable):
        list(read_objects("{}\n" * 5_001))


def test_objects_of_an_event_are_read_one_after_the_other() -> None:
    """So that a server that does not stream, and sends one object a line, holds up nobody."""
    completion = Completion(PASSAGES, 1000)
    body = "\n".join(json.dumps({"choices": [{"delta": {"content": f"{word} "}}]}) for word in ANSWER.split())
    steps = completion.steps(Event(body + "\nno JSON", whole=True))
    assert [next(steps).strip() for _ in ANSWER.split()][-1].endswith("[1].")
    with pytest.raises(Unavailable):
        next(steps)


def test_a_long_text_is_read_in_steps_with_the_same_result() -> None:
    """(G2): so that other work may run between them."""
    text = "The fee is 42 euros a month [1]. " * 1_000
    event = Event(json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}), whole=True)
    slow, fast = Completion(PASSAGES, 8_192), Completion(PASSAGES, 8_192)
    steps = list(slow.steps(event))
    assert len(steps) > 8
    assert max(map(len, steps)) < 5_000
    assert "".join(steps) == fast.feed(event)
    assert slow.done
    assert slow.finish() == fast.finish()


def test_a_completion_has_a_bounded_number_of_events() -> None:
    """(G2): signs of life are events, too."""
    completion = Completion(PASSAGES, 10)
    for _ in range(50_000 + 4 * 10):
        completion.feed(Event(""))
    with pytest.raises(Unavailable, match="without an end"):
        completion.feed(Event(""))


def test_a_long_answer_is_cited_in_linear_time() -> None:
    answer = " " * 60_000 + "The fee is 42 euros [1]. " * 2_000
    citations, supported = cite(answer, PASSAGES)
    assert {citation.marker for citation in citations} == {"[1]"}
    assert supported > 0.9
    assert len(claims(answer)) == 2_000


# --- endings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "finish"),
    [
        (None, None), ("", None), (" ", None), ("null", None), ("None", None), (True, None), (1, None), ({}, None), ([], None),
        ("stop", Finish.COMPLETE), ("STOP", Finish.COMPLETE), ({"type": "stop"}, Finish.COMPLETE), ("eos_token", Finish.COMPLETE),
        ("length", Finish.LENGTH), ("model_length", Finish.LENGTH), ("content_filter", Finish.FILTERED), ("SAFETY", Finish.FILTERED),
        ("tool_calls", Finish.TOOL), ("function_call", Finish.TOOL), ("error", Finish.FAILED), ("else", Finish.UNKNOWN),
    ],
)  # fmt: skip
def test_a_finish_reason_is_what_servers_write(value: object, finish: Finish | None) -> None:
    assert read_finish(value) is finish


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One is due [1]. Two is", "One is due [1]."),
        ("One is due. [1] Two is", "One is due. [1]"),
        ("One is due. [1][2] Two", "One is due. [1][2]"),
        ("One is due [1].", "One is due [1]."),
        ("It is due, e.g. on Monday", ""),
        ("Dr. Smith pays 42", ""),
        ("He pays 42. And", "He pays 42."),
        ("He pays 42.", ""),
        ("He pays [1]. In all 42.", "He pays [1]."),
        ("Am 3. Mai ist es so [1]. Und", "Am 3. Mai ist es so [1]."),
        ("Fees:\n- One [1]\n- Tw", "Fees:\n- One [1]"),
        ("# Fees\n\nOne", ""),
        ("Fees:\nOne", ""),
        ("费用是四十二欧元[1]。然后", "费用是四十二欧元[1]。"),
        ('He said "pay." Then', 'He said "pay."'),
        ("", ""),
    ],
)
def test_what_was_cut_off_ends_with_a_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    "text", ["It is so [1].", "It is so. [1]", "It is so [1]", "It is so [1].\n", "Is it?", "It is so [2]**"]
)
def test_a_whole_sentence_is_an_end(text: str) -> None:
    assert ends_whole(text)


@pytest.mark.parametrize("text", ["", "It is", "It is so [1]. It", "It is so [1] and", "It is so:", "It is so [1"])
def test_half_a_sentence_is_no_end(text: str) -> None:
    assert not ends_whole(text)


# --- refused parameters ---------------------------------------------------------------------------------------------

SENT = ("model", "messages", "max_tokens", "temperature", "stream", "stream_options")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"error": {"message": "Unsupported parameter: \'max_tokens\' is not supported. Use \'max_completion_tokens\' instead."}}', "max_tokens"),
        ('{"error": {"message": "Unsupported value: \'temperature\' does not support 0 with this model. Only the default (1) value is supported.", "param": "temperature", "code": "unsupported_value"}}', "temperature"),
        ('{"error": {"message": "Unrecognized request argument supplied: stream_options"}}', "stream_options"),
        ('{"message": "property \'stream_options\' is unsupported"}', "stream_options"),
        ('{"detail": [{"loc": ["body", "max_tokens"], "msg": "extra fields not permitted", "type": "value_error.extra"}]}', "max_tokens"),
        ('{"detail": "temperature is not allowed"}', "temperature"),
        ('{"object": "error", "message": "[{\'type\': \'extra_forbidden\', \'loc\': (\'body\', \'stream_options\'), \'msg\': \'Extra inputs are not permitted\'}]"}', "stream_options"),
        ("max_tokens: Extra inputs are not permitted", "max_tokens"),
        ("TypeError: generate() got an unexpected keyword argument 'temperature'", "temperature"),
        ('{"error": {"message": "The parameter `temperature` is deprecated for this model."}}', "temperature"),
        ('{"errors": ["unknown field \\"stream_options\\""]}', "stream_options"),
        ('{"error": {"message": "model not found"}}', None),
        ('{"error": {"message": "This model\'s maximum context length is 4096 tokens, reduce max_tokens", "param": "max_tokens"}}', None),
        ('{"error": {"message": "max_tokens is too large: 9000", "param": "max_tokens"}}', None),
        ('{"error": {"message": "Unsupported parameter: top_k"}}', None),
        ('{"error": {"message": "Unknown max_tokens_to_sample"}}', None),
        ("", None),
        ("[" * 100_000, None),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_found(body: str, name: str | None) -> None:
    assert refused_parameter(body, SENT) == name


def test_parameters_are_given_up_one_by_one_and_never_for_ever() -> None:
    parameters = Parameters()
    renamed = parameters.without("max_tokens")
    assert renamed is not None
    assert (renamed.max_tokens, renamed.settings(renamed)) == (
        "max_completion_tokens", 'set max_tokens_parameter = "max_completion_tokens"'
    )  # fmt: skip
    neither = renamed.without("max_completion_tokens")
    assert neither is not None
    body = neither.body("m", [], 7)
    assert not {"max_tokens", "max_completion_tokens"} & set(body)
    assert neither.settings(neither) == 'set omit_parameters = ["max_tokens"]'
    assert neither.without("max_tokens") is None
    assert parameters.without("messages") is None
    assert Parameters(extra={"top_k": 1}).without("top_k") is None
    assert Parameters(extra={"temperature": 1}).body("m", [], 7)["temperature"] == 1


# --- characters -----------------------------------------------------------------------------------------------------


def test_text_of_an_endpoint_never_stops_a_message() -> None:
    bad = f"a {HALF} b"
    good = "a \ufffd b"
    result = GenerationResult(bad, (), 0.5, False, False, bad, Usage(1, 1), (Notice("X", bad),))
    written = result_to_pb(result)
    assert (written.answer, written.endpoint, written.warnings[0].message) == (good, good, good)
    for event in (Attempt(bad, 1), Delta(bad), Reset(bad)):
        assert isinstance(event_to_pb(event), pb.GenerateEvent)
    status = status_to_pb(
        EndpointStatus(bad, "openai", bad, True, 0, 0.0, bad, Role.PRIMARY, BreakerState.CLOSED, True)
    )
    assert (status.name, status.model, status.error_message) == (good, good, good)
    assert well_formed("\ud83d\ude00") == "\U0001f600"


async def test_every_endpoint_is_kept_to_well_formed_text() -> None:
    steps: list[Step] = ["It is ", HALF, "\ude00 [1].", Draft(f"It is {HALF}\ude00 [1].", confidence=1.0)]
    generator = Generator([ScriptedEndpoint("a", steps)], lambda: 0.0)
    shown = [event async for event in generator.stream(GenerationRequest("q", PASSAGES))]
    for event in shown:
        event_to_pb(event).SerializeToString()
    assert (await generator.generate(GenerationRequest("q", PASSAGES))).answer == "It is \U0001f600 [1]."


# --- notices, and failures that are the question's ------------------------------------------------------------------


async def test_what_is_said_about_an_answer_reaches_the_caller_with_the_failover() -> None:
    cut_off = Notice("ANSWER_CUT_OFF", "cut")
    a = ScriptedEndpoint("a", [NoAnswer("the model refused")])
    b = ScriptedEndpoint("b", ["x", Draft("x", confidence=0.5, notices=(cut_off,))])
    generator = Generator([a, b], lambda: 0.0)
    result = await generator.generate(GenerationRequest("q", PASSAGES))
    assert [notice.code for notice in result.warnings] == ["ENDPOINT_FAILOVER", "ANSWER_CUT_OFF"]
    refused = await generator.generate(GenerationRequest("q", PASSAGES, min_confidence=0.9))
    assert [notice.code for notice in refused.warnings if notice.code.startswith("ANSWER")] == []


async def test_a_caller_cannot_take_an_endpoint_away_by_what_it_asks() -> None:
    generator = Generator(
        [ScriptedEndpoint("a", [NoAnswer("the model refused")]), ScriptedEndpoint("b", ["x", Draft("x")])], lambda: 0.0
    )
    for _ in range(10):
        await generator.generate(GenerationRequest("q", PASSAGES))
    status = generator.list_endpoints()[0]
    assert (status.breaker, status.healthy, status.error_message) == (BreakerState.CLOSED, False, "the model refused")


# --- markers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "See arr[9], list[i], dict['a'] and x[1:2] [1].",
        "In [2024] and [1990-1995] it was (5) or (b) [1].",
        "A [sic] is no [TODO] and [a, b] no marker [1].",
        "Clause 3(2) and item (iv) hold [1].",
        "Five (5) days, see §3 (1) there [1].",
        "The link [here](http://x/1) is fine [1].",
        "A range of [0, 10] and a [3.2] [1].",
        "Use `x[9]` and <b>9</b> here [1].",
        "10<sup>2</sup> metres [1].",
        "A note [see above] and [Version 2 of it] [1].",
    ],
)
def test_what_is_no_marker_stays(text: str) -> None:
    answer = AnswerFilter(1, ["The fee."])
    assert answer.feed(text) + answer.finish() == text
