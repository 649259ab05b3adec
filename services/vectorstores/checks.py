"""Validation that every store applies to what it is given, so that all adapters refuse the same things."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.corpus.errors import FailedPrecondition, Violations
from services.vectorstores.ports import StoredChunk, Vector

_UNIT_TOLERANCE = 1e-3
_LARGEST_INTEGER = 2**63 - 1


def check_chunks(chunks: Sequence[StoredChunk], dimension: int | None) -> int:
    """Check chunks on their way into a partition and return the dimension of their vectors.

    ``dimension`` is the partition's, None while it has none. Raises FailedPrecondition when vectors do not fit
    it (or each other), InvalidRequest naming every wrong field otherwise. ``chunks`` must not be empty.
    """
    violations = Violations()
    for i, chunk in enumerate(chunks):
        path = f"chunks[{i}]"
        violations.require(_is_text(chunk.chunk_id), f"{path}.chunk_id", "must be non-empty valid text")
        violations.require(_is_text(chunk.document_id), f"{path}.document_id", "must be non-empty valid text")
        violations.require(all(map(_is_utf8, chunk.terms)), f"{path}.terms", "must be valid text")
        for name, number in (("version", chunk.version), ("ordinal", chunk.ordinal), ("reader_set", chunk.reader_set)):
            violations.require(0 <= number <= _LARGEST_INTEGER, f"{path}.{name}", "must be between 0 and 2^63 - 1")
        violations.require(chunk.vector.ndim == 1 and chunk.vector.size > 0, f"{path}.vector", "must be a vector")
    violations.raise_if_any()

    expected = dimension if dimension is not None else chunks[0].vector.shape[0]
    for chunk in chunks:
        _check_dimension(chunk.vector.shape[0], expected)

    norms = np.linalg.norm(np.stack([chunk.vector for chunk in chunks]).astype(np.float64), axis=1)
    # A comparison with NaN or infinity is False, so this refuses vectors that are not finite as well.
    unit = np.abs(norms - 1.0) <= _UNIT_TOLERANCE
    for i in np.flatnonzero(~unit).tolist():
        violations.add(f"chunks[{i}].vector", "must be finite and of unit length")
    violations.raise_if_any()
    return expected


def check_query_vector(vector: Vector, dimension: int) -> None:
    """Raise FailedPrecondition when ``vector`` does not fit a partition's dimension, InvalidRequest if not finite."""
    violations = Violations()
    violations.require(vector.ndim == 1 and bool(np.isfinite(vector).all()), "vector", "must be a finite vector")
    violations.raise_if_any()
    _check_dimension(vector.shape[0], dimension)


def dimension_mismatch() -> FailedPrecondition:
    """The error for vectors that do not fit a collection, naming the remedy."""
    return FailedPrecondition(
        "the vectors' dimension does not fit this collection, whose embedding model is another one; "
        "run `groundwire reindex` to move the collection to the new model"
    )


def _check_dimension(actual: int, expected: int) -> None:
    if actual != expected:
        raise dimension_mismatch()


def _is_text(text: str) -> bool:
    return text != "" and _is_utf8(text)


def _is_utf8(text: str) -> bool:
    # A lone surrogate is a str in Python and an error in every engine.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
