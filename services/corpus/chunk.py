"""Chunks: the pieces of a document that are indexed, found and cited."""

from __future__ import annotations

import json
from dataclasses import dataclass

from services.corpus.errors import DataLoss


def chunk_id(document_id: str, version: int, ordinal: int) -> str:
    """The id of a version's ``ordinal``-th chunk, unique within a collection."""
    return f"{document_id}#{version}.{ordinal}"


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk's readable content.

    ``start`` and ``end`` are offsets in code points into the document's extracted text (for text and Markdown
    that is the decoded source itself), so that ``extracted[start:end] == text``. ``headings`` is the path of
    headings above the passage, outermost first. ``page`` counts from 1, and is 0 where a format has no pages.
    """

    text: str
    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int = 0

    def to_payload(self) -> bytes:
        """The bytes that a store keeps for this passage; stores never look inside."""
        fields = {"t": self.text, "s": self.start, "e": self.end, "h": self.headings, "p": self.page}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_payload(cls, payload: bytes) -> Passage:
        """Read back what :meth:`to_payload` wrote; raise DataLoss if the bytes are damaged."""
        try:
            fields = json.loads(payload)
            headings = tuple(map(str, fields["h"]))
            passage = cls(str(fields["t"]), int(fields["s"]), int(fields["e"]), headings, int(fields["p"]))
            "".join((passage.text, *headings)).encode()  # JSON may hold half a character, which cannot be sent
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataLoss("a stored passage cannot be read") from error
        return passage
