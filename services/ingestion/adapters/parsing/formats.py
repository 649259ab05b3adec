"""From bytes of any known format to passages: the whole work on one document, synchronous and pure."""

from __future__ import annotations

from collections.abc import Callable

from services.corpus.document import MediaType
from services.ingestion.chunking import split_into_passages
from services.ingestion.parsed import (
    MAX_CONTENT_BYTES,
    ChunkLimits,
    FailureReason,
    ParsedDocument,
    ParseFailure,
    SplitDocument,
)


def _parser(media_type: MediaType) -> Callable[[bytes], ParsedDocument]:
    # Imported when first needed: a worker that reads only Markdown starts faster and stays smaller without the rest.
    match media_type:
        case MediaType.TEXT:
            from services.ingestion.adapters.parsing.text import parse_text as parse  # noqa: PLC0415
        case MediaType.MARKDOWN:
            from services.ingestion.adapters.parsing.markdown import parse_markdown as parse  # noqa: PLC0415
        case MediaType.HTML:
            from services.ingestion.adapters.parsing.html import parse_html as parse  # noqa: PLC0415
        case MediaType.PDF:
            from services.ingestion.adapters.parsing.pdf import parse_pdf as parse  # noqa: PLC0415
        case MediaType.DOCX:
            from services.ingestion.adapters.parsing.docx import parse_docx as parse  # noqa: PLC0415
    return parse


def check_size(content: bytes) -> None:
    """Raise EMPTY or TOO_LARGE for content that no parser needs to look at."""
    if not content:
        raise ParseFailure(FailureReason.EMPTY, "The document is empty; send a file that has content.")
    if len(content) > MAX_CONTENT_BYTES:
        raise ParseFailure(
            FailureReason.TOO_LARGE,
            f"The document is larger than {MAX_CONTENT_BYTES // 1024**2} MiB; split it into smaller documents.",
        )


def parse(content: bytes, media_type: MediaType) -> ParsedDocument:
    """Parse one document. Raises ParseFailure and nothing else."""
    check_size(content)
    try:
        return _parser(media_type)(content)
    except ParseFailure:
        raise
    except MemoryError:
        raise too_much_memory() from None
    except Exception as error:
        raise crashed(type(error).__name__) from error


def split(content: bytes, media_type: MediaType, limits: ChunkLimits) -> SplitDocument:
    """Parse and chunk one document. Raises ParseFailure and nothing else."""
    parsed = parse(content, media_type)
    try:
        return split_into_passages(parsed, limits)
    except MemoryError:
        raise too_much_memory() from None
    except Exception as error:
        raise crashed(type(error).__name__) from error


def too_much_memory() -> ParseFailure:
    """The failure of a document that needs more memory than a parser may use."""
    return ParseFailure(
        FailureReason.RESOURCE_LIMIT,
        "Reading the document needs more memory than is allowed; split it, or save it again with smaller content.",
    )


def crashed(detail: str) -> ParseFailure:
    """The failure of a document that brought its parser down."""
    return ParseFailure(
        FailureReason.PARSER_CRASHED,
        "The document could not be read because its parser failed; save it again in its program, or as another format.",
        detail=detail,
    )
