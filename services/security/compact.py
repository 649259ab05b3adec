"""The compact form of a signed token (RFC 7515 §3.1), read strictly and by one parser.

Every reading that two parsers could do differently is refused: padding, bits left over in the last character,
white space, JSON with a name twice, NaN, text that is not UTF-8. Nothing here raises an error that holds a part of
the token: JSON's and the codecs' own errors do, so they end where they arise.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.security.refusal import Refusal, Refused

MAX_TOKEN = 8192
"""Characters of the longest token; gRPC's whole metadata is limited to about as much."""
MAX_OUTSIDE_TOKEN = 6144
"""Characters of the longest token from outside: the mesh's own, derived from it, adds its chain of actors."""

_SEGMENTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_KEY_ID = re.compile(r"[\x21-\x7e]{1,256}")
# Extensions that must be understood (none is), and keys that a token would bring along for its own signature.
_REFUSED_PARAMETERS = frozenset({"crit", "b64", "zip", "jku", "jwk", "x5u", "x5c"})
# By length modulo 4: the last characters whose unused bits are zero. Others would spell the same bytes differently.
_LAST = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}


@dataclass(frozen=True, slots=True)
class Compact:
    """A token taken apart; nothing in it is verified."""

    algorithm: str
    key_id: str | None
    token_type: str | None
    """The header's ``typ``; None if it has none."""
    claims: dict[str, Any] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_compact(token: str) -> Compact:
    """Take ``token`` apart; Refused if it is not exactly one well-formed, signed token."""
    segments = _SEGMENTS.fullmatch(token) if len(token) <= MAX_TOKEN else None
    if segments is None:
        raise Refused(Refusal.MALFORMED, _too_long(MAX_TOKEN) if len(token) > MAX_TOKEN else "")
    header_text, claims_text, signature_text = segments.groups()
    header = parse_object(_decode(header_text))
    if not _REFUSED_PARAMETERS.isdisjoint(header):
        raise Refused(Refusal.HEADER)
    token_type, algorithm, key_id = header.get("typ"), header.get("alg"), header.get("kid")
    if "typ" in header and not isinstance(token_type, str):
        raise Refused(Refusal.TYPE)
    if not isinstance(algorithm, str):
        raise Refused(Refusal.ALGORITHM)
    if "kid" in header and not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)):
        raise Refused(Refusal.KEY)
    return Compact(
        algorithm=algorithm,
        key_id=key_id,
        token_type=token_type,
        claims=parse_object(_decode(claims_text)),
        signing_input=token[: segments.end(2)].encode("ascii"),
        signature=_decode(signature_text),
    )


def check_size(token: str) -> None:
    """Refused if ``token``, which comes from outside of the mesh, is longer than such tokens may be."""
    if len(token) > MAX_OUTSIDE_TOKEN:
        raise Refused(Refusal.MALFORMED, _too_long(MAX_OUTSIDE_TOKEN))


def _too_long(limit: int) -> str:
    return f"the token is longer than {limit} characters: have its issuer put fewer groups, roles or claims into it"


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data`` (UTF-8, no name twice at any depth, no NaN or Infinity); else Refused."""
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(Refusal.MALFORMED)
    return value


def _decode(segment: str) -> bytes:
    rest = len(segment) % 4
    if rest == 1 or (rest and segment[-1] not in _LAST[rest]):
        raise Refused(Refusal.MALFORMED)
    return binascii.a2b_base64(segment.translate(_TO_STANDARD) + "=" * (-rest % 4))


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    listed = list(pairs)
    found = dict(listed)
    if len(found) != len(listed):
        raise ValueError("a name stands twice")
    return found


def _no_constant(_text: str) -> Any:
    raise ValueError("not a JSON number")


_TO_STANDARD = str.maketrans("-_", "+/")
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
