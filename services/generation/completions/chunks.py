"""Chunks: what one JSON object of a completion says, in the shapes that servers give it. Pure.

Source: https://platform.openai.com/docs/api-reference/chat-streaming. Beside ``delta`` there are ``message`` (a whole
completion) and ``text`` (the older completions), and content may be a list of parts. What is said by fields of their own
(``reasoning_content``, parts of the type "thinking") is counted and not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.generation.completions.ending import Finish, read_finish
from services.http.json_values import BadJson, read_json

_MOST_TOKENS = 10_000_000  # what is above is no count
_MOST_OBJECTS = 5_000  # in one event
_FREE_VALUES, _BYTES_PER_VALUE = 10_000, 16  # of JSON; commas in a text count as values
_ERROR_KEYS = ("errors", "detail", "msg", "error_message", "error_msg", "error_code")
# Words that are safe to show: others might repeat the question or the key.
_SAFE_WORDS = frozenset(
    [
        "api_error",
        "authentication_error",
        "context_length_exceeded",
        "engine_overloaded_error",
        "insufficient_quota",
        "internal_error",
        "internal_server_error",
        "invalid_api_key",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
        "overloaded",
        "overloaded_error",
        "permission_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "request_too_large",
        "server_error",
        "service_unavailable",
        "timeout",
        "timeout_error",
        "tokens",
        "unsupported_parameter",
        "upstream_error",
        "badrequesterror",
        "internalservererror",
    ]
)
_DIGITS = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)


class Unreadable(ValueError):
    """What a server sent is not JSON, or no JSON object."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one object says.

    ``whole`` tells that ``text`` came as a message rather than as a delta; ``thought`` is the number of UTF-8 bytes of
    thoughts in fields of their own. ``error`` are safe words about an error ("" if the server gives none), None where
    there is no error. ``read`` and ``written`` count tokens, None where they are not said.
    """

    text: str = ""
    whole: bool = False
    thought: int = 0
    finish: Finish | None = None
    called_tool: bool = False
    refused: bool = False
    error: str | None = None
    read: int | None = None
    written: int | None = None


def read_objects(data: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in ``data``: one, or one a line, each read when it is asked for. ``null`` and blank lines say nothing.

    Raises Unreadable for anything else, for more objects than an event has, and for JSON that takes long to read.
    """
    if not data.strip():
        return
    try:
        yield from _object_in(data)
    except BadJson as error:
        lines = [line for line in data.split("\n") if line.strip()]
        if not 2 <= len(lines) <= _MOST_OBJECTS:
            raise Unreadable("not JSON") from error
        yield from _objects_in(lines)


def _objects_in(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.strip() != "[DONE]":
            try:
                yield from _object_in(line)
            except BadJson as error:
                raise Unreadable("not JSON") from error


def _object_in(data: str) -> list[dict[str, Any]]:
    value = read_json(data, values=_FREE_VALUES + len(data) // _BYTES_PER_VALUE)
    if value is None:
        return []
    if not isinstance(value, dict):
        raise Unreadable("no object")
    return [value]


def read_chunk(document: Mapping[str, Any], event: str = "") -> Chunk:
    """Read one object; ``event`` is the type of the event that it came with. Unreadable for what is nested too deep."""
    error = _error(document, event)
    if error is not None:
        return Chunk(error=error)
    choice = _choice(document)
    delta, message = (_object(choice.get(key)) for key in ("delta", "message"))
    text, thought, refused = _content(delta.get("content"))
    if _is_thought(delta):
        text, thought = "", thought + _size(text)
    whole = False
    if not text:
        text = _string(choice.get("text"))
    if not text:
        text, more, refused_whole = _content(message.get("content"))
        whole, thought, refused = bool(text), thought + more, refused or refused_whole
    for source in (delta, message):
        thought += _size(_string(source.get("reasoning_content")) or _string(source.get("reasoning")))
        refused = refused or bool(_string(source.get("refusal")).strip())
    read, written = _usage(document.get("usage"))
    return Chunk(
        text=text,
        whole=whole,
        thought=thought,
        finish=read_finish(choice.get("finish_reason")) or read_finish(document.get("finish_reason")),
        called_tool=any(source.get(key) for source in (delta, message) for key in ("tool_calls", "function_call")),
        refused=refused,
        read=read,
        written=written,
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _choice(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice; a server that writes several numbers them."""
    choices = document.get("choices")
    found = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    return next((each for each in found if each.get("index", 0) in (0, "0", None)), {})


def _is_thought(source: Mapping[str, Any]) -> bool:
    """Whether text is marked as a thought beside it: Gemini, and gateways to it."""
    return (
        source.get("thought") is True
        or _object(_object(source.get("extra_content")).get("google")).get("thought") is True
    )


def _content(value: object) -> tuple[str, int, bool]:
    """The text of a message's content, the size of the thoughts in it, and whether it holds a refusal."""
    if isinstance(value, str):
        return value, 0, False
    parts = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    texts: list[str] = []
    thought, refused = 0, False
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            kind = part.get("type", "text")
            if kind in ("text", "output_text") and not _is_thought(part):
                inner = part.get("text", part.get("content"))
                texts.append(_string(inner) or _string(_object(inner).get("value")))
            elif kind == "refusal":
                refused = True
            else:
                thought += _thought_size(part)
    return "".join(texts), thought, refused


def _thought_size(part: Mapping[str, Any]) -> int:
    try:
        return _size(json.dumps(part, ensure_ascii=False))
    except RecursionError as error:
        raise Unreadable("nested too deep") from error


# --- usage ----------------------------------------------------------------------------------------------------------


def _usage(value: object) -> tuple[int | None, int | None]:
    """The tokens read and written, as far as they are said."""
    usage = _object(value)
    read = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    written = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    if total is not None and written is None and read is not None and total > read:
        written = total - read
    if total is not None and read is None and written is not None and total > written:
        read = total - written
    return read, written


def _count(value: object) -> int | None:
    """A count of tokens, in whatever type; None for what is none, 0 included: no completion costs nothing."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN, infinity and integers of any size compare with the bounds, but not all of them convert.
    return int(value) if 1 <= value <= _MOST_TOKENS else None


# --- errors ---------------------------------------------------------------------------------------------------------


def _error(document: Mapping[str, Any], event: str) -> str | None:
    choice = _choice(document)
    places = (document, choice, _object(choice.get("delta")), _object(choice.get("message")))
    error = next((place["error"] for place in places if place.get("error")), None)
    reported = (
        event.strip().casefold() == "error"
        or bool(error)
        or "error" in (document.get("object"), document.get("type"))
        or (
            not document.get("choices")
            and "usage" not in document
            and (bool(_string(document.get("message"))) or any(document.get(key) for key in _ERROR_KEYS))
        )
    )
    if not reported:
        return None
    words = [_safe(source.get(key)) for source in (_object(error), document) for key in ("type", "code", "status")]
    return ", ".join(dict.fromkeys(word for word in words if word))


def _safe(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return f"code {value}"
    word = _string(value).strip()
    if re.fullmatch(r"[1-5]\d\d", word, re.ASCII):
        return f"code {word}"
    return word if word.casefold() in _SAFE_WORDS else ""
