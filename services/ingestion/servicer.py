"""IngestionService on the wire."""

from __future__ import annotations

import time
from collections.abc import Callable

from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from interceptors import current
from interceptors._shapes import Context
from services.corpus.principal import Caller
from services.ingestion import convert
from services.ingestion.erasure import Erasures
from services.ingestion.ingestion import Ingestor
from services.ingestion.library import Library
from services.runtime import paging, wire
from services.runtime.auditing.record import current_record
from services.runtime.unbuilt import unbuilt

# Seconds of the caller's time that are kept for the answer; a third of it when it is short.
_TO_ANSWER = 1.0


class IngestionServicer(rpc.IngestionServiceServicer):
    """Translates and delegates."""

    CreateIngestionJob = unbuilt
    GetIngestionJob = unbuilt
    ListIngestionJobs = unbuilt
    WatchIngestionJob = unbuilt
    CancelIngestionJob = unbuilt
    RetryFailedDocuments = unbuilt
    ListDeadLetters = unbuilt
    UploadDocument = unbuilt
    DeleteCollection = unbuilt

    def __init__(
        self, ingestor: Ingestor, library: Library, erasures: Erasures, caller_of: Callable[[], Caller]
    ) -> None:
        self._ingestor = ingestor
        self._library = library
        self._erasures = erasures
        self._caller_of = caller_of

    async def IngestDocuments(self, request: pb.IngestDocumentsRequest, context: Context) -> pb.IngestDocumentsResponse:
        """See the contract."""
        started = time.monotonic()
        caller = self._caller_of()
        batch = convert.read_batch(request)
        current_record().resource = f"collections/{batch.collection}"
        collection = await self._library.collection(caller, batch.collection)
        outcomes = await self._ingestor.ingest(caller, collection, batch.drafts, patience=_patience())
        return convert.write_batch_result(batch, outcomes, time.monotonic() - started)

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> pb.GetDocumentResponse:
        """See the contract."""
        collection, document_id = convert.read_document_name(request)
        record = current_record()
        record.resource = f"collections/{collection}/documents/{document_id}"
        document = await self._library.document(self._caller_of(), collection, document_id)
        record.document_ids = [document_id]
        return pb.GetDocumentResponse(document=wire.write_document(document))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """See the contract."""
        page = convert.read_listing(request)
        found = await self._library.list_documents(
            self._caller_of(), page.collection, filter_=page.filter_, after=page.after, limit=page.limit
        )
        token = paging.write_token(found[-1].document_id, *page.scope) if len(found) == page.limit else ""
        return pb.ListDocumentsResponse(documents=map(wire.write_document, found), next_page_token=token)

    async def UpdateDocumentAccess(
        self, request: pb.UpdateDocumentAccessRequest, context: Context
    ) -> pb.UpdateDocumentAccessResponse:
        """See the contract."""
        collection, document_id, access = convert.read_access_change(request)
        current_record().resource = f"collections/{collection}/documents/{document_id}"
        document = await self._library.update_access(self._caller_of(), collection, document_id, access)
        return pb.UpdateDocumentAccessResponse(document=wire.write_document(document))

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Context) -> pb.DeleteDocumentResponse:
        """See the contract."""
        collection, document_id = convert.read_document_name(request)
        current_record().resource = f"collections/{collection}/documents/{document_id}"
        erasure = await self._erasures.delete(self._caller_of(), collection, document_id, patience=_patience())
        return pb.DeleteDocumentResponse(receipt=convert.write_receipt(erasure))

    async def GetErasureReceipt(
        self, request: pb.GetErasureReceiptRequest, context: Context
    ) -> pb.GetErasureReceiptResponse:
        """See the contract."""
        erasure = await self._erasures.receipt(self._caller_of(), convert.read_receipt_id(request))
        return pb.GetErasureReceiptResponse(receipt=convert.write_receipt(erasure))

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """See the contract."""
        name, default_access, retention_days = convert.read_new_collection(request)
        current_record().resource = f"collections/{name}"
        made = await self._library.create_collection(self._caller_of(), name, default_access, retention_days)
        return pb.CreateCollectionResponse(collection=convert.write_collection(made))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """See the contract."""
        found = await self._library.collection(self._caller_of(), convert.read_collection_name(request))
        return pb.GetCollectionResponse(collection=convert.write_collection(found))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """See the contract."""
        after, limit = convert.read_collection_page(request)
        found = await self._library.list_collections(self._caller_of(), after=after, limit=limit)
        token = paging.write_token(found[-1].name, "collections") if len(found) == limit else ""
        return pb.ListCollectionsResponse(collections=map(convert.write_collection, found), next_page_token=token)

    async def UpdateCollection(
        self, request: pb.UpdateCollectionRequest, context: Context
    ) -> pb.UpdateCollectionResponse:
        """See the contract."""
        name, changes = convert.read_collection_changes(request)
        current_record().resource = f"collections/{name}"
        changed = await self._library.update_collection(self._caller_of(), name, changes)
        return pb.UpdateCollectionResponse(collection=convert.write_collection(changed))


def _patience() -> float | None:
    """How long a call's work may take, so that there is still time to say what became of it."""
    remaining = current.remaining()
    return None if remaining is None else remaining - min(_TO_ANSWER, remaining / 3)
