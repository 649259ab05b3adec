"""Places in a text: ``start`` and ``end`` are offsets in characters, the end exclusive."""

from __future__ import annotations


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The place ``text[start:end]`` without white space at its beginning and end; empty if there is nothing else."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
