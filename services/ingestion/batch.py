"""The documents of a batch: as they were sent, how they are known, and what became of each. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from services.corpus.errors import FieldViolation
from services.corpus.filter import Metadata
from services.corpus.principal import Access, Caller


class Failure(Enum):
    """Why a document was not taken in, beside what parsing may say (``services.ingestion.parsed.FailureReason``)."""

    TOO_LARGE = "too_large"
    INVALID_FIELD = "invalid_field"
    EMBEDDER_UNAVAILABLE = "embedder_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    PERMISSION_DENIED = "permission_denied"
    INTERNAL = "internal"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True)
class Draft:
    """A document as it was sent. ``violations`` are fields that were found wrong before the domain saw it."""

    content: bytes
    document_id: str = ""
    title: str = ""
    uri: str = ""
    media_type: str = ""
    metadata: Metadata = field(default_factory=dict)
    access: Access | None = None
    violations: tuple[FieldViolation, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one document. ``reason`` is a ParseFailure's reason or a Failure's value, None if all is well."""

    index: int
    document_id: str
    version: int = 0
    chunks: int = 0
    unchanged: bool = False
    reason: str | None = None
    message: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retryable: bool = False


@dataclass(frozen=True)
class Identified:
    """A draft with its place in the batch, the SHA-256 of its contents and the id that it goes by."""

    index: int
    draft: Draft
    digest: str
    document_id: str


def identify(caller: Caller, drafts: Sequence[Draft]) -> list[Identified]:
    """Drafts with their digests and ids; CPU-bound.

    Contents without an id are known by their digest and by who takes them in, so that an id that is taken never
    tells that somebody else holds the same file.
    """
    # The length keeps ("a", "b:c") apart from ("a:b", "c").
    owner = f"{len(caller.tenant)}:{caller.tenant}\0{caller.subject}\0".encode("utf-8", "surrogatepass")
    identified = []
    for index, draft in enumerate(drafts):
        document_id, digest = draft.document_id, ""
        if draft.content:
            digest = hashlib.sha256(draft.content).hexdigest()
            document_id = document_id or f"doc-{hashlib.sha256(owner + bytes.fromhex(digest)).hexdigest()[:32]}"
        identified.append(Identified(index, draft, digest, document_id))
    return identified


def not_reached(sent: Identified) -> Outcome:
    """The outcome of a document that the call's time did not suffice for."""
    return Outcome(
        sent.index,
        sent.document_id,
        reason=Failure.NOT_REACHED.value,
        message="The call's time ran out before this document was taken in; send it again.",
        retryable=True,
    )
