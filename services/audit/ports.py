"""What the audit log needs from outside: somebody else's signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.corpus.errors import FailedPrecondition


class CheckpointRefused(FailedPrecondition):
    """The witness will not sign: ``witnessed_size`` is the size of the tree that it saw last."""

    def __init__(self, message: str, witnessed_size: int) -> None:
        super().__init__(message, metadata={"witnessed_size": str(witnessed_size)})
        self.witnessed_size = witnessed_size


class Witness(Protocol):
    """Signs checkpoints that are consistent with the last one that it saw."""

    async def cosign(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """A cosignature line. Raises CheckpointRefused, or Unavailable when the witness does not answer."""

    async def close(self) -> None:
        """Release the connection."""
