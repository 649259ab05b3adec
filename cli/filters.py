"""``--filter KEY=VALUE`` as a Filter of the contract. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cli.errors import usage
from groundwire.common.v1 import filter_pb2 as pb

_CONDITION = re.compile(r"([^=<>!]+?)\s*(>=|<=|!=|=)\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def parse_filters(conditions: Sequence[str]) -> pb.Filter | None:
    """All of ``conditions``, or None without any.

    Values are numbers (``2025``), booleans (``true``) or texts; quotes make a text of anything (``zip="20457"``).
    Several ``KEY=VALUE`` of one key mean any of these values; every other condition must hold.
    """
    equals: dict[str, list[pb.MetadataValue]] = {}
    others: list[pb.Filter] = []
    for condition in conditions:
        match = _CONDITION.fullmatch(condition.strip())
        if match is None:
            raise usage(
                f"--filter {condition!r} is not a condition; write KEY=VALUE, KEY!=VALUE, KEY>=VALUE or KEY<=VALUE"
            )
        key, operator, value = match[1].strip(), match[2], _value(match[3])
        if operator == "=":
            equals.setdefault(key, []).append(value)
        elif operator == "!=":
            others.append(_not(pb.Filter(equals=pb.Comparison(key=key, value=value))))
        elif operator == ">=":
            others.append(pb.Filter(range=pb.Range(key=key, min=value)))
        else:
            others.append(pb.Filter(range=pb.Range(key=key, max=value)))
    found = [_any_of(key, values) for key, values in equals.items()] + others
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    every = pb.Filter()
    # The contract's `and`, `in` and `not` are words of Python's.
    getattr(every, "and").filters.extend(found)
    return every


def _not(condition: pb.Filter) -> pb.Filter:
    negation = pb.Filter()
    getattr(negation, "not").CopyFrom(condition)
    return negation


def _any_of(key: str, values: list[pb.MetadataValue]) -> pb.Filter:
    if len(values) == 1:
        return pb.Filter(equals=pb.Comparison(key=key, value=values[0]))
    membership = pb.Filter()
    getattr(membership, "in").CopyFrom(pb.Membership(key=key, values=values))
    return membership


def _value(text: str) -> pb.MetadataValue:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return pb.MetadataValue(string_value=text[1:-1])
    if text in ("true", "false"):
        return pb.MetadataValue(bool_value=text == "true")
    if _NUMBER.fullmatch(text):
        return pb.MetadataValue(number_value=float(text))
    return pb.MetadataValue(string_value=text)
