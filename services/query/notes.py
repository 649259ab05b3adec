"""What the audit log keeps of an answer: who was shown which documents, and a hash of what they were told."""

from __future__ import annotations

from hashlib import sha256

from services.query.query import Answer, Retrieved, Step
from services.runtime.auditing.record import current_record


def note(step: Step) -> None:
    """Note a step, before it leaves, in the record of the call."""
    record = current_record()
    if isinstance(step, Answer):
        record.model_endpoint = step.endpoint
        record.answer_sha256 = sha256(step.text.encode()).digest()
    if isinstance(step, Answer | Retrieved):
        passages = [source.passage for source in step.sources]
        record.document_ids = [*record.document_ids, *(passage.document_id for passage in passages)]
        record.chunk_ids = [*record.chunk_ids, *(passage.chunk_id for passage in passages)]
