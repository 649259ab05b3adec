"""Which documents are whole in what was met of an index so far. Pure.

A version's chunks are all stored before the catalog calls it current, and removed only after it calls another one so, or
none (ADR 5). So a version that was current before a walk and still is after it was there all the while: the walk met
all of its chunks, or the index does not have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from services.backup.parts import Version
from services.catalog.contents import KeptDocument
from services.vectorstores.ports import Partition, StoredChunk

_Counts = Counter[tuple[Partition, Version]]


class Collected:
    """What was met, round by round. Each round is a walk over all of the index, or over some documents again."""

    def __init__(self) -> None:
        self._rounds: list[_Counts] = []
        self._lost: set[KeptDocument] = set()

    @property
    def round(self) -> int:
        """The number of the round that is under way."""
        return len(self._rounds) - 1

    def begin(self) -> None:
        """A round begins."""
        self._rounds.append(Counter())

    def met(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """These chunks were met, each for the first time in this round."""
        self._rounds[-1].update((partition, (chunk.document_id, chunk.version)) for chunk in chunks)

    def missing(self, documents: Iterable[KeptDocument]) -> list[KeptDocument]:
        """Those that are not whole in any round, and may still become so."""
        return [
            document
            for document in documents
            if document not in self._lost and self._best(document)[1] < document.chunks
        ]

    def ended(self, before: Iterable[KeptDocument], after: Iterable[KeptDocument]) -> None:
        """A round over the documents ``before`` has ended; ``after`` is what the catalog says by now.

        What is missing, and has not changed since, is not in the index: no further round would find it.
        """
        unchanged = {(d.tenant, d.collection, d.document_id, d.version) for d in before}
        self._lost.update(
            document
            for document in self.missing(after)
            if (document.tenant, document.collection, document.document_id, document.version) in unchanged
        )

    def lacking(self, documents: Iterable[KeptDocument]) -> list[KeptDocument]:
        """Those that are not whole, and will not be."""
        return [document for document in documents if self._best(document)[1] < document.chunks]

    def keep(self, documents: Iterable[KeptDocument]) -> dict[Partition, dict[Version, int]]:
        """For each current version, the round in which most of it was met."""
        found: dict[Partition, dict[Version, int]] = {}
        for document in documents:
            round_, count = self._best(document)
            if count:
                versions = found.setdefault(Partition(document.tenant, document.collection), {})
                versions[document.document_id, document.version] = round_
        return found

    def count(self, documents: Iterable[KeptDocument]) -> Counter[Partition]:
        """How many chunks of current versions are kept, by partition."""
        counts: Counter[Partition] = Counter()
        for document in documents:
            counts[Partition(document.tenant, document.collection)] += self._best(document)[1]
        return counts

    def _best(self, document: KeptDocument) -> tuple[int, int]:
        key = Partition(document.tenant, document.collection), (document.document_id, document.version)
        counts = [round_[key] for round_ in self._rounds]
        best = max(counts, default=0)
        return (counts.index(best) if counts else 0), best
