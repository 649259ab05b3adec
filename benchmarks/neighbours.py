"""Does the extractive answerer answer what the sources say, and decline what they do not?

Two measurements, both with the embedded cross-encoder and without servers:

* pairs of questions (tests/fixtures/answers): one that a short text answers, and one a step beside it, about another
  year, version, place, day, unit or the opposite; neighbours.toml was in view when the rules were made, harder.toml was
  written without them. Declining counts as right for the second, and so does
  an answer that begins by saying for what the sources do not answer it.
* every fourth question of XQuAD, with its paragraph among the five others that share most words with the question, and
  again with those five alone. The collections stand beside the repository in ../shared/data/ir in BEIR layout; without
  them the benchmark says so and leaves this part out.

    python benchmarks/neighbours.py --collection xquad_en --collection xquad_de

Progress goes to stderr; the last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.corpus.terms import analyze
from services.embedding.onnx import OnnxCrossEncoder
from services.generation.adapters.extractive import ExtractiveEndpoint
from services.generation.ports import Draft, Passage

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ROOT / "tests" / "fixtures" / "answers"
DATA = ROOT.parent / "shared" / "data" / "ir"
_STEP = 4
_OTHERS = 5
_PLACE = 2  # where the right paragraph stands among the others


@dataclass(frozen=True)
class Case:
    """A question, its gold answers, the paragraph that holds one of them, and others."""

    question: str
    answers: tuple[str, ...]
    gold: Passage
    others: tuple[Passage, ...]


async def ask(endpoint: ExtractiveEndpoint, question: str, passages: Sequence[Passage]) -> Draft:
    """The draft that the endpoint ends with."""
    async for item in endpoint.answer(question, passages, 1000):
        if isinstance(item, Draft):
            return item
    raise AssertionError("an answer ends with a draft")


def steps_aside(draft: Draft) -> bool:
    """Whether an answer is declined, or says for what the sources do not answer the question."""
    return draft.abstained or draft.answer.startswith("The given sources do not answer this for ")


def pairs_of(file: Path) -> list[dict[str, Any]]:
    """The pairs in a file."""
    return list(tomllib.loads(file.read_text(encoding="utf-8"))["pairs"])


async def pairs(endpoint: ExtractiveEndpoint, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many questions of the pairs are answered, and how many of those beside them declined."""
    asked = right = declined = 0
    for entry in entries:
        passages = [Passage(entry["id"], entry.get("title", ""), entry["text"], 0.9)]
        for question in (entry["right"], *entry.get("more", ())):
            answer = await ask(endpoint, question, passages)
            good = entry["expected"] in answer.answer and not steps_aside(answer)
            asked, right = asked + 1, right + good
            if not good:
                print(f"{entry['id']}: {question} {answer.answer}", file=sys.stderr)
        beside = await ask(endpoint, entry["beside"], passages)
        declined += steps_aside(beside)
        if not steps_aside(beside):
            print(f"{entry['id']}: {entry['beside']} {beside.answer}", file=sys.stderr)
    return {
        "pairs": len(entries),
        "answered_right": round(right / asked, 3),
        "declined_beside": round(declined / len(entries), 3),
    }


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a compressed file, one a line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def cases(folder: Path) -> list[Case]:
    """Every fourth question of a collection with its paragraph and the five most similar ones."""
    texts = {entry["_id"]: entry["text"] for entry in read(folder / "corpus.jsonl.gz")}
    passages = {key: Passage(key, "", text, 0.5) for key, text in texts.items()}
    rows = (line.split("\t") for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:])
    gold = {question: document for question, document, _ in rows}
    terms = {key: set(analyze(text)) for key, text in texts.items()}
    frequency = Counter(term for found in terms.values() for term in found)
    weights = {term: math.log(len(texts) / count) for term, count in frequency.items()}

    found = []
    for entry in list(read(folder / "queries.jsonl.gz"))[1::_STEP]:
        wanted, own = set(analyze(entry["text"])), gold[entry["_id"]]
        similar = sorted(
            (key for key in texts if key != own),
            key=lambda key: (-sum(weights[term] for term in wanted & terms[key]), key),
        )
        others = tuple(passages[key] for key in similar[:_OTHERS])
        found.append(Case(entry["text"], tuple(entry["answers"]), passages[own], others))
    return found


async def xquad(endpoint: ExtractiveEndpoint, folder: Path) -> dict[str, Any]:
    """Shares of the questions that are answered, answered with a gold answer, and declined without their paragraph."""
    entries = cases(folder)
    answered = contained = declined = 0
    for number, case in enumerate(entries, 1):
        among = [*case.others[:_PLACE], case.gold, *case.others[_PLACE:]]
        draft = await ask(endpoint, case.question, among)
        answered += not draft.abstained
        contained += not draft.abstained and any(answer in draft.answer for answer in case.answers)
        declined += (await ask(endpoint, case.question, case.others)).abstained
        if number % 50 == 0:
            print(f"{folder.name}: {number} of {len(entries)}", file=sys.stderr)
    return {
        "questions": len(entries),
        "answered": round(answered / len(entries), 3),
        "contained": round(contained / len(entries), 3),
        "right_if_answered": round(contained / max(answered, 1), 3),
        "declined_without": round(declined / len(entries), 3),
    }


async def measure(collections: Sequence[str]) -> dict[str, Any]:
    """All measurements by their names."""
    encoder = await OnnxCrossEncoder.load()
    try:
        endpoint = ExtractiveEndpoint(encoder, budget=None)
        figures = {name: await pairs(endpoint, pairs_of(PAIRS / f"{name}.toml")) for name in ("neighbours", "harder")}
        for name in collections:
            if (DATA / name).is_dir():
                figures[name] = await xquad(endpoint, DATA / name)
            else:
                print(f"{name} is not there: left out", file=sys.stderr)
        return figures
    finally:
        await encoder.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", action="append", help="of XQuAD (default: xquad_en)")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.collection or ["xquad_en"]))))


if __name__ == "__main__":
    main()
