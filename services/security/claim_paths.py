"""Where in a token a claim stands: its name, or a JSON pointer (RFC 6901) to it.

A text that begins with ``/`` is a pointer, such as ``/realm_access/roles``; any other is the name of a claim at the
top, as it is, such as ``https://example.com/roles``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from services.corpus.errors import InvalidField

ClaimPath: TypeAlias = tuple[str, ...]
"""The names from the top to the claim."""
MISSING = object()
_MAX_LENGTH = 512
_MAX_DEPTH = 16
_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")


def parse_claim_path(text: str) -> ClaimPath:
    """The path that ``text`` names; InvalidField if it names none."""
    if not 0 < len(text) <= _MAX_LENGTH:
        raise InvalidField("claim", f"must have 1 to {_MAX_LENGTH} characters")
    if not text.startswith("/"):
        return (text,)
    if _BAD_ESCAPE.search(text):
        raise InvalidField("claim", "in a JSON pointer '~' is written as '~0', and '/' in a name as '~1' (RFC 6901)")
    path = tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
    if len(path) > _MAX_DEPTH:
        raise InvalidField("claim", f"a JSON pointer has at most {_MAX_DEPTH} parts")
    return path


def find(claims: Mapping[str, Any], path: ClaimPath) -> Any:
    """What stands at ``path``, members of objects and items of arrays alike; ``MISSING`` if nothing does."""
    value: Any = claims
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and _INDEX.fullmatch(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value
