"""JSON from servers that are not trusted: parsed only if that is cheap. Pure.

The parser of the standard library holds the GIL from the beginning to the end, and makes 64 bytes and more of the three
bytes of an empty list. So what it would make is counted first, in bytes that every value needs.
"""

from __future__ import annotations

import json
from typing import Any

_MOST_DIGITS = 18  # of an integer; Python refuses to read those of thousands of digits


class BadJson(ValueError):
    """It is not JSON, or more of it than is parsed."""


def most_values(data: bytes | str) -> int:
    """An upper bound of the number of values in ``data``: what opens a list or object, and what separates values."""
    if isinstance(data, str):
        return 1 + sum(map(data.count, "[{,"))
    return 1 + sum(map(data.count, b"[{,"))


def read_json(data: bytes | str, *, values: int) -> Any:
    """Parse ``data`` unless it may hold more than ``values`` values.

    Bytes that are not UTF-8 are replaced. An integer of more than 18 digits becomes a float. Raises BadJson, for what is
    nested too deep as well.
    """
    if most_values(data) > values:
        raise BadJson("too many values")
    text = data if isinstance(data, str) else data.decode("utf-8-sig", "replace")
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise BadJson("not JSON") from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)
