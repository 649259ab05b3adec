"""Document metadata and filters to and from the domain; :mod:`services.runtime.wire` offers them to services. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence

from groundwire.common.v1 import filter_pb2
from services.corpus.errors import Violations
from services.corpus.filter import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_VALUES,
    AllOf,
    AnyOf,
    Equals,
    Filter,
    In,
    Metadata,
    MetadataValue,
    Not,
    Range,
    Scalar,
)

MAX_KEYS = 64
MAX_KEY = 128
MAX_STRING = 1024
MAX_LIST = 64


# --- metadata -------------------------------------------------------------------------------------------------------


def write_metadata_value(value: MetadataValue) -> filter_pb2.MetadataValue:
    """One value of a document's metadata or of a comparison."""
    match value:
        case bool():
            return filter_pb2.MetadataValue(bool_value=value)
        case str():
            return filter_pb2.MetadataValue(string_value=value)
        case tuple():
            return filter_pb2.MetadataValue(list_value=filter_pb2.StringList(values=value))
        case _:
            return filter_pb2.MetadataValue(number_value=value)


def read_metadata_value(message: filter_pb2.MetadataValue, path: str, violations: Violations) -> MetadataValue | None:
    """One value, or None if it is wrong: nothing set, too long, not finite."""
    match message.WhichOneof("kind"):
        case "string_value":
            return _read_text(message.string_value, f"{path}.string_value", violations)
        case "number_value":
            if not math.isfinite(message.number_value):
                violations.add(f"{path}.number_value", "must be a finite number")
                return None
            return message.number_value
        case "bool_value":
            return message.bool_value
        case "list_value":
            return _read_texts(message.list_value.values, f"{path}.list_value.values", violations)
        case _:
            violations.add(path, "must have a value")
            return None


def write_metadata(metadata: Metadata, target: MutableMapping[str, filter_pb2.MetadataValue]) -> None:
    """Fill a message's map field; such a field cannot be assigned to."""
    for key, value in metadata.items():
        target[key].CopyFrom(write_metadata_value(value))


def read_metadata(
    message: Mapping[str, filter_pb2.MetadataValue], path: str, violations: Violations
) -> dict[str, MetadataValue]:
    """A document's metadata: at most 64 keys."""
    if len(message) > MAX_KEYS:
        violations.add(path, f"at most {MAX_KEYS} keys")
        return {}
    metadata: dict[str, MetadataValue] = {}
    # Sorted, because a map on the wire has no order and violations should not change theirs.
    for key in sorted(message):
        place = f'{path}["{key[:MAX_KEY]}"]'
        fits = _is_key(key, place, violations)
        value = read_metadata_value(message[key], place, violations)
        if fits and value is not None:
            metadata[key] = value
    return metadata


def _read_text(text: str, path: str, violations: Violations) -> str | None:
    if len(text) > MAX_STRING:
        violations.add(path, f"at most {MAX_STRING} characters")
        return None
    if "\0" in text:
        violations.add(path, "must not contain a NUL character")
        return None
    return text


def _read_texts(values: Sequence[str], path: str, violations: Violations) -> tuple[str, ...] | None:
    if len(values) > MAX_LIST:
        violations.add(path, f"at most {MAX_LIST} values")
        return None
    texts = [_read_text(text, f"{path}[{i}]", violations) for i, text in enumerate(values)]
    known = tuple(text for text in texts if text is not None)
    return known if len(known) == len(texts) else None


def _is_key(key: str, path: str, violations: Violations) -> bool:
    fits = 1 <= len(key) <= MAX_KEY and "\0" not in key
    violations.require(fits, path, f"a key has 1 to {MAX_KEY} characters, none of them NUL")
    return fits


# --- filters --------------------------------------------------------------------------------------------------------


def write_filter(filter_: Filter) -> filter_pb2.Filter:
    """A filter; ``and`` and ``or`` without operands have no form on the wire, and none is ever read."""
    message = filter_pb2.Filter()
    match filter_:
        case Equals(key, value):
            message.equals.CopyFrom(filter_pb2.Comparison(key=key, value=write_metadata_value(value)))
        case In(key, values):
            membership = filter_pb2.Membership(key=key, values=[write_metadata_value(value) for value in values])
            # Named by a keyword of Python, so that attribute syntax cannot reach it; the same for the next ones.
            getattr(message, "in").CopyFrom(membership)
        case Range(key, minimum, maximum):
            message.range.key = key
            if minimum is not None:
                message.range.min.CopyFrom(write_metadata_value(minimum))
            if maximum is not None:
                message.range.max.CopyFrom(write_metadata_value(maximum))
        case AllOf(operands):
            getattr(message, "and").CopyFrom(filter_pb2.FilterList(filters=map(write_filter, operands)))
        case AnyOf(operands):
            getattr(message, "or").CopyFrom(filter_pb2.FilterList(filters=map(write_filter, operands)))
        case Not(operand):
            getattr(message, "not").CopyFrom(write_filter(operand))
    return message


def read_filter(message: filter_pb2.Filter, path: str, violations: Violations) -> Filter | None:
    """A filter within its bounds, or None if any part of it is wrong.

    A filter that is wrong in part is never applied in part: that would find more than was asked for.
    """
    return _FilterReader(path, violations).read(message, path, 1)


class _FilterReader:
    """Reads one tree; stops at the bounds, so that a hostile tree costs no more than a large one."""

    def __init__(self, root: str, violations: Violations) -> None:
        self._root = root
        self._violations = violations
        self._nodes = 0

    def read(self, message: filter_pb2.Filter, path: str, depth: int) -> Filter | None:
        if depth > MAX_DEPTH:
            self._violations.add(self._root, f"nested deeper than {MAX_DEPTH} levels")
            return None
        self._nodes += 1
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self._violations.add(self._root, f"more than {MAX_NODES} conditions")
            return None
        condition = message.WhichOneof("condition")
        match condition:
            case None:
                self._violations.add(path, "must have a condition")
                return None
            case "equals":
                return self._equals(message.equals, f"{path}.equals")
            case "in":
                return self._in(getattr(message, "in"), f"{path}.in")
            case "range":
                return self._range(message.range, f"{path}.range")
            case "not":
                operand = self.read(getattr(message, "not"), f"{path}.not", depth + 1)
                return None if operand is None else Not(operand)
            case _:
                operands = self._operands(getattr(message, condition), f"{path}.{condition}.filters", depth + 1)
                if operands is None:
                    return None
                return AllOf(operands) if condition == "and" else AnyOf(operands)

    def _operands(self, message: filter_pb2.FilterList, path: str, depth: int) -> tuple[Filter, ...] | None:
        if not message.filters:
            self._violations.add(path, "must have at least one condition")
            return None
        operands = []
        for i, filter_ in enumerate(message.filters):
            operands.append(self.read(filter_, f"{path}[{i}]", depth))
            if self._nodes > MAX_NODES:
                return None
        known = tuple(operand for operand in operands if operand is not None)
        return known if len(known) == len(operands) else None

    def _equals(self, message: filter_pb2.Comparison, path: str) -> Filter | None:
        fits = _is_key(message.key, f"{path}.key", self._violations)
        value = self._scalar(message.value, f"{path}.value")
        return Equals(message.key, value) if fits and value is not None else None

    def _in(self, message: filter_pb2.Membership, path: str) -> Filter | None:
        fits = _is_key(message.key, f"{path}.key", self._violations)
        if len(message.values) > MAX_VALUES:
            self._violations.add(f"{path}.values", f"more than {MAX_VALUES} values in one condition")
            return None
        values = [self._scalar(value, f"{path}.values[{i}]") for i, value in enumerate(message.values)]
        known = tuple(value for value in values if value is not None)
        return In(message.key, known) if fits and len(known) == len(values) else None

    def _range(self, message: filter_pb2.Range, path: str) -> Filter | None:
        fits = _is_key(message.key, f"{path}.key", self._violations)
        if not message.HasField("min") and not message.HasField("max"):
            self._violations.add(path, "must have a bound")
            return None
        minimum = self._bound(message.min, f"{path}.min") if message.HasField("min") else None
        maximum = self._bound(message.max, f"{path}.max") if message.HasField("max") else None
        if (minimum is None and message.HasField("min")) or (maximum is None and message.HasField("max")):
            return None
        if minimum is not None and maximum is not None and type(minimum) is not type(maximum):
            self._violations.add(path, "both bounds must be of the same type")
            return None
        return Range(message.key, minimum, maximum) if fits else None

    def _scalar(self, message: filter_pb2.MetadataValue, path: str) -> Scalar | None:
        value = read_metadata_value(message, path, self._violations)
        if isinstance(value, tuple):
            self._violations.add(path, "must not be a list")
            return None
        return value

    def _bound(self, message: filter_pb2.MetadataValue, path: str) -> str | float | None:
        value = self._scalar(message, path)
        if isinstance(value, bool):
            self._violations.add(path, "must be text or a number")
            return None
        return value
