"""What a model's server sends, read to its end: an answer, or that the endpoint failed; the same wherever it is cut.

Texts can be sent, the sentinel is never shown, counts are those that a usage may have, and every marker names a source.
"""

from __future__ import annotations

import re

from services.corpus.errors import Unavailable
from services.generation.completions.completion import Completion, Ended
from services.generation.completions.parameters import refused_parameter
from services.generation.completions.sse import EventTooLarge, SseDecoder
from services.generation.grounding import SENTINEL
from tests.fuzz.source import Source
from tests.support.completions import ANSWER, COUNTED, DONE, PASSAGES, STOP, THOUGHTS, delta, deltas, event, told, whole

_MARKERS = re.compile(r"\[(\d{1,2})\]", re.ASCII)
_SENT = ("temperature", "max_tokens", "stream_options", "top_p")

SEEDS = (
    told(ANSWER),
    told(f"<think>{THOUGHTS}</think>{ANSWER}") + b"\x01\x03\x02",
    deltas(f"{SENTINEL}") + STOP + COUNTED + DONE,
    delta("The fee is 42 ") + delta("euros [1]. It", finish="length") + b"\x05\x01",
    whole({"content": ANSWER, "role": "assistant"}),
    event({"error": {"message": "too long", "type": "invalid_request_error", "code": 400}}),
    event({"choices": [{"delta": {"reasoning_content": "hm", "content": "A [1]."}, "finish_reason": {"type": "stop"}}]}) + DONE,
    event({"choices": [{"delta": {"content": [{"type": "text", "text": "A [1]."}]}}], "usage": {"prompt_tokens": 10**30}}),
    event({"choices": [{"message": {"tool_calls": [{"id": "1"}]}}]}),
    event({"candidates": [{"content": {"parts": [{"text": "A [1]."}]}}], "message": {"content": "x"}, "response": "y"}),
    b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\ndata: {"choices":[{"delta":{"content":"\\ude00 [1]."}}]}\n\n',
    b'{"error": {"message": "Unsupported parameter: \'temperature\' is not supported", "param": "temperature"}}',
    b'{"detail": [{"loc": ["body", "top_p"], "msg": "Extra inputs are not permitted"}]}',
)  # fmt: skip


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [
        delta("A [1]. " + run.decode()) + DONE,
        b'data: {"choices":[{"delta":{"content":"' + run + b'"}}]}\n\n',
        run,
    ]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    opened = source.pick((False, True, None))
    pieces = [bytes(piece) for piece in source.cuts(data)]
    shown, ended = _read([data], opened)
    shown_in_pieces, again = _read(pieces, opened)
    if isinstance(ended, Ended) and isinstance(again, Ended):
        assert (ended.text, ended.notices, ended.read) == (again.text, again.notices, again.read)
        _check(shown, ended)
        _check(shown_in_pieces, again)
    else:
        assert ended == again
    refused = refused_parameter(data.decode("utf-8", "replace"), _SENT)
    assert refused is None or refused in _SENT


def _check(shown: str, ended: Ended) -> None:
    ended.text.encode()
    assert SENTINEL not in ended.text
    assert ended.rest is None or shown + ended.rest == ended.text
    assert 0 <= ended.read < 2**31
    assert 0 <= ended.written < 2**31
    assert all(1 <= int(number) <= len(PASSAGES) or number == "12" for number in _MARKERS.findall(ended.text))


def _read(pieces: list[bytes], opened: bool | None) -> tuple[str, Ended | str]:
    decoder = SseDecoder()
    completion = Completion(PASSAGES, 1000, prompt=400, opened=opened)
    shown = ""
    try:
        for piece in (*pieces, None):
            for sent in decoder.finish() if piece is None else decoder.feed(piece):
                if not completion.done:
                    shown += completion.feed(sent)
        return shown, completion.finish()
    except Unavailable as error:
        error.message.encode()
        return shown, error.message
    except EventTooLarge:
        return shown, "too large"
