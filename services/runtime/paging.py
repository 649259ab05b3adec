"""Opaque page tokens (AIP-158): where to go on, bound to the request that they came from.

A token is no proof of anything: it is a position, which a caller could name as well. The checksum in it makes a token
that was cut, changed or sent with another request an error instead of a page from somewhere else.
"""

from __future__ import annotations

import base64
import hashlib
import json

from services.corpus.errors import Violations

_CHECKSUM_BYTES = 8


def write_token(after: str, *scope: str) -> str:
    """A token that continues behind ``after``; ``scope`` is everything else that the request asked for."""
    return base64.urlsafe_b64encode(_checksum(after, scope) + after.encode()).decode().rstrip("=")


def read_token(token: str, violations: Violations, *scope: str, path: str = "page_token") -> str:
    """Where to go on: what :func:`write_token` was given; empty for the first page.

    A token that was made up or changed, or that belongs to another request, is a violation.
    """
    if not token:
        return ""
    try:
        after = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[_CHECKSUM_BYTES:].decode()
    except ValueError:  # not base64, or not UTF-8
        after = ""
    # Compared as a whole, because base64 can be spelled in more than one way.
    if write_token(after, *scope) != token:
        violations.add(path, "is not a token of an earlier response to this request")
        return ""
    return after


def _checksum(after: str, scope: tuple[str, ...]) -> bytes:
    return hashlib.sha256(json.dumps([after, *scope]).encode()).digest()[:_CHECKSUM_BYTES]
