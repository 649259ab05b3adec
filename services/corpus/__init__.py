"""The shared nouns of the system: documents, chunks, filters, callers and errors. Pure; no I/O, no gRPC."""
