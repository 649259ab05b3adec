"""Reads an input of a fuzz target as what the target needs: texts, numbers, choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Source:
    """Takes texts and bytes from the front of ``data``, and numbers from its end.

    Texts are divided by the byte FF, which UTF-8 does not have: an input can be read and written by people, and a change
    of one text leaves the others as they are. Every input means something, an empty one included.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._data)

    def number(self, below: int = 256) -> int:
        """A number from 0 to ``below`` - 1, of one byte, or of four where ``below`` is larger than 256."""
        size = 1 if below <= 256 else 4
        taken = self._data[-size:]
        self._data = self._data[: len(self._data) - len(taken)]
        return int.from_bytes(taken, "big") % below

    def pick(self, options: Sequence[_T]) -> _T:
        """One of ``options``."""
        return options[self.number(len(options))]

    def flag(self) -> bool:
        """True or False."""
        return bool(self.number(2))

    def part(self) -> bytes:
        """The bytes up to the next FF, or all that are left."""
        taken, _, self._data = self._data.partition(b"\xff")
        return taken

    def text(self) -> str:
        """The next text; what is not UTF-8 is replaced."""
        return self.part().decode("utf-8", "replace")

    def cuts(self, whole: Sequence[_T], most: int = 4) -> list[Sequence[_T]]:
        """``whole`` in up to ``most`` + 1 pieces."""
        edges = sorted(self.number(len(whole) + 1) for _ in range(self.number(most + 1)))
        return [whole[start:end] for start, end in zip([0, *edges], [*edges, len(whole)], strict=True)]
