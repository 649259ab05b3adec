"""A client in one file, with nothing but grpcio and the generated stubs.

    export GROUNDWIRE_TOKEN=$(groundwire token)
    python examples/client.py [HOST]        # HOST is localhost unless given; `groundwire up` must be running

It takes a document in, waits until it is searchable, and asks a question that only this document answers. Copy it:
the stubs under generated/ come with the `groundwire` distribution (`from groundwire.query.v1 import …`).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

import grpc

from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2, ingestion_service_pb2_grpc
from groundwire.query.v1 import query_service_pb2, query_service_pb2_grpc

# gRPC would send even calls to this machine through the http_proxy of the environment.
OPTIONS = [("grpc.enable_http_proxy", 0)]
DOCUMENT = """# Night bus

The night bus N7 leaves the north gate of the Maasvlakte terminal at 23:40 and at 00:50.
Employees ride for free when they show their badge.
"""


def authorization(token: str) -> tuple[tuple[str, str], ...]:
    """The header that carries ``token``; exits where it is none (RFC 6750): gRPC would say "Invalid metadata"."""
    if not re.fullmatch(r"[A-Za-z0-9\-._~+/=]*", token):
        print("GROUNDWIRE_TOKEN is not one token: export GROUNDWIRE_TOKEN=$(groundwire token)", file=sys.stderr)
        sys.exit(2)
    return (("authorization", f"Bearer {token}"),) if token else ()


def main(host: str) -> int:
    """Ingest, ask, print; return the process's exit code."""
    ingestion_port = os.environ.get("INGESTION_PORT", "50051")
    query_port = os.environ.get("QUERY_PORT", "50050")
    metadata = authorization(os.environ.get("GROUNDWIRE_TOKEN", "").strip())

    with grpc.insecure_channel(f"{host}:{ingestion_port}", options=OPTIONS) as channel:
        ingestion = ingestion_service_pb2_grpc.IngestionServiceStub(channel)
        taken = ingestion.IngestDocuments(
            ingestion_service_pb2.IngestDocumentsRequest(
                documents=[
                    ingestion_service_pb2.DocumentInput(
                        document_id="night-bus",
                        media_type="text/markdown",
                        content=DOCUMENT.encode(),
                        access=core_pb2.Access(readers=["tenant:*"]),
                    )
                ]
            ),
            timeout=60,
            metadata=metadata,
        )
        for result in taken.results:
            if result.failure_reason:
                print(f"not taken in: {result.failure_message}", file=sys.stderr)
                return 1
            print(f"{result.document_id}: version {result.version}, {result.chunks} chunk(s)")

    with grpc.insecure_channel(f"{host}:{query_port}", options=OPTIONS) as channel:
        query = query_service_pb2_grpc.QueryServiceStub(channel)
        request = query_service_pb2.QueryRequest(query="When does the night bus leave the north gate?")
        shown = ""
        for event in query.StreamQuery(request, timeout=30, metadata=metadata):
            kind = event.WhichOneof("event")
            if kind == "delta":
                shown += event.delta.text
            elif kind == "reset":  # another endpoint starts over: drop what was shown
                shown = ""
            elif kind == "final":
                # Applying deltas and resets in order always ends with exactly the final answer.
                if shown != event.final.answer:
                    print("the deltas do not add up to the answer", file=sys.stderr)
                    return 1
                print(f"\n{event.final.answer}\n")
                for source in event.final.sources:
                    if source.cited:
                        print(f"  {source.marker} {source.title} (version {source.version}): {source.snippet}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take a document in, and ask a question that it answers.")
    parser.add_argument("host", nargs="?", default="localhost", help="where `groundwire up` runs (default: localhost)")
    try:
        sys.exit(main(parser.parse_args().host))
    except grpc.RpcError as error:
        call: Any = error  # what a stub raises is a grpc.Call, too: it has a code and details
        hints = {
            grpc.StatusCode.UNAUTHENTICATED: "GROUNDWIRE_TOKEN is not set, or its token is not accepted: "
            "export GROUNDWIRE_TOKEN=$(groundwire token), with the data directory or the settings of the services",
            grpc.StatusCode.UNAVAILABLE: "is `groundwire up` running there?",
        }
        hint = f" ({hints[call.code()]})" if call.code() in hints else ""
        print(f"{call.code().name}: {call.details()}{hint}", file=sys.stderr)
        sys.exit(3)
