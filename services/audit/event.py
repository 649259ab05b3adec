r"""An event of the audit log, and its one canonical spelling. Pure.

A leaf is canonical JSON, so that anybody can check it with any tool: one object, keys sorted, no spaces, ASCII alone
(``\u`` escapes), no key for an empty value (nor for the stage ENDED), ``v`` for the version of this spelling; hashes in hexadecimal, the time in
RFC 3339 with nine digits, the duration in nanoseconds.

Texts come from callers. Whatever a terminal or a log reader could take for a line break, a command or an order of
writing is escaped before it enters (``\u000a`` in the text itself; a backslash is doubled), and a text that is too long
is cut, with the number of characters that are missing: an event is never refused for what a caller sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

VERSION = 1
MAX_TEXT = 512
MAX_IDS = 1000
NANOSECONDS = 1_000_000_000
EVENT_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


class Decision(Enum):
    """How a call ended for its caller."""

    ALLOWED = "allowed"
    DENIED = "denied"


class Stage(Enum):
    """What an event says of its call."""

    BEGUN = "begun"
    ENDED = "ended"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One recorded call, as ``audit.v1.AuditEvent`` describes it. Times are nanoseconds (since 1970 in UTC)."""

    event_id: str
    time: int
    tenant: str
    principal: str
    method: str
    decision: Decision
    code: int = 0
    request_id: str = ""
    trace_id: str = ""
    acting_service: str = ""
    client_address: str = ""
    resource: str = ""
    reason: str = ""
    policy_version: str = ""
    query_hmac: bytes = b""
    document_ids: tuple[str, ...] = ()
    chunk_ids: tuple[str, ...] = ()
    denied_document_ids: tuple[str, ...] = ()
    model_endpoint: str = ""
    answer_sha256: bytes = b""
    duration: int = 0
    stage: Stage = Stage.ENDED
    changes: tuple[str, ...] = ()


def escape(text: str) -> str:
    """``text`` without anything that could be taken for more than text, and not longer than MAX_TEXT characters."""
    if text.isprintable() and "\\" not in text:
        return text if len(text) <= MAX_TEXT else _cut(text)
    return _cut("".join(map(_escape_one, text[: MAX_TEXT + 1])), len(text))


def _escape_one(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if letter.isprintable():
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


def _cut(text: str, length: int | None = None) -> str:
    length = len(text) if length is None else max(length, len(text))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\N{HORIZONTAL ELLIPSIS}(+{length - MAX_TEXT})"


def encode(event: AuditEvent) -> bytes:
    """The event's leaf."""
    # In the order of the keys; what is empty is left out.
    values: dict[str, Any] = {}
    _put(values, "acting_service", event.acting_service)
    if event.answer_sha256:
        values["answer_sha256"] = event.answer_sha256.hex()
    _put_ids(values, "changes", event.changes)
    _put_ids(values, "chunk_ids", event.chunk_ids)
    _put(values, "client_address", event.client_address)
    if event.code:
        values["code"] = event.code
    values["decision"] = event.decision.value
    _put_ids(values, "denied_document_ids", event.denied_document_ids)
    _put_ids(values, "document_ids", event.document_ids)
    if event.duration:
        values["duration_ns"] = event.duration
    values["event_id"] = event.event_id
    _put(values, "method", event.method)
    _put(values, "model_endpoint", event.model_endpoint)
    _put(values, "policy_version", event.policy_version)
    _put(values, "principal", event.principal)
    if event.query_hmac:
        values["query_hmac"] = event.query_hmac.hex()
    _put(values, "reason", event.reason)
    _put(values, "request_id", event.request_id)
    _put(values, "resource", event.resource)
    if event.stage is not Stage.ENDED:
        values["stage"] = event.stage.value
    _put(values, "tenant", event.tenant)
    seconds, nanos = divmod(event.time, NANOSECONDS)
    values["time"] = f"{_second(seconds)}.{nanos:09d}Z"
    _put(values, "trace_id", event.trace_id)
    values["v"] = VERSION
    return _encode(values).encode()


def decode(leaf: bytes) -> AuditEvent:
    """The event of a leaf; ValueError if it is none."""
    try:
        return _read(json.loads(leaf))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("not an event") from error


def _read(values: dict[str, Any]) -> AuditEvent:
    if values.pop("v") != VERSION:
        raise ValueError("an event of a version that is not known here")
    moment, _, nanos = values.pop("time").rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())
    for name in ("answer_sha256", "query_hmac"):
        values[name] = bytes.fromhex(values.get(name, ""))
    for name in ("changes", "chunk_ids", "denied_document_ids", "document_ids"):
        values[name] = tuple(values.get(name, ()))
    for name in ("method", "principal", "tenant"):
        values.setdefault(name, "")
    return AuditEvent(
        time=seconds * NANOSECONDS + int(nanos),
        decision=Decision(values.pop("decision")),
        duration=values.pop("duration_ns", 0),
        stage=Stage(values.pop("stage", Stage.ENDED.value)),
        **values,
    )


def _put(values: dict[str, Any], key: str, text: str) -> None:
    if text:
        values[key] = escape(text)


def _put_ids(values: dict[str, Any], key: str, ids: Sequence[str]) -> None:
    if ids:
        values[key] = [escape(one) for one in ids]


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
