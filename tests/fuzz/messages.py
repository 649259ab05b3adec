"""Changes of protobuf messages, field by field, whatever their type is: changed bytes would seldom be a message."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from tests.fuzz import mutations

_INTEGERS = (0, 1, -1, 7, 50, 1000, 86_400, 2**31 - 1, -(2**31))
_LONG_INTEGERS = (*_INTEGERS, 2**53, 2**63 - 1, -(2**63), 253_402_300_799, 253_402_300_800)
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324)
_TEXTS = (
    "",
    "default",
    "nowhere",
    "user:alice",
    "group:staff",
    "tenant:*",
    "\0",
    "a\n",
    "..",
    "²",
    "x" * 200,
    "\u202e",
    "%s",
)
_DEEPEST = 12


def mutate_message(
    kind: type[Message], data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """A message of type ``kind`` with one to four fields changed; if ``data`` is none, its bytes are changed."""
    if random.random() < 0.1:
        return mutations.mutate(data, random, others, words)
    try:
        message = kind.FromString(data)
    except DecodeError:
        return mutations.mutate(data, random, others, words)
    for _ in range(random.randint(1, 4)):
        _change(message, random, words, 0)
    try:
        return message.SerializeToString()
    except ValueError:
        return data


def _change(message: Message, random: Random, words: Sequence[bytes], depth: int) -> None:
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    if not fields or depth > _DEEPEST:
        return
    descriptor = random.choice(fields)
    name = descriptor.name
    if random.random() < 0.1:
        message.ClearField(name)
        return
    value: Any = getattr(message, name)
    if descriptor.message_type is None:
        _change_scalar(message, descriptor, random, words)
    elif descriptor.message_type.GetOptions().map_entry:
        key, held = random.choice([*value, random.choice(_TEXTS)]), descriptor.message_type.fields_by_name["value"]
        if held.message_type is not None:
            _change(value[key], random, words, depth + 1)
        else:
            value[key] = _scalar(held, value.get(key), random, words)
    elif descriptor.is_repeated:
        if not value or random.random() < 0.4:
            if value and random.random() < 0.5:
                value.extend([random.choice(value)] * random.choice((1, 1, 2, 20)))
            else:
                _change(value.add(), random, words, depth + 1)
        else:
            _change(random.choice(value), random, words, depth + 1)
    else:
        value.SetInParent()
        _change(value, random, words, depth + 1)


def _change_scalar(message: Message, descriptor: FieldDescriptor, random: Random, words: Sequence[bytes]) -> None:
    name = descriptor.name
    held: Any = getattr(message, name)
    if descriptor.is_repeated:
        new = _scalar(descriptor, random.choice(held) if held else None, random, words)
        if held and random.random() < 0.5:
            held[random.randrange(len(held))] = new
        else:
            held.extend([new] * random.choice((1, 1, 1, 300)))
    else:
        setattr(message, name, _scalar(descriptor, held, random, words))


def _scalar(descriptor: FieldDescriptor, held: Any, random: Random, words: Sequence[bytes]) -> Any:
    match descriptor.type:
        case FieldDescriptor.TYPE_STRING:
            if random.random() < 0.3:
                return random.choice(_TEXTS)
            return mutations.mutate((held or "").encode(), random, (), words).decode("utf-8", "replace")
        case FieldDescriptor.TYPE_BYTES:
            return mutations.mutate(held or b"", random, (), words)
        case FieldDescriptor.TYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return random.choice(_FLOATS)
        case FieldDescriptor.TYPE_ENUM:
            return random.choice((0, 1, 2, 3, 99, -1))
        case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_UINT64:
            return random.choice((0, 1, 7, 1000, 2**32 - 1))
        case FieldDescriptor.TYPE_INT32:
            return random.choice(_INTEGERS)
        case _:
            return random.choice(_LONG_INTEGERS)
