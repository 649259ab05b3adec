"""Fetching the texts of checked chunks, from whichever store has them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from services.corpus.chunk import Passage
from services.corpus.errors import DataLoss
from services.retrieval.federation import FederatedSearch, Federation, outcomes
from services.retrieval.ports import NamedStore
from services.retrieval.result import ChunkKey
from services.vectorstores.ports import FetchedChunk, Partition

_SPACE = re.compile(r"\s+")


def fingerprint(text: str) -> bytes:
    """The same bytes for texts that differ only in case, white space or compatible characters."""
    plain = _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()
    return blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Texts:
    """Reads passages for one request; each is fetched once.

    A store that fails here is recorded in the search's account, and the other stores that found the chunk are asked.
    ``damaged`` counts the chunks that were left out because what a store keeps of them cannot be read, ``missing``
    those that no store gave back while one of theirs failed.
    """

    def __init__(self, federation: Federation, search: FederatedSearch, tenant: str) -> None:
        self._federation = federation
        self._search = search
        self._tenant = tenant
        self._passages: dict[ChunkKey, Passage | None] = {}
        self._failed: set[str] = set()
        self._damaged: set[ChunkKey] = set()
        self.damaged = 0
        self.missing = 0

    async def read(
        self, keys: Sequence[ChunkKey], stores_of: Mapping[ChunkKey, Sequence[str]]
    ) -> dict[ChunkKey, Passage]:
        """The passages of ``keys``, which must have been admitted by the gate; those that nobody has are left out."""
        wanted = [key for key in keys if key not in self._passages]
        untried = {key: list(stores_of[key]) for key in wanted}
        while round_ := self._assign(untried):
            stores = [store for store in self._federation.stores if store.name in round_]
            pieces = [
                (store, collection, [key for key in round_[store.name] if key.collection == collection])
                for store in stores
                for collection in sorted({key.collection for key in round_[store.name]})
            ]
            endings = await outcomes((self._fetch(*piece) for piece in pieces), self._federation.timeout)
            for (store, _, asked), ending in zip(pieces, endings, strict=True):
                if isinstance(ending, Exception):
                    self._failed.add(store.name)
                    self._search.fail(store.name, ending)
                else:
                    self._accept(asked, ending)
            untried = {key: names for key, names in untried.items() if key not in self._passages}
        for key in wanted:
            if key not in self._passages:
                self._passages[key] = None
                self.damaged += key in self._damaged
                self.missing += any(name in self._failed for name in stores_of[key])
        return {key: passage for key in keys if (passage := self._passages[key]) is not None}

    def _assign(self, untried: Mapping[ChunkKey, list[str]]) -> dict[str, list[ChunkKey]]:
        """Take each chunk's next store that has not failed."""
        assigned: dict[str, list[ChunkKey]] = {}
        for key, names in untried.items():
            while names:
                name = names.pop(0)
                if name not in self._failed:
                    assigned.setdefault(name, []).append(key)
                    break
        return assigned

    async def _fetch(self, store: NamedStore, collection: str, keys: Sequence[ChunkKey]) -> list[FetchedChunk]:
        return await store.store.fetch_chunks(Partition(self._tenant, collection), [key.chunk_id for key in keys])

    def _accept(self, asked: Sequence[ChunkKey], fetched: Sequence[FetchedChunk]) -> None:
        by_identity = {(chunk.chunk_id, chunk.document_id, chunk.version): chunk for chunk in fetched}
        for key in asked:
            # What was checked is the document that the hit named: a text of any other must not pass for it.
            chunk = by_identity.get((key.chunk_id, key.document_id, key.version))
            if chunk is None:
                continue
            try:
                self._passages[key] = Passage.from_payload(chunk.payload)
            except DataLoss:
                self._damaged.add(key)
