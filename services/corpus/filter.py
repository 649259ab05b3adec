"""Typed filters over document metadata, and how they are evaluated.

Metadata is a flat map from a key to a string, a number (float), a boolean or a list of strings. A filter is a
tree of comparisons joined by all / any / none; depth and size are bounded, so that no caller can send a filter
that costs more than it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.corpus.errors import InvalidField

MetadataValue = str | float | bool | tuple[str, ...]
Metadata = Mapping[str, MetadataValue]
Scalar = str | float | bool

MAX_DEPTH = 8
MAX_NODES = 128
MAX_VALUES = 256


@dataclass(frozen=True, slots=True)
class Equals:
    """The value equals ``value``, or is a list that contains it."""

    key: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """The value equals one of ``values``, or is a list that contains one of them."""

    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """``minimum`` <= value <= ``maximum`` for two numbers, or for two strings (ISO dates compare as strings)."""

    key: str
    minimum: str | float | None = None
    maximum: str | float | None = None


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every operand holds (true when there is none)."""

    operands: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one operand holds (false when there is none)."""

    operands: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The operand does not hold."""

    operand: Filter


Filter = Equals | In | Range | AllOf | AnyOf | Not


def matches(filter_: Filter | None, metadata: Metadata) -> bool:
    """Whether ``metadata`` satisfies ``filter_``; a missing key or another type never satisfies a comparison."""
    match filter_:
        case None:
            return True
        case Equals(key, value):
            return _holds(metadata.get(key), value)
        case In(key, values):
            return any(_holds(metadata.get(key), value) for value in values)
        case Range(key, minimum, maximum):
            return _within(metadata.get(key), minimum, maximum)
        case AllOf(operands):
            return all(matches(operand, metadata) for operand in operands)
        case AnyOf(operands):
            return any(matches(operand, metadata) for operand in operands)
        case Not(operand):
            return not matches(operand, metadata)


def check_bounds(filter_: Filter | None, path: str = "filter") -> None:
    """Raise InvalidField when the tree is deeper or larger than the limits above."""
    if filter_ is None:
        return
    nodes = 0
    pending: list[tuple[Filter, int]] = [(filter_, 1)]
    while pending:
        node, depth = pending.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise InvalidField(path, f"nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise InvalidField(path, f"more than {MAX_NODES} conditions")
        match node:
            case AllOf(operands) | AnyOf(operands):
                pending.extend((operand, depth + 1) for operand in operands)
            case Not(operand):
                pending.append((operand, depth + 1))
            case In(_, values) if len(values) > MAX_VALUES:
                raise InvalidField(path, f"more than {MAX_VALUES} values in one condition")
            case _:
                pass


def _holds(held: MetadataValue | None, wanted: Scalar) -> bool:
    if isinstance(held, tuple):
        return isinstance(wanted, str) and wanted in held
    # bool is an int in Python: True == 1.0 must not match a number by accident.
    return type(held) is type(wanted) and held == wanted


def _within(held: MetadataValue | None, minimum: str | float | None, maximum: str | float | None) -> bool:
    bounds = [bound for bound in (minimum, maximum) if bound is not None]
    if isinstance(held, str):
        return (
            all(isinstance(b, str) for b in bounds)
            and str(minimum or "") <= held
            and (maximum is None or held <= str(maximum))
        )
    if isinstance(held, float):
        return (
            all(isinstance(b, float) for b in bounds)
            and (minimum is None or float(minimum) <= held)
            and (maximum is None or held <= float(maximum))
        )
    return False
