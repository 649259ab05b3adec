"""Fields that several services' requests share. Pure; each function notes every wrong field in ``violations``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from interceptors import current
from services.corpus.document import DEFAULT_COLLECTION, parse_identifier
from services.corpus.errors import InvalidField, Violations

MAX_QUERY = 4096
MAX_COLLECTIONS = 16
MAX_PAGE = 1000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")


def check_query(query: str, violations: Violations, path: str = "query") -> None:
    """A question: not blank, not too long, no NUL."""
    violations.require(bool(query.strip()), path, "must not be blank")
    violations.require(len(query) <= MAX_QUERY, path, f"at most {MAX_QUERY:,} characters")
    violations.require("\0" not in query, path, "must not contain a NUL character")


def check_text(text: str, path: str, most: int, violations: Violations) -> None:
    """A short text for people: not too long, no control characters."""
    violations.require(len(text) <= most, path, f"at most {most:,} characters")
    violations.require(not any(ord(c) < 32 or ord(c) == 127 for c in text), path, "must not contain control characters")


def read_collections(names: Sequence[str], violations: Violations, path: str = "collections") -> tuple[str, ...]:
    """Names of collections; none means the default one."""
    if len(names) > MAX_COLLECTIONS:
        violations.add(path, f"at most {MAX_COLLECTIONS} collections")
        return ()
    for place, name in enumerate(names):
        read_identifier(name, f"{path}[{place}]", violations)
    return tuple(names)


def read_collection(name: str, violations: Violations, path: str = "collection") -> str:
    """A collection's name; empty means the default one."""
    return read_identifier(name, path, violations) if name else DEFAULT_COLLECTION


def read_identifier(text: str, path: str, violations: Violations) -> str:
    """The name of a collection or a document."""
    try:
        return parse_identifier(text, path)
    except InvalidField as error:
        violations.add(error.path, error.why)
        return ""


def read_request_id(text: str, violations: Violations, path: str = "request_id") -> str:
    """The id that the caller gave, else the one that the call has anyway."""
    if not text:
        return current.request_id.get()
    violations.require(_REQUEST_ID.fullmatch(text) is not None, path, "must be 1 to 128 of [A-Za-z0-9._-]")
    return text


def read_count(value: int, path: str, *, default: int, most: int, violations: Violations) -> int:
    """A count of at least one; 0 means ``default``."""
    violations.require(0 <= value <= most, path, f"must be 1 to {most:,}, or 0 for the default, {default:,}")
    return value or default


def read_share(value: float, path: str, violations: Violations) -> float:
    """A number between 0 and 1."""
    violations.require(math.isfinite(value) and 0.0 <= value <= 1.0, path, "must be between 0 and 1")
    return value
