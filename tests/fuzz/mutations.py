"""Changes of an input, one kind a function: ``change(data, random, others, words) -> data``.

The kinds are those of AFL and libFuzzer, and one more: ``stretch`` repeats a piece up to the longest input there may be,
because what takes time that grows faster than its input shows only then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MAX_BYTES = 16 * 1024
"""The longest input."""
_STRETCHED = 0.08  # of all inputs: those take the time of a hundred others
_NUMBER = re.compile(rb"\d+")
_ODD_NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"255",
    b"65536",
    b"2147483648",
    b"9223372036854775808",
    b"1e999",
    b"0.1",
    b"9" * 400,
)
_ODD_BYTES = b"\x00\x01\x09\x0a\x0d\x1b\x20\x22\x27\x5b\x5c\x7b\x7f\x80\xc2\xed\xfe\xff"
_ODD_TEXTS = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in ("\u2028", "\ufeff", "\u0301", "\u202e", "\U000e0041", "²", "٣", "ß", "İ", "ﬀ", "\U0001f468\u200d", "\x9b", "\ud800")
)  # fmt: skip

# Pieces of text that mean something to somebody, to be repeated.
_UNITS = (
    *(
        " ",
        "\t",
        "\n",
        "\r\n",
        "\x00",
        "a",
        "A",
        "1",
        "é",
        "\u0301",
        "二",
        "。",
        ".",
        ",",
        ";",
        ":",
        "!",
        "-",
        "_",
        "*",
        "~",
        "`",
    ),
    *("#", "=", "|", ">", "<", "&", "[", "]", "(", ")", "](", "\\", '"', "{", "/", "+", "%", "@", "$"),
    *(
        "a ",
        "a. ",
        "A. ",
        "A.",
        "1.",
        "1, ",
        "1-",
        "- ",
        "1. ",
        "> ",
        "| ",
        " |",
        ":-|",
        "e.g. ",
        "a\n",
        "a b\n\n",
        "A b ",
    ),
    *(
        "[1]",
        "[1",
        "[a](",
        "<b>",
        "</b>",
        "<b ",
        "<!--",
        "&lt;",
        "```\n",
        "<think>",
        "</think>",
        "<|",
        "data: ",
        '{"a":',
        "[[",
    ),
    *(
        "May 1, ",
        "1 kg ",
        "10:30 ",
        "v1.",
        "XI ",
        "(1) ",
        "not ",
        "Mr. ",
        "\u00a0",
        "\u2028",
        "\ufeff",
        "\U0001f468\u200d",
    ),
)
_RUN_BYTES = 12 * 1024

Change = Callable[[bytes, Random, Sequence[bytes], Sequence[bytes]], bytes]


def _slice(data: bytes, random: Random, most: int = 64) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randint(1, min(most, max(1, len(data)))))


def _flip(data: bytes, random: Random, _others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, random: Random, _others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    at = random.randrange(len(data) + 1)
    byte = random.choice(_ODD_BYTES) if random.random() < 0.5 else random.randrange(256)
    return data[:at] + bytes([byte]) + data[at + random.randint(0, 1) :]


def _remove(data: bytes, random: Random, _others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    start, end = _slice(data, random)
    return data[:start] + data[end:]


def _double(data: bytes, random: Random, _others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    start, end = _slice(data, random)
    at = random.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


def _stretch(data: bytes, random: Random, _others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    start, end = _slice(data, random, random.choice((1, 1, 2, 4, 16)))
    room = random.choice((64, 512, MAX_BYTES)) - len(data)
    return data[:start] + data[start:end] * (max(2, room // max(1, end - start))) + data[end:]


def _splice(data: bytes, random: Random, others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    other = random.choice(others) if others else b""
    start, end = _slice(other, random, 512)
    at = random.randrange(len(data) + 1)
    return data[:at] + other[start:end] + data[at + random.choice((0, end - start)) :]


def _cross(data: bytes, random: Random, others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    other = random.choice(others) if others else b""
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _word(data: bytes, random: Random, _others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    word = random.choice(words) if words and random.random() < 0.9 else random.choice(_ODD_TEXTS)
    at = random.randrange(len(data) + 1)
    return data[:at] + word + data[at + random.choice((0, 0, len(word))) :]


def _number(data: bytes, random: Random, _others: Sequence[bytes], _words: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    at = random.choice(found)
    number = (
        random.choice(_ODD_NUMBERS) if random.random() < 0.6 else str(int(at[0][:9]) + random.randint(-2, 2)).encode()
    )
    return data[: at.start()] + number + data[at.end() :]


_CHANGES: tuple[Change, ...] = (
    _flip,
    _set,
    _set,
    _remove,
    _remove,
    _double,
    _splice,
    _cross,
    _word,
    _word,
    _word,
    _number,
)


def mutate(data: bytes, random: Random, others: Sequence[bytes] = (), words: Sequence[bytes] = ()) -> bytes:
    """``data`` with one to eight changes, or with one piece of it repeated."""
    if random.random() < _STRETCHED:
        return _stretch(data, random, others, words)[:MAX_BYTES]
    for _ in range(random.choice((1, 1, 2, 2, 3, 4, 8))):
        data = random.choice(_CHANGES)(data, random, others, words)[:MAX_BYTES]
    return data


def runs() -> list[bytes]:
    """Long runs of every piece that may mean something: what takes time that grows faster than its input shows there."""
    return [unit.encode() * (_RUN_BYTES // len(unit.encode())) for unit in _UNITS]
