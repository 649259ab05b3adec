"""What every DocumentParser promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing.in_process import InProcessParser
from services.ingestion.adapters.parsing.pool import SubprocessParser
from services.ingestion.parsed import MAX_CONTENT_BYTES, ChunkLimits, DocumentParser, FailureReason, ParseFailure

FIXTURES = Path(__file__).parent.parent / "fixtures" / "parsing"
LIMITS = ChunkLimits()


@pytest.fixture(params=["in-process", "subprocess"])
async def parser(request: pytest.FixtureRequest) -> AsyncIterator[DocumentParser]:
    made: DocumentParser = InProcessParser() if request.param == "in-process" else SubprocessParser(workers=2)
    yield made
    await made.close()


async def failure_of(parser: DocumentParser, content: bytes, media_type: MediaType) -> FailureReason:
    with pytest.raises(ParseFailure) as failure:
        await parser.split(content, media_type, LIMITS)
    assert failure.value.message.endswith(".")
    return failure.value.reason


async def test_a_document_becomes_passages_with_offsets_into_its_source(parser: DocumentParser) -> None:
    source = "# Früh\n\nErster Absatz.\n\n## Später\n\n" + "Ein Satz mit „Anführung“ und 𝒳. " * 100
    document = await parser.split(source.encode(), MediaType.MARKDOWN, ChunkLimits(300, 500, 50))
    assert document.title == "Früh"
    assert document.text_length == len(source)
    assert len(document.passages) > 5
    assert all(source[passage.start : passage.end] == passage.text for passage in document.passages)
    assert document.passages[-1].headings == ("Früh", "Später")


async def test_pages_and_titles_come_through(parser: DocumentParser) -> None:
    document = await parser.split((FIXTURES / "handbook.pdf").read_bytes(), MediaType.PDF, ChunkLimits(120, 200, 0))
    assert document.title == "Travel handbook"
    assert {passage.page for passage in document.passages} == {1, 2, 4}


async def test_failures_name_their_reason_and_the_next_document_is_fine(parser: DocumentParser) -> None:
    assert await failure_of(parser, b"", MediaType.TEXT) is FailureReason.EMPTY
    assert await failure_of(parser, b" \n ", MediaType.MARKDOWN) is FailureReason.EMPTY
    assert await failure_of(parser, b"a\x00b", MediaType.TEXT) is FailureReason.WRONG_ENCODING
    assert await failure_of(parser, b"%PDF-1.4 and no more", MediaType.PDF) is FailureReason.MALFORMED
    assert await failure_of(parser, b"PK\x03\x04 and no more", MediaType.DOCX) is FailureReason.MALFORMED
    assert await failure_of(parser, b"<script>x</script>", MediaType.HTML) is FailureReason.NO_TEXT
    assert await failure_of(parser, bytes(MAX_CONTENT_BYTES + 1), MediaType.TEXT) is FailureReason.TOO_LARGE
    assert (await parser.split(b"fine", MediaType.TEXT, LIMITS)).passages[0].text == "fine"


async def test_calls_may_overlap_and_answers_do_not_mix(parser: DocumentParser) -> None:
    documents = await asyncio.gather(
        *(parser.split(f"Document {i}.".encode(), MediaType.TEXT, LIMITS) for i in range(20))
    )
    assert [document.passages[0].text for document in documents] == [f"Document {i}." for i in range(20)]


async def test_a_large_document_comes_through_whole(parser: DocumentParser) -> None:
    source = "\n\n".join(f"Paragraph {i} of a long text." for i in range(20_000))
    document = await parser.split(source.encode(), MediaType.TEXT, LIMITS)
    assert sum(passage.text.count("Paragraph") for passage in document.passages) == 20_000


async def test_closing_twice_is_fine(parser: DocumentParser) -> None:
    await parser.split(b"fine", MediaType.TEXT, LIMITS)
    await parser.close()
    await parser.close()
