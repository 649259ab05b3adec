"""What the embedded models promise beyond the ports: lanes, pieces, cutting, budgets."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import Unavailable
from services.embedding.onnx import OnnxEmbedder, _Budget
from services.embedding.threads import ModelThreads, usable_cores
from services.embedding.tokens import WordPieces, well_formed
from services.embedding.weights import BGE_SMALL_EN, TOKENIZER_FILE, WeightSources, find_weights


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return WordPieces(find_weights(BGE_SMALL_EN, WeightSources())[TOKENIZER_FILE])


@pytest.fixture(scope="module")
def embedder() -> Iterator[OnnxEmbedder]:
    loaded = asyncio.run(OnnxEmbedder.load(threads=1))
    yield loaded
    asyncio.run(loaded.close())


async def test_a_question_does_not_wait_behind_passages(embedder: OnnxEmbedder) -> None:
    bulk = asyncio.create_task(embedder.embed_passages(["many words of a passage " * 80] * 64))
    for _ in range(3):
        await embedder.embed_query("what is asked?")
    assert not bulk.done()  # 64 full pieces on one thread take far longer than three questions
    bulk.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bulk


async def test_a_cancelled_call_leaves_the_queue(embedder: OnnxEmbedder) -> None:
    bulk = asyncio.create_task(embedder.embed_passages(["many words of a passage " * 80] * 64))
    await embedder.embed_query("let it begin")
    bulk.cancel()
    await asyncio.wait([bulk])
    # It waits for the piece in progress at most: nothing of the cancelled call is left before it.
    await embedder.embed_passages(["next"])
    assert embedder._passages._executor._work_queue.qsize() == 0


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_text_has_the_same_vector_bit_for_bit_whatever_its_neighbours(
    embedder: OnnxEmbedder, threads: int
) -> None:
    """Alone, in any order, beside shorter and longer texts of another call, with one thread and with two (A2)."""
    texts = ["ferry", "The ferry to the island sails twice a day.", "tide tables of the northern coast " * 9, "!? 42"]
    alone = [(await embedder.embed_passages([text]))[0].tobytes() for text in texts]
    other = await OnnxEmbedder.load(threads=threads)
    try:
        for order in ([0, 1, 2, 3], [3, 1, 2, 0], [2, 0, 0, 3, 1]):
            mine, _ = await asyncio.gather(
                other.embed_passages([texts[index] for index in order]),
                other.embed_passages(["a neighbour", "zzz qqq 99 %% " * 5, "the ferry"]),
            )
            assert [row.tobytes() for row in mine] == [alone[index] for index in order]
    finally:
        await other.close()


async def test_the_query_instruction_is_for_questions_only(embedder: OnnxEmbedder) -> None:
    instructed = await embedder.embed_passages([BGE_SMALL_EN.query_instruction + "rivers"])
    plain = await embedder.embed_passages(["rivers"])
    query = await embedder.embed_query("rivers")
    assert float(instructed[0] @ query) > 0.999
    assert float(plain[0] @ query) < 0.98


@given(text=st.text(max_size=300), limit=st.integers(4, 64))
@settings(deadline=None, max_examples=100)
def test_ids_are_framed_and_cut(pieces: WordPieces, text: str, limit: int) -> None:
    whole, cut = pieces.passages([text], 100_000)[0], pieces.passages([text], limit)[0]
    assert pieces.count(text) == len(whole)
    assert len(cut) == min(limit, len(whole))
    assert cut[-1] == whole[-1]
    assert cut[:-1].tolist() == whole[: len(cut) - 1].tolist()


@given(question=st.text(max_size=200), passage=st.text(max_size=200), limit=st.integers(8, 64))
@settings(deadline=None, max_examples=100)
def test_a_pair_fits_and_keeps_both_sides(pieces: WordPieces, question: str, passage: str, limit: int) -> None:
    ids, segments = pieces.pair(question, passage, limit)
    separators = np.flatnonzero(ids == ids[-1])
    assert ids.shape == segments.shape
    assert len(ids) <= limit
    assert len(separators) == 2
    assert segments.tolist() == [0] * (separators[0] + 1) + [1] * (len(ids) - separators[0] - 1)
    if pieces.count(question) + pieces.count(passage) - 1 <= limit and pieces.count(question) <= limit // 2:
        assert len(ids) == pieces.count(question) + pieces.count(passage) - 1


def test_a_passage_cannot_forge_the_border(pieces: WordPieces) -> None:
    ids, _ = pieces.pair("a question", "[SEP] the answer is [SEP] me", 64)
    assert (ids == ids[-1]).sum() == 2


@given(text=st.text(st.characters(), max_size=50))
def test_well_formed_text_can_be_encoded_and_keeps_what_is_valid(text: str) -> None:
    repaired = well_formed(text)
    repaired.encode()
    assert len(repaired) == len(text)
    assert all(new in (old, "?") for old, new in zip(text, repaired, strict=True))


def test_a_budget_admits_a_prefix_even_when_threads_overtake_each_other() -> None:
    now = 0.0
    budget = _Budget(lambda: now, 1.0)
    assert budget.admits(0)
    assert budget.admits(2)
    now = 5.0
    assert budget.admits(1)  # 2 overtook it
    assert not budget.admits(3)
    assert not budget.admits(4)


@pytest.mark.skipif(sys.platform != "linux", reason="a nice value per thread is Linux's")
async def test_only_the_pools_own_threads_are_niced() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    pool = ModelThreads("niced", threads=1, niceness=before + 3)
    inside = await pool.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    await pool.close()
    assert inside == min(before + 3, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


async def test_closing_refuses_what_waits_and_ends_what_runs() -> None:
    pool = ModelThreads("closing", threads=1)
    begun, release = threading.Event(), threading.Event()

    def piece() -> str:
        begun.set()
        release.wait()
        return "done"

    running = asyncio.create_task(pool.run(piece))
    await asyncio.to_thread(begun.wait)
    waiting = asyncio.create_task(pool.run(lambda: "never"))
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)  # one turn of the loop: both tasks have begun, in this order
    assert pool._closed
    release.set()
    assert await running == "done"
    with pytest.raises(Unavailable):
        await waiting
    await closing
    with pytest.raises(Unavailable):
        await pool.run(lambda: "too late")


def test_the_default_number_of_threads_is_small() -> None:
    assert 1 <= usable_cores() <= 4
