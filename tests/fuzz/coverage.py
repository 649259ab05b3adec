"""Which lines of the project an input reaches, and which words the code that it reaches knows."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_ROOT = str(Path(__file__).parents[2])
_ROOMS = tuple(f"{_ROOT}/{room}/" for room in ("services", "interceptors", "cli"))
_WORD = re.compile(r"[^\W_][\w\-]+|[<\[|(]{1,2}/?[\w|\-]+[>\])|]{0,2}")
_LONGEST_WORD = 32
_ALWAYS, _THEN_EACH = 100, 8


class Coverage:
    """Traces one thread while it is entered.

    Nothing outside of the project is traced, and no function of which every line was reached. After a hundred calls
    without a new line of theirs, functions are traced in every eighth call: what is missed now is met again, and six
    times as many inputs are tried. Only lines count, no paths through them.
    """

    def __init__(self) -> None:
        self.lines = 0
        """Lines that were reached so far."""
        self._calls: Counter[CodeType] = Counter()  # since a new line of theirs was reached
        self._missing: dict[CodeType, set[int] | None] = {}  # None: not traced

    def __enter__(self) -> None:
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def words(self) -> list[bytes]:
        """The texts that stand in the code that was reached, and in its patterns and tables."""
        found: set[str] = set()
        for code in self._missing:
            found.update(_texts(code.co_consts, 0))
        files = {code.co_filename for code, missing in self._missing.items() if missing is not None}
        for module in list(sys.modules.values()):
            if getattr(module, "__file__", None) in files:
                found.update(_texts([value for name, value in vars(module).items() if not name.startswith("__")], 0))
        return sorted(word.encode("utf-8", "replace") for word in found if 0 < len(word) <= _LONGEST_WORD)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        try:
            missing = self._missing[code]
        except KeyError:
            counts = code.co_filename.startswith(_ROOMS)
            missing = self._missing[code] = {line for *_, line in code.co_lines() if line} if counts else None
        if not missing:
            return None
        self._calls[code] += 1
        calls = self._calls[code]
        return self._line if calls <= _ALWAYS or calls % _THEN_EACH == 0 else None

    def _line(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        missing = self._missing[frame.f_code]
        if missing and frame.f_lineno in missing:
            missing.discard(frame.f_lineno)
            self._calls[frame.f_code] = 0
            self.lines += 1
        return self._line if missing else None


def _texts(values: Any, depth: int) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            if len(value) <= _LONGEST_WORD:
                yield value
        elif isinstance(value, bytes):
            yield value.decode("utf-8", "ignore")
        elif isinstance(value, re.Pattern):
            pattern = value.pattern
            yield from _WORD.findall(pattern if isinstance(pattern, str) else pattern.decode("latin-1"))
        elif isinstance(value, tuple | frozenset | set | list | dict) and depth < 2 and len(value) < 2000:
            yield from _texts(value, depth + 1)
