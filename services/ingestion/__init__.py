"""The ingestion service: documents in, searchable passages out."""
