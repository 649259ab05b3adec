"""The catalog's tables. Times are whole microseconds since the epoch, UTC; lists and maps are JSON text."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from services.corpus.principal import MAX_PRINCIPAL

tables = MetaData()
# Grows when older releases would misread a file. A table of which they know nothing is no reason: opening makes it.
FORMAT = 1

# SQLite gives numbers to INTEGER keys alone; elsewhere they are 64 bits wide.
_Number = BigInteger().with_variant(Integer, "sqlite")

catalog_format = Table(
    "catalog_format",
    tables,
    Column("format", Integer, primary_key=True, autoincrement=False),
)

collections = Table(
    "collections",
    tables,
    Column("tenant", String(128), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("embedding_model", String(256), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("default_readers", Text, nullable=True),
    Column("retention_days", Integer, nullable=True),
    Column("create_time", BigInteger, nullable=False),
)

reader_sets = Table(
    "reader_sets",
    tables,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("tenant", String(128), nullable=False),
    # SHA-256 over the sorted principals: finding an existing set is one look-up.
    Column("digest", String(64), nullable=False),
    UniqueConstraint("tenant", "digest"),
)

reader_set_members = Table(
    "reader_set_members",
    tables,
    Column("number", _Number, ForeignKey("reader_sets.number"), primary_key=True),
    Column("principal", String(MAX_PRINCIPAL), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Index("reader_set_members_by_principal", "tenant", "principal"),
)

# Kept apart from documents, so that a number that was planned is never given out again.
version_counters = Table(
    "version_counters",
    tables,
    Column("tenant", String(128), primary_key=True),
    Column("collection", String(128), primary_key=True),
    Column("document_id", String(128), primary_key=True),
    Column("last_version", BigInteger, nullable=False),
    # Versions up to this one were planned before a deletion and must not bring the document back.
    Column("void_until", BigInteger, nullable=False, default=0),
)

documents = Table(
    "documents",
    tables,
    Column("tenant", String(128), primary_key=True),
    Column("collection", String(128), primary_key=True),
    Column("document_id", String(128), primary_key=True),
    Column("version", BigInteger, nullable=False),
    # Title, URI and metadata: what could tell of the contents, sealed as one.
    Column("details", LargeBinary, nullable=False),
    Column("media_type", String(128), nullable=False),
    Column("reader_set", _Number, ForeignKey("reader_sets.number"), nullable=False),
    Column("owner", String(MAX_PRINCIPAL), nullable=False),
    Column("state", String(16), nullable=False),
    Column("content_sha256", String(64), nullable=False),
    Column("chunk_count", Integer, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Index("documents_by_reader_set", "tenant", "collection", "reader_set"),
)

# What was deleted, and how far that has come. It outlives the documents, and holds nothing of their contents.
erasures = Table(
    "erasures",
    tables,
    Column("receipt_id", String(32), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("collection", String(128), nullable=False),
    Column("document_id", String(128), nullable=False),
    Column("owner", String(MAX_PRINCIPAL), nullable=False),
    Column("before_version", BigInteger, nullable=False),
    Column("unsettled", Boolean, nullable=False),
    Column("block_time", BigInteger, nullable=False),
    # For each place: its name, how many items were removed, how many remain, and when it was done.
    Column("steps", Text, nullable=False),
    Column("complete_time", BigInteger, nullable=True),
    Index("erasures_by_document", "tenant", "collection", "document_id"),
    Index("erasures_by_complete_time", "complete_time", "receipt_id"),
)
