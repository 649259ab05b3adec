"""The Witness port with the witness in the same process; for tests."""

from __future__ import annotations

from collections.abc import Sequence

from services.audit.witness.witness import CheckpointWitness
from services.corpus.errors import Unavailable


class LocalWitness:
    """Asks ``witness`` directly; ``away`` makes it unreachable."""

    def __init__(self, witness: CheckpointWitness) -> None:
        self.witness = witness
        self.away = False

    async def cosign(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """See the port."""
        if self.away:
            raise Unavailable("the witness does not answer")
        return self.witness.cosign(old_size, proof, note)[0]

    async def close(self) -> None:
        """See the port."""
