"""Opaque page tokens (AIP-158): where to go on, bound to the request that they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from services.corpus.errors import Violations


def write_token(after: str, *scope: str) -> str:
    """A token that continues behind ``after``; ``scope`` is everything else that the request asked for."""
    return base64.urlsafe_b64encode(json.dumps([after, _digest(scope)]).encode()).decode().rstrip("=")


def read_token(token: str, violations: Violations, *scope: str, path: str = "page_token") -> str:
    """Where to go on: what :func:`write_token` was given; empty for the first page.

    A token that was made up, or that belongs to another request, is a violation.
    """
    if not token:
        return ""
    try:
        after, digest = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, TypeError):
        after, digest = None, ""
    if not isinstance(after, str) or digest != _digest(scope):
        violations.add(path, "is not a token of an earlier response to this request")
        return ""
    return after


def _digest(scope: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(scope).encode()).hexdigest()[:16]
