"""Which parameter of a request a server refuses, read from its error. Pure.

There is no common form: OpenAI has ``error.param``, FastAPI a list with ``loc``, others a sentence. Nothing of such an error
is shown but the name, and only names that were sent count: the rest may repeat the question or the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

_REFUSES = re.compile(
    r"unsupported|not (?:\w+ )?support|does ?n[o']t support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed"
    r"|not accept|does ?n[o']t accept|not recogni[sz]ed|extra (?:inputs|fields|param)|additional propert|deprecated|forbidden"
    r"|invalid (?:param|arg|field|key)|not implemented|not available|no such (?:param|arg|field)|not (?:a )?valid|instead",
    re.IGNORECASE,
)
# A value that is too large is not refused for its name.
_VALUE = re.compile(
    r"too (?:large|long|high|many)|at most|less than|maximum|exceed|greater than|context length", re.IGNORECASE
)


def refused_parameter(body: str, sent: Collection[str]) -> str | None:
    """The name among those ``sent`` which the error ``body`` refuses; None where it refuses none, or does not say."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    words = " ".join(_strings(document)) if document is not None else body
    if not _REFUSES.search(words):
        return None
    named = [name for name in _named(document) if name in sent]
    if named and not _is_about_a_value(words):
        return named[0]
    if _is_about_a_value(words):
        return None
    return _first_named(words, sent)


def _is_about_a_value(words: str) -> bool:
    return (
        _VALUE.search(words) is not None
        and re.search(r"unsupported param|unrecogni|unknown|extra", words, re.IGNORECASE) is None
    )


def _first_named(words: str, sent: Collection[str]) -> str | None:
    """The name that comes first, one in quotation marks before others."""
    names = "|".join(sorted(map(re.escape, sent), key=len, reverse=True))
    for pattern in (rf"[\"'`]({names})[\"'`]", rf"(?<![\w.])({names})(?!\w)"):
        found = re.search(pattern, words)
        if found:
            return found[1]
    return None


def _named(value: Any, depth: int = 0) -> Iterator[str]:
    """Names in fields that are there to name a parameter."""
    if depth > 6:
        return
    if isinstance(value, list):
        for each in value[:50]:
            yield from _named(each, depth + 1)
    if isinstance(value, dict):
        for key in ("param", "parameter", "field", "argument"):
            if isinstance(value.get(key), str):
                yield value[key].removeprefix("body.")
        location = value.get("loc")
        if isinstance(location, list):
            yield from (part for part in location if isinstance(part, str))
        for each in value.values():
            yield from _named(each, depth + 1)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth <= 6 and isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each, depth + 1)
