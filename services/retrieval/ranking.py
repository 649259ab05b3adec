"""From admitted hits to a ranking of distinct passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.corpus.document import Document
from services.retrieval.federation import Half, HitList
from services.retrieval.fusion import Normalisation, dense_weight, fuse
from services.retrieval.query_kind import QueryKind
from services.retrieval.result import ChunkKey, RetrievedPassage, StageScores
from services.retrieval.texts import Texts, fingerprint


@dataclass(frozen=True, slots=True)
class Candidate:
    """An admitted chunk with its fused score and what that was made of."""

    key: ChunkKey
    fused: float
    scores: StageScores


def rank(
    lists: Iterable[HitList], admitted: Mapping[ChunkKey, Document], kind: QueryKind, normalisation: Normalisation
) -> list[Candidate]:
    """The admitted chunks of all lists, best first; equal ones by chunk id. Others have no influence on it."""
    halves: dict[Half, list[list[tuple[ChunkKey, float]]]] = {Half.DENSE: [], Half.LEXICAL: []}
    raw: dict[Half, dict[ChunkKey, float]] = {Half.DENSE: {}, Half.LEXICAL: {}}
    for hits in lists:
        passed = [(key, score) for key, score in hits.hits if key in admitted]
        halves[hits.half].append(passed)
        best = raw[hits.half]
        for key, score in passed:
            best[key] = max(score, best.get(key, score))
    fused = fuse(halves[Half.DENSE], halves[Half.LEXICAL], weight=dense_weight(kind), normalisation=normalisation)
    candidates = [
        Candidate(key, score, StageScores(raw[Half.DENSE].get(key), raw[Half.LEXICAL].get(key), score))
        for key, score in fused.items()
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.fused, candidate.key))


async def select(
    ranked: Sequence[Candidate],
    wanted: int,
    texts: Texts,
    admitted: Mapping[ChunkKey, Document],
    stores_of: Mapping[ChunkKey, Sequence[str]],
) -> list[RetrievedPassage]:
    """The first ``wanted`` candidates with distinct texts, read from the stores only as far as needed.

    Of chunks with the same text the best stays, and the stores of the others among those read are added to its own.
    """
    chosen: dict[bytes, RetrievedPassage] = {}
    position = 0
    while len(chosen) < wanted and position < len(ranked):
        batch = ranked[position : position + wanted]
        position += len(batch)
        passages = await texts.read([candidate.key for candidate in batch], stores_of)
        for candidate in batch:
            passage = passages.get(candidate.key)
            if passage is None:
                continue
            mark = fingerprint(passage.text)
            stores = tuple(stores_of[candidate.key])
            twin = chosen.get(mark)
            if twin is not None:
                added = tuple(name for name in stores if name not in twin.stores)
                chosen[mark] = replace(twin, stores=twin.stores + added)
                continue
            document = admitted[candidate.key]
            chosen[mark] = RetrievedPassage(
                key=candidate.key,
                title=document.title,
                uri=document.uri,
                passage=passage,
                score=candidate.fused,
                scores=candidate.scores,
                stores=stores,
            )
    return list(chosen.values())[:wanted]
