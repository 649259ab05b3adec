"""A call's metadata: trace context, request id, address; a call goes on, with ids that are well-formed."""

from __future__ import annotations

import contextlib
import contextvars
import re
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.sdk.trace import TracerProvider

from interceptors._shapes import Call
from interceptors.spans import ServerSpan
from services.corpus.errors import Unauthenticated
from services.runtime import wire
from services.security.tokens import bearer_token
from tests.fuzz.source import Source

_TRACER: Any = TracerProvider().get_tracer("fuzz")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/\-]+=*")

SEEDS = (
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\xffBearer abc.def.ghi\xff1.5",
    b"cc-00000000000000000000000000000000-0000000000000000-00-x\xffbearer =\xff-1",
    b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-ff\xffBasic x\xff1e300",
)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [run[:3000] + b"\xffBearer " + run[:3000] + b"\xff" + run[:3000]]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    traceparent, authorization, number = source.text(), source.text(), source.text()
    # It makes itself the current span: in a context of its own, or all that comes after would be within it.
    span = contextvars.copy_context().run(ServerSpan, _TRACER, "service/Method", traceparent)
    context = span.get_span_context()
    assert context.is_valid
    span.finish("request", "OK")
    values = Call("/a/B", True, None, "id", [("authorization", authorization), ("authorization-bin", data)]).metadata(  # type: ignore[arg-type] # nothing of the context is asked for
        "authorization"
    )
    assert values == [authorization]
    with contextlib.suppress(Unauthenticated):
        assert _TOKEN.fullmatch(bearer_token(values))
    _check_times(number)


def _check_times(text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        return
    if abs(value) < 1e9:
        assert abs(wire.read_duration(wire.write_duration(value)) - value) < 1e-6
        moment = Timestamp(seconds=int(value))
        assert wire.write_timestamp(wire.read_timestamp(moment)) == moment
    assert wire.read_duration(Duration()) == 0.0
