"""RetrievalService's messages: every wrong field is named, and nothing of a result is lost."""

from __future__ import annotations

import pytest

from groundwire.common.v1 import filter_pb2
from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from services.corpus.chunk import Passage
from services.corpus.coverage import Coverage, Notice, StoreCoverage, StoreState
from services.corpus.errors import InvalidRequest
from services.corpus.filter import Equals
from services.retrieval import convert
from services.retrieval.request import RerankMode, RetrievalMode, RetrieveQuery
from services.retrieval.result import (
    ChunkKey,
    Reference,
    RetrievedPassage,
    RetrieveResult,
    StageScores,
    StageTimings,
    StoreStatus,
)


def violated(message: pb.RetrieveRequest) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        convert.read_request(message)
    return [violation.field for violation in caught.value.violations]


def test_defaults() -> None:
    assert convert.read_request(pb.RetrieveRequest(query="x")) == RetrieveQuery("x")


def test_everything() -> None:
    wanted = filter_pb2.Filter(
        equals=filter_pb2.Comparison(key="lang", value=filter_pb2.MetadataValue(string_value="en"))
    )
    message = pb.RetrieveRequest(
        query="x",
        filter=wanted,
        collections=["a", "b"],
        top_k=100,
        mode=pb.RETRIEVAL_MODE_LEXICAL,
        rerank=pb.RERANK_MODE_OFF,
        stores=["s"],
    )
    assert convert.read_request(message) == RetrieveQuery(
        query="x",
        filter_=Equals("lang", "en"),
        collections=("a", "b"),
        top_k=100,
        mode=RetrievalMode.LEXICAL,
        rerank=RerankMode.OFF,
        stores=("s",),
    )


def test_every_mode_of_the_contract_is_understood() -> None:
    for mode in pb.RetrievalMode.values():
        convert.read_request(pb.RetrieveRequest(query="x", mode=mode))
    for rerank in pb.RerankMode.values():
        convert.read_request(pb.RetrieveRequest(query="x", rerank=rerank))


def test_all_wrong_fields_are_named_at_once() -> None:
    message = pb.RetrieveRequest(
        query=" ",
        filter=filter_pb2.Filter(),
        collections=["ok", "", "no spaces"],
        top_k=101,
        stores=["s"] * 65,
    )
    # proto3 enums are open: an unknown number arrives as it was sent.
    message.MergeFromString(pb.RetrieveRequest(query=" ").SerializeToString() + b"\x28\x63\x30\x63")
    assert violated(message) == [
        "query",
        "filter",
        "collections[1]",
        "collections[2]",
        "top_k",
        "mode",
        "rerank",
        "stores",
    ]


@pytest.mark.parametrize("query", ["", "\n\t ", "a\0b", "x" * 4097])
def test_queries_that_are_refused(query: str) -> None:
    assert violated(pb.RetrieveRequest(query=query)) == ["query"]


def test_the_longest_query() -> None:
    assert convert.read_request(pb.RetrieveRequest(query="é" * 4096)).query == "é" * 4096


@pytest.mark.parametrize("top_k", [-1, 101])
def test_top_k_out_of_range(top_k: int) -> None:
    assert violated(pb.RetrieveRequest(query="x", top_k=top_k)) == ["top_k"]


def test_too_many_collections() -> None:
    assert violated(pb.RetrieveRequest(query="x", collections=["a"] * 17)) == ["collections"]


def test_results() -> None:
    passage = RetrievedPassage(
        key=ChunkKey("d#2.0", "c", "d", 2),
        title="T",
        uri="u",
        passage=Passage("text", 5, 9, ("H1", "H2"), 3),
        score=0.75,
        scores=StageScores(dense=0.0, fused=0.75),
        stores=("s1", "s2"),
    )
    result = RetrieveResult(
        passages=(passage,),
        coverage=Coverage((StoreCoverage("s1", StoreState.TIMED_OUT, 3, 0.25, "no answer in time"),)),
        timings=StageTimings(0.001, 0.002, 0.003, 0.004, 0.5),
        notices=(Notice("RERANK_SKIPPED", "why"),),
    )
    response = convert.write_result(result)
    chunk = response.chunks[0]
    assert (chunk.chunk.chunk_id, chunk.chunk.collection, chunk.chunk.document_id) == ("d#2.0", "c", "d")
    assert (chunk.chunk.version, chunk.chunk.title, chunk.chunk.uri, chunk.chunk.text) == (2, "T", "u", "text")
    assert (chunk.chunk.start_offset, chunk.chunk.end_offset, chunk.chunk.page) == (5, 9, 3)
    assert (list(chunk.chunk.headings), list(chunk.stores), chunk.score) == (["H1", "H2"], ["s1", "s2"], 0.75)
    # A score of zero is a score; a stage that did not see the chunk has none.
    assert chunk.scores.HasField("dense")
    assert chunk.scores.HasField("fused")
    assert not chunk.scores.HasField("lexical")
    assert not chunk.scores.HasField("rerank")
    assert response.coverage.degraded
    assert response.coverage.stores[0].reason == "no answer in time"
    assert response.timings.total.nanos == 500_000_000
    assert [(warning.code, warning.message) for warning in response.warnings] == [("RERANK_SKIPPED", "why")]


def test_statuses() -> None:
    status = StoreStatus(
        "s", "memory", dense=True, healthy=False, breaker="open", chunk_count=4, error="why", in_flight=2
    )
    (store,) = convert.write_statuses([status]).stores
    assert (store.name, store.engine, store.dense, store.lexical) == ("s", "memory", True, False)
    assert (store.healthy, store.breaker, store.chunk_count, store.error_message) == (False, "open", 4, "why")
    assert store.in_flight == 2


def test_sources_to_check_are_read_and_written() -> None:
    sources = [
        pb.SourceReference(collection="default", document_id="b", version=2),
        pb.SourceReference(collection="default", document_id="a", version=1),
    ]
    references = convert.read_references(pb.CheckSourcesRequest(sources=sources))
    assert references == (Reference("default", "b", 2), Reference("default", "a", 1))
    assert list(convert.write_references(frozenset(references)).readable) == sources[::-1]
    assert convert.read_references(pb.CheckSourcesRequest()) == ()


def test_every_wrong_source_is_named() -> None:
    good = pb.SourceReference(collection="default", document_id="a", version=1)
    with pytest.raises(InvalidRequest) as caught:
        convert.read_references(pb.CheckSourcesRequest(sources=[good, pb.SourceReference(version=-1)]))
    assert [violation.field for violation in caught.value.violations] == [
        "sources[1].collection",
        "sources[1].document_id",
        "sources[1].version",
    ]
    with pytest.raises(InvalidRequest) as caught:
        convert.read_references(pb.CheckSourcesRequest(sources=[good] * 101))
    assert [violation.field for violation in caught.value.violations] == ["sources"]
