"""How much of a sealed collection can be read off its keyed words by someone who knows a tenth of its documents?

The attacker has the lexical part of a store (keyed words of every chunk, as the product keeps them) and the texts of
some documents, whose words the product's own analysis gives. They want the words of the other documents. Measured is
the share of word occurrences in other documents whose word the attacker names, and how many of those they name wrongly:

* `in_text_order`: hashes in the order of the text, as releases before kept them. Known chunks are recognised by how
  their words repeat, and read word by word.
* `sorted`: what is kept now. Known chunks are recognised by their counts of words, and a word by the known chunks that
  it is in, and how often (the count attack of Cash, Grubbs, Perry and Ristenpart, CCS 2015).
* `sorted_ids_known`: the same, where document ids tell which chunks are the known ones. They are in clear.
* `frequencies`: nothing but how often each word comes, in the known documents and in the store.

`in_order` is the share of occurrences in other documents that are read at their place in the text. The collections stand
beside the repository in ../shared/data/ir in BEIR layout; without them the benchmark says so and measures nothing.

    python benchmarks/words.py --collection scifact --limit-docs 2000 --known 0.1

Progress goes to stderr; the last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.corpus.chunk import chunk_id
from services.corpus.document import DEFAULT_COLLECTION, MediaType
from services.corpus.terms import analyze
from services.ingestion.adapters.parsing.in_process import InProcessParser
from services.ingestion.parsed import ChunkLimits
from services.runtime.sealed_store import SealedVectorStore
from services.security.key_stores import MemoryKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Sealer
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ir"
HERE = Partition("bench", DEFAULT_COLLECTION)
_PAGE = 1000
Bags = Mapping[str, Counter[str]]


@dataclass(frozen=True)
class Corpus:
    """Of every chunk, by its id: its words, their hashes in the order of the text, and the hashes as they are kept.

    ``of`` is the document of a chunk, ``sizes`` the bytes of its sealed text.
    """

    words: dict[str, list[str]]
    hashes: dict[str, list[str]]
    kept: dict[str, list[str]]
    sizes: dict[str, int]
    of: dict[str, str]


@dataclass(frozen=True)
class Read:
    """Shares of the word occurrences in documents that were not known."""

    named: float
    wrong: float
    in_order: float


async def load(folder: Path, limit: int | None) -> Corpus:
    """Chunk a collection as ingestion does, and keep it in a sealed store."""
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:limit]
    keyring = Keyring(SecretMasterKey.generate(), MemoryKeyStore())
    terms, inner = KeyedTerms(keyring), MemoryVectorStore()
    store = SealedVectorStore(inner, Sealer(keyring), terms)
    parser, vector = InProcessParser(), np.eye(2, dtype=np.float32)[0]
    words: dict[str, list[str]] = {}
    of: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name, title = row["_id"], row.get("title", "")
        split = await parser.split(row["text"].encode(), MediaType.TEXT, ChunkLimits())
        chunks = []
        for ordinal, passage in enumerate(split.passages):
            key = chunk_id(name, 1, ordinal)
            words[key], of[key] = analyze(f"{title}\n{passage.text}"), name
            chunks.append(StoredChunk(key, name, 1, ordinal, 0, passage.to_payload(), vector, tuple(words[key])))
        await store.upsert_chunks(HERE, chunks)
        if number % 500 == 0:
            _say(f"{number} of {len(rows)} documents are stored")
    kept: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    while page := await inner.list_chunks(HERE, after=max(kept, default=""), limit=_PAGE):
        for one in page:
            kept[one.chunk_id], sizes[one.chunk_id] = list(one.terms), len(one.payload)
    hashes = {key: terms.hash(HERE.tenant, found) for key, found in words.items()}
    return Corpus(words, hashes, kept, sizes, of)


# --- the attacks ----------------------------------------------------------------------------------------------------


def pattern(sequence: Sequence[str]) -> tuple[int, ...]:
    """How the elements of a sequence repeat: for each, the number of different ones before its first occurrence."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(element, len(first)) for element in sequence)


def profile(bag: Counter[str]) -> tuple[int, ...]:
    """How often the elements of a bag come, most frequent first."""
    return tuple(sorted(bag.values(), reverse=True))


def recognised(known: Mapping[str, Hashable], stored: Mapping[str, Hashable]) -> dict[str, str]:
    """The stored chunk of each known text whose shape only one of both has."""
    texts, chunks = defaultdict(list), defaultdict(list)
    for name, shape in known.items():
        texts[shape].append(name)
    for name, shape in stored.items():
        chunks[shape].append(name)
    return {names[0]: chunks[shape][0] for shape, names in texts.items() if len(names) == len(chunks[shape]) == 1}


def by_order(known: Mapping[str, list[str]], stored: Mapping[str, list[str]]) -> dict[str, str]:
    """The word of each hash, read off known texts word by word."""
    pairs = recognised(
        {name: pattern(words) for name, words in known.items()},
        {name: pattern(hashes) for name, hashes in stored.items()},
    )
    return {
        hashed: word for text, chunk in pairs.items() for word, hashed in zip(known[text], stored[chunk], strict=True)
    }


def by_counts(known: Bags, stored: Bags, pairs: Mapping[str, str]) -> dict[str, str]:
    """The word of each hash that is in the same known chunks, as often, as one word only.

    What is found helps to recognise more chunks: those of the same profile whose recognised words come equally often.
    """
    found: dict[str, str] = {}
    pairs = dict(pairs)
    while True:
        words, hashes = defaultdict(list), defaultdict(list)
        for number, (text, chunk) in enumerate(pairs.items()):
            for word, count in known[text].items():
                words[word].append((number, count))
            for hashed, count in stored[chunk].items():
                hashes[hashed].append((number, count))
        matched = recognised(
            {word: tuple(seen) for word, seen in words.items()},
            {hashed: tuple(seen) for hashed, seen in hashes.items()},
        )
        found = {hashed: word for word, hashed in matched.items()}
        more = dict(pairs) | recognised(
            {name: _known_part(bag, matched.keys()) for name, bag in known.items() if name not in pairs},
            {
                name: _known_part(Counter({found[h]: n for h, n in bag.items() if h in found}), matched.keys(), bag)
                for name, bag in stored.items()
                if name not in set(pairs.values())
            },
        )
        if len(more) == len(pairs):
            return found
        pairs = more


def _known_part(bag: Counter[str], names: Collection[str], whole: Counter[str] | None = None) -> Hashable:
    """The profile of a bag (or of ``whole``, which it is a part of), and how often those of ``names`` come in it."""
    return profile(whole or bag), frozenset((word, count) for word, count in bag.items() if word in names)


def by_frequency(known: Bags, stored: Bags) -> dict[str, str]:
    """Words and hashes in the order of how often they come."""
    words: Counter[str] = sum(known.values(), Counter())
    hashes: Counter[str] = Counter()
    for bag in stored.values():
        hashes.update(bag)
    return {hashed: word for (word, _), (hashed, _) in zip(words.most_common(), hashes.most_common(), strict=False)}


# --- measuring ------------------------------------------------------------------------------------------------------


def judge(corpus: Corpus, others: Sequence[str], table: Mapping[str, str], *, ordered: bool) -> Read:
    """How much of the chunks ``others`` a table of words by their hashes reads."""
    total = right = wrong = 0
    for name in others:
        for word, hashed in zip(corpus.words[name], corpus.hashes[name], strict=True):
            total += 1
            right += table.get(hashed) == word
            wrong += hashed in table and table[hashed] != word
    return Read(right / total, wrong / total, right / total if ordered else 0.0)


def attack(corpus: Corpus, share: float, seed: int) -> dict[str, Read]:
    """Every attack, with one random choice of known documents."""
    documents = sorted(set(corpus.of.values()))
    chosen = set(random.Random(seed).sample(documents, round(share * len(documents))))
    known = {name: words for name, words in corpus.words.items() if corpus.of[name] in chosen}
    others = [name for name in corpus.words if corpus.of[name] not in chosen]
    known_bags = {name: Counter(words) for name, words in known.items()}
    kept_bags = {name: Counter(hashes) for name, hashes in corpus.kept.items()}
    by_profile = recognised(
        {name: profile(bag) for name, bag in known_bags.items()},
        {name: profile(bag) for name, bag in kept_bags.items()},
    )
    tables = {
        "in_text_order": by_order(known, corpus.hashes),
        "sorted": by_counts(known_bags, kept_bags, by_profile),
        "sorted_ids_known": by_counts(known_bags, kept_bags, {name: name for name in known}),
        "frequencies": by_frequency(known_bags, kept_bags),
    }
    return {name: judge(corpus, others, table, ordered=name == "in_text_order") for name, table in tables.items()}


def shapes(corpus: Corpus) -> dict[str, float]:
    """What a chunk shows without any knowledge: the share of chunks that no other one looks like."""
    bags = {name: Counter(hashes) for name, hashes in corpus.kept.items()}

    def alone(shape: Mapping[str, Hashable]) -> float:
        counted = Counter(shape.values())
        return round(sum(counted[value] == 1 for value in shape.values()) / len(shape), 4)

    return {
        "number_of_words": alone({name: bag.total() for name, bag in bags.items()}),
        "sealed_size": alone(corpus.sizes),
        "both": alone({name: (bag.total(), corpus.sizes[name]) for name, bag in bags.items()}),
        "counts_of_words": alone({name: profile(bag) for name, bag in bags.items()}),
    }


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Load, attack, and put the figures together."""
    corpus = await load(options.data / options.collection, options.limit_docs)
    rounds = []
    for seed in range(options.rounds):
        rounds.append(attack(corpus, options.known, seed))
        _say(f"round {seed + 1}: {rounds[-1]}")
    return {
        "benchmark": "words",
        "skipped": False,
        "collection": options.collection,
        "documents": len(set(corpus.of.values())),
        "chunks": len(corpus.words),
        "words_per_chunk": round(statistics.mean(map(len, corpus.words.values())), 1),
        "known": options.known,
        "order_is_kept": any(corpus.kept[name] != sorted(corpus.kept[name]) for name in corpus.kept),
        "only_one_of_its_shape": shapes(corpus),
        **{
            name: {
                part: round(statistics.mean(getattr(one[name], part) for one in rounds), 4)
                for part in ("named", "wrong", "in_order")
            }
            for name in rounds[0]
        },
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="where the collections are")
    parser.add_argument("--collection", default="scifact")
    parser.add_argument("--limit-docs", type=int, default=2000)
    parser.add_argument("--known", type=float, default=0.1, help="the share of documents that the attacker knows")
    parser.add_argument("--rounds", type=int, default=3, help="random choices of known documents; means are shown")
    options = parser.parse_args()
    if not (options.data / options.collection / "corpus.jsonl.gz").exists():
        _say(f"the collection {options.collection} is not in {options.data.name}; nothing was measured")
        print(json.dumps({"benchmark": "words", "skipped": True}))
        return
    print(json.dumps(asyncio.run(run(options))))


if __name__ == "__main__":
    main()
