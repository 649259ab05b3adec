"""Random tenants, people and documents for the tests of access, with a record of who may read what at each moment.

Every version of a document carries a secret word of its own, in its title, its text, its URI and (mostly) its id. So
whatever leaves a service can be searched for secrets, and each one that is found must be readable by its caller then.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from collections.abc import Collection as Some
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from services.catalog.ports import Catalog
from services.corpus.chunk import Passage, chunk_id
from services.corpus.document import Collection, Document, DocumentState, MediaType
from services.corpus.errors import Unavailable
from services.corpus.filter import Filter
from services.corpus.principal import EVERYBODY, Access, Caller
from services.corpus.terms import analyze
from services.embedding.memory import HashingEmbedder, OverlapCrossEncoder
from services.generation.ports import Citation, Draft
from services.generation.ports import Passage as PromptPassage
from services.vectorstores.ports import (
    FetchedChunk,
    Partition,
    StoreCapabilities,
    StoredChunk,
    StoreHit,
    Vector,
    VectorStore,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECRET = re.compile(rb"zq[a-p]{9}")
TENANTS = ("acme", "initech", "umbrella")
COLLECTIONS = ("default", "legal")
SUBJECTS = ("alice", "bob", "carol")
GROUPS = ("hr", "it")
READERS = (EVERYBODY, *(f"user:{name}" for name in SUBJECTS), *(f"group:{name}" for name in GROUPS))
# Ids that every tenant uses: what is remembered about one must not be said about another.
SHARED_IDS = ("handbook", "policy")
WORDS = ("parking", "travel", "salary", "garden", "printer", "holiday", "budget", "kitchen")
EMBEDDER = HashingEmbedder(48)
_LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class Entry:
    """One version of a document as the world knows it to be."""

    tenant: str
    collection: str
    document_id: str
    version: int
    secret: str
    texts: tuple[str, ...]
    lang: str
    owner: str
    readers: frozenset[str]

    def admits(self, caller: Caller) -> bool:
        """Said once more, without the code under test."""
        return self.tenant == caller.tenant and any(
            reader in (EVERYBODY, f"user:{caller.subject}")
            or (reader.startswith("group:") and reader.removeprefix("group:") in caller.groups)
            for reader in self.readers
        )


def contents(texts: Sequence[str]) -> bytes:
    """The file that a document was taken in from."""
    return "\n\n".join(texts).encode()


class Chaos:
    """What happens between any two steps: changes of access, and failures. Quiet until ``rate`` or ``faults`` is set."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rate = 0.0
        self.faults = 0.0
        self.changes = 0
        self.failures = 0
        self.last = ""
        self.world: World | None = None

    async def strike(self, where: str) -> None:
        """Called before every await of a port."""
        self.last = where
        if self.rate and self.rng.random() < self.rate and self.world is not None:
            self.changes += 1
            await self.world.mutate()
        if self.faults and self.rng.random() < self.faults:
            self.failures += 1
            # A time-out looks to retrieval like a store's exception; a real wait would only cost time.
            raise self.rng.choice([Unavailable("away"), TimeoutError()]) if where == "store" else Unavailable("away")


class ChaoticCatalog:
    """Passes everything on to ``inner``, after the chaos has struck."""

    def __init__(self, inner: Catalog, chaos: Chaos) -> None:
        self.inner = inner
        self._chaos = chaos

    async def find_readable(
        self, tenant: str, collection: str, document_ids: Some[str], principals: frozenset[str]
    ) -> dict[str, Document]:
        # One look at several collections is several queries: a change between two of those has the same standing as one
        # right after the last of them, which nobody can see in time.
        if self._chaos.last not in COLLECTIONS or self._chaos.last == collection:
            await self._chaos.strike("catalog")
        self._chaos.last = collection
        return await self.inner.find_readable(tenant, collection, document_ids, principals)

    async def list_readable(
        self,
        tenant: str,
        collection: str,
        principals: frozenset[str],
        *,
        filter_: Filter | None = None,
        after: str = "",
        limit: int = 50,
    ) -> list[Document]:
        await self._chaos.strike("catalog")
        return await self.inner.list_readable(tenant, collection, principals, filter_=filter_, after=after, limit=limit)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            await self._chaos.strike("catalog")
            return await method(*arguments, **options)

        return call


class ChaoticStore:
    """A store that may fail, hold stale reader sets, narrow by nothing, or show hits of other tenants."""

    def __init__(self, inner: VectorStore, chaos: Chaos) -> None:
        self.inner = inner
        self.chaos = chaos
        self.lies = False

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        await self.chaos.strike("store")
        hits: list[StoreHit] = []
        for asked in self._partitions(partition):
            hits += await self.inner.search_dense(asked, vector, limit, None if self.lies else reader_sets)
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[:limit]

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        await self.chaos.strike("store")
        hits: list[StoreHit] = []
        for asked in self._partitions(partition):
            hits += await self.inner.search_lexical(asked, terms, limit, None if self.lies else reader_sets)
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[:limit]

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        await self.chaos.strike("store")
        return await self.inner.fetch_chunks(partition, chunk_ids)

    async def capabilities(self) -> StoreCapabilities:
        return await self.inner.capabilities()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            await self.chaos.strike("store")
            return await method(*arguments, **options)

        return call

    def _partitions(self, partition: Partition) -> list[Partition]:
        if not self.lies:
            return [partition]
        return [Partition(tenant, partition.collection) for tenant in TENANTS]


class ChaoticEncoder(OverlapCrossEncoder):
    """Reranks, after the chaos has struck."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__()
        self._chaos = chaos

    async def score(self, question: str, passages: Sequence[str], *, budget: float | None = None) -> list[float | None]:
        await self._chaos.strike("encoder")
        return await super().score(question, passages, budget=budget)


@dataclass
class RecordingEndpoint:
    """A language model that repeats what it is shown; ``told`` is given every prompt."""

    name: str
    chaos: Chaos
    told: Callable[[bytes], None]
    kind: str = "recording"
    model: str = "parrot"

    async def answer(
        self, question: str, passages: Sequence[PromptPassage], max_tokens: int
    ) -> AsyncGenerator[str | Draft, None]:
        del question, max_tokens
        # Not the question: a caller may put any word into it.
        self.told("\n".join(f"{p.passage_id} {p.title} {p.text}" for p in passages).encode())
        answer = ""
        for number, passage in enumerate(passages[:3], start=1):
            await self.chaos.strike("endpoint")
            piece = f"{passage.title}: {passage.text} [{number}] "
            answer += piece
            yield piece
        await self.chaos.strike("endpoint")
        citations = tuple(Citation(f"[{n}]", p.passage_id, 0, len(p.text)) for n, p in enumerate(passages[:3], 1))
        yield Draft(answer, citations, 0.8)

    async def close(self) -> None:
        pass


class World:
    """The documents. Changes go to the catalog at once, and to the stores mostly (they may lag behind)."""

    def __init__(self, rng: random.Random, catalog: Catalog, stores: Sequence[VectorStore]) -> None:
        self.rng = rng
        self.catalog = catalog
        self.stores = stores
        self.current: dict[tuple[str, str, str], Entry] = {}
        self.by_secret: dict[str, Entry] = {}
        self.lagging = False
        self.watched: Caller | None = None
        self._changing = asyncio.Lock()

    async def fill(self, documents: int) -> None:
        """Collections in every tenant, and ``documents`` in each tenant."""
        model = EMBEDDER.model
        for tenant in TENANTS:
            for name in COLLECTIONS:
                await self.catalog.create_collection(
                    Collection(tenant, name, model.name, model.dimension, None, None, NOW)
                )
            for document_id in SHARED_IDS:
                await self.put(tenant, self.rng.choice(COLLECTIONS), document_id)
            for _ in range(documents):
                await self.put(tenant, self.rng.choice(COLLECTIONS), f"doc-{self.secret()}")

    def caller(self) -> Caller:
        """Somebody, in some groups."""
        rng = self.rng
        groups = frozenset(rng.sample(GROUPS, rng.randrange(3)))
        permissions = frozenset({"admin:*"}) if rng.random() < 0.1 else frozenset[str]()
        return Caller(rng.choice(TENANTS), rng.choice(SUBJECTS), groups, permissions)

    def readers(self) -> frozenset[str]:
        """Nobody up to three principals."""
        return frozenset(self.rng.sample(READERS, self.rng.choice([0, 1, 1, 1, 2, 3])))

    def secret(self) -> str:
        """A word that nobody else has."""
        return "zq" + "".join(self.rng.choices(_LETTERS, k=9))

    def readable(self, caller: Caller, collection: str, lang: str | None = None) -> list[Entry]:
        """What a caller may read now."""
        return [
            entry
            for entry in self.current.values()
            if entry.collection == collection and entry.admits(caller) and lang in (None, entry.lang)
        ]

    def leaked(self, caller: Caller, data: bytes) -> list[str]:
        """The secrets in ``data`` that ``caller`` may not read at this moment, in that version."""
        wrong = []
        for word in {match.decode() for match in SECRET.findall(data)}:
            entry = self.by_secret.get(word)
            if entry is None:
                continue  # nobody's: a word that a caller made up
            known = self.current.get((entry.tenant, entry.collection, entry.document_id))
            # A document's id is the same in all its versions; all else must be of the current one.
            if known is None or not known.admits(caller) or word not in (known.secret, known.document_id[4:]):
                wrong.append(word)
        return wrong

    async def put(self, tenant: str, collection: str, document_id: str) -> None:
        """Take a document in, or its next version."""
        rng = self.rng
        secret = self.secret()
        texts = tuple(
            f"{' '.join(rng.choices(WORDS, k=4))} {secret} part{part}" for part in range(rng.choice([1, 1, 2]))
        )
        readers, lang, owner = self.readers(), rng.choice(["en", "de"]), rng.choice(SUBJECTS)
        plan = await self.catalog.plan_version(tenant, collection, document_id, Access(readers))
        vectors = await EMBEDDER.embed_passages(texts)
        chunks = [
            StoredChunk(
                chunk_id(document_id, plan.version, place),
                document_id,
                plan.version,
                place,
                plan.reader_set,
                Passage(text, 0, len(text)).to_payload(),
                vectors[place],
                tuple(analyze(text)),
            )
            for place, text in enumerate(texts)
        ]
        for store in self.stores:
            await store.upsert_chunks(Partition(tenant, collection), chunks)
        entry = Entry(tenant, collection, document_id, plan.version, secret, texts, lang, owner, readers)
        document = Document(
            tenant=tenant,
            collection=collection,
            document_id=document_id,
            version=plan.version,
            title=f"Title {secret}",
            uri=f"https://example.org/{secret}",
            media_type=MediaType.TEXT,
            metadata={"lang": lang},
            access=Access(readers),
            owner=f"user:{owner}",
            state=DocumentState.ACTIVE,
            content_sha256=hashlib.sha256(contents(texts)).hexdigest(),
            chunk_count=len(texts),
            create_time=NOW,
            update_time=NOW,
        )
        if await self.catalog.activate_version(document):
            self.current[tenant, collection, document_id] = entry
            self.by_secret[secret] = entry
            self.by_secret[document_id.removeprefix("doc-")] = entry

    async def mutate(self) -> None:
        """Withdraw, grant, replace or delete one document."""
        # Stores are asked at the same time, and each of them may bring a change with it.
        async with self._changing:
            await self._mutate()

    async def _mutate(self) -> None:
        rng = self.rng
        if not self.current:
            return
        near = [key for key, entry in self.current.items() if self.watched is not None and entry.admits(self.watched)]
        # What somebody is being shown matters most.
        key = rng.choice(near if near and rng.random() < 0.6 else list(self.current))
        what = rng.random()
        if what < 0.08:
            await self.catalog.mark_deleted(*key)
            del self.current[key]
        elif what < 0.25:
            await self.put(*key)
        else:
            readers = frozenset[str]() if what < 0.5 else self.readers()
            number = await self.catalog.set_access(*key, Access(readers))
            self.current[key] = replace(self.current[key], readers=readers)
            if not self.lagging or rng.random() < 0.5:
                for store in self.stores:
                    await store.assign_readers(Partition(*key[:2]), key[2], number)

    async def restore(self, entry: Entry) -> None:
        """Give a document the readers back that it had."""
        key = (entry.tenant, entry.collection, entry.document_id)
        number = await self.catalog.set_access(*key, Access(entry.readers))
        for store in self.stores:
            await store.assign_readers(Partition(*key[:2]), key[2], number)
