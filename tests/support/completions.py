"""Shapes: what the server of a language model may answer, in words and on the wire, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.generation.ports import Passage

ANSWER = "The fee is 42 euros a month [1]."
THOUGHTS = "Source [1] says 42, a naive user asks."
PASSAGES = (
    Passage("p1", "Berths", "The fee is 42 euros a month. Notice is 90 days. The list has [12] entries.", 0.9),
    Passage("p2", "Cranes", "The crane lifts 8 tonnes.", 0.4),
)

Wire = bytes | Callable[[Mapping[str, Any]], "Wire | Status"]


@dataclass(frozen=True)
class Status:
    """An answer with another status than 200, or another media type, or a connection that breaks behind the body."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    breaks: bool = False


@dataclass(frozen=True)
class Shape:
    """A shape, in words and on the wire, and what comes of it.

    ``answer`` is the answer, "" an abstention, None a failure, and then ``reason`` is the endpoint's. ``blamed``
    failures count for its circuit breaker. ``usage`` are the tokens read and written, where that is what is tried.
    """

    name: str
    words: str
    wire: Wire | Status
    answer: str | None = ANSWER
    reason: str = ""
    warnings: tuple[str, ...] = ()
    blamed: bool = True
    usage: tuple[int, int] | None = None
    note: str = ""
    endpoint: Mapping[str, Any] = field(default_factory=dict)  # how it is configured


# --- the wire -------------------------------------------------------------------------------------------------------


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()) + b"\n\n"


def delta(content: Any = None, finish: Any = None, **more: Any) -> bytes:
    said = {} if content is None else {"content": content}
    return event({"choices": [{"index": 0, "delta": said | more, "finish_reason": finish}]})


def usage(value: Any) -> bytes:
    return event({"choices": [], "usage": value})


DONE = b"data: [DONE]\n\n"
STOP = delta(finish="stop")
COUNTED = usage({"prompt_tokens": 100, "completion_tokens": 20})


def deltas(text: str, size: int = 6) -> bytes:
    return b"".join(delta(text[start : start + size]) for start in range(0, len(text), size))


def told(text: str, finish: Any = "stop") -> bytes:
    """A whole, ordinary stream."""
    return deltas(text) + delta(finish=finish) + COUNTED + DONE


def whole(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}).encode()


def refusing(*names: str, form: Callable[[str], Any], status: int = 400) -> Wire:
    """A server that refuses parameters, and answers a request without them."""

    def reply(body: Mapping[str, Any]) -> Wire | Status:
        refused = next((name for name in names if name in body), None)
        if refused is None:
            return told(ANSWER) if body.get("stream") else whole({"content": ANSWER})
        error = form(refused)
        return Status(status, error if isinstance(error, bytes) else json.dumps(error).encode())

    return reply


def openai_error(name: str) -> Any:
    words = f"Unsupported parameter: '{name}' is not supported with this model."
    return {
        "error": {"message": words, "type": "invalid_request_error", "param": name, "code": "unsupported_parameter"}
    }
