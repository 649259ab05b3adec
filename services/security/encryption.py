"""Encryption at rest: its nouns, its errors and the ports it stands on.

    plaintext ── Sealer ── a data key of the tenant ──── wrapped by the master key ── file, value, command or KMS
                           a root key of the tenant ──┘  (``KeyStore`` keeps only wrapped keys)
                             └─ HKDF ── the key of lexical terms, the key of query hashes

A tenant has one or more *data keys* (the newest seals, all of them open) and one or more *root keys*, from which
the keys of deterministic hashes are derived. They rotate apart: a new data key leaves every hash in an index as it
was, a new root key asks for a re-index.

What shredding a tenant achieves, and what a backup must look like for it: see :meth:`Keyring.shred
<services.security.keyring.Keyring.shred>`.

    DataLoss
    ├── SealBroken             sealed data is damaged, or is not where it was sealed for
    └── KeysDamaged            a wrapped key does not verify
    FailedPrecondition
    ├── KeysDestroyed
    │   └── KeysShredded       the tenant's keys were destroyed, for good
    └── MasterKeyMissing       the key was wrapped by a master key that is not at hand
    Unavailable
    └── MasterKeyUnavailable   the holder of the master key did not answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from services.corpus.errors import DataLoss, FailedPrecondition, KeysDestroyed, Unavailable


class SealBroken(DataLoss):
    """Sealed data cannot be opened for the place it was found at. One message, whatever was wrong."""

    def __init__(self) -> None:
        super().__init__("stored data does not verify")


class KeysDamaged(DataLoss):
    """A wrapped key is damaged, or was wrapped for another tenant or use."""

    def __init__(self) -> None:
        super().__init__("a stored encryption key does not verify")


class KeysShredded(KeysDestroyed):
    """The tenant's keys were destroyed. There is no remedy: that was the purpose."""

    def __init__(self) -> None:
        super().__init__("the encryption keys of this tenant were destroyed; what they protected cannot be read again")


class MasterKeyMissing(FailedPrecondition):
    """A key was wrapped by a master key that this process does not hold."""

    def __init__(self) -> None:
        super().__init__(
            "an encryption key was wrapped by a master key that is not configured; configure that master key too"
        )


class MasterKeyUnavailable(Unavailable):
    """The file, command or service that holds the master key did not answer."""

    def __init__(self, message: str = "the master key cannot be read now") -> None:
        super().__init__(message, retry_after=5.0)


class Purpose(StrEnum):
    """What a tenant's key is for."""

    DATA = "data"
    """Seals and opens (Fernet)."""
    ROOT = "root"
    """Derives the keys of deterministic hashes (HKDF)."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One key of a tenant as it is kept.

    ``number`` counts a tenant's keys of one purpose from 1 and is never used twice. ``create_time`` is in seconds
    since the epoch. ``master_key_id`` names the master key that wrapped it.
    """

    purpose: Purpose
    number: int
    create_time: float
    master_key_id: str
    wrapped: bytes = field(repr=False)

    def context(self, tenant: str) -> dict[str, str]:
        """What the wrapping is bound to: no wrapped key passes for another tenant's, or for one of another use."""
        return {"tenant": tenant, "purpose": self.purpose.value, "number": str(self.number)}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All keys of one tenant, oldest first; ``generation`` grows by one with every change.

    A record with a ``shred_time`` (seconds since the epoch) is a tombstone: it has no keys and never changes again.
    """

    tenant: str
    generation: int
    keys: tuple[WrappedKey, ...] = ()
    shred_time: float | None = None

    def of(self, purpose: Purpose) -> tuple[WrappedKey, ...]:
        """The keys of one purpose, oldest first."""
        return tuple(key for key in self.keys if key.purpose is purpose)

    def with_keys(self, purpose: Purpose, keys: Sequence[WrappedKey]) -> KeyRecord:
        """The record with ``keys`` in the place of its keys of one purpose."""
        others = (key for key in self.keys if key.purpose is not purpose)
        return replace(self, keys=tuple(sorted((*others, *keys), key=lambda key: (key.purpose.value, key.number))))


@dataclass(frozen=True, slots=True)
class ShredReceipt:
    """What a shredding destroyed. Times are seconds since the epoch.

    Copies of the key store from before ``shred_time`` can still be opened with the master keys ``master_key_ids``,
    until those are destroyed as well.
    """

    tenant: str
    shred_time: float
    keys_destroyed: int
    master_key_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class RewrapProgress:
    """How far :meth:`Keyring.rewrap_all <services.security.keyring.Keyring.rewrap_all>` came: tenants looked at in this pass, and re-wrapped altogether."""

    checked: int
    rewrapped: int


class MasterKey(Protocol):
    """The key that wraps tenants' keys: the hook for a key management service.

    Methods may block (a file, a process, a network): call them from a worker thread. ``wrap`` and ``unwrap`` are
    authenticated together with ``context``; unwrapping with another context fails.
    """

    @property
    def key_id(self) -> str:
        """The id of the key that wraps now; MasterKeyUnavailable."""

    def wrap(self, data_key: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a tenant's key; MasterKeyUnavailable."""

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what :meth:`wrap` returned, under this or an older key.

        Raises KeysDamaged (damage, or another context), MasterKeyMissing or MasterKeyUnavailable.
        """


class KeyStore(Protocol):
    """Keeps wrapped keys. Methods block and are safe to call from several threads.

    Several processes may share one store; changes are atomic and durable when a call returns. Methods may raise
    Unavailable (safe to repeat) and DataLoss (the store itself is damaged).
    """

    def get(self, tenant: str) -> KeyRecord | None:
        """The tenant's record as it is now, or None if it never had one."""

    def replace(self, record: KeyRecord, *, expected: int) -> bool:
        """Put ``record`` in the place of the one whose generation is ``expected`` (0: of none).

        False, and nothing changes, if another generation is there or if the tenant was shredded. Wrapped keys that
        ``record`` no longer has are overwritten in the store's files. A tombstone also removes the tenant's
        checkpoints.
        """

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Tenants with a record (tombstones too) in order of their code points, those after ``after``."""

    def close(self) -> None:
        """Release files."""


class Checkpoints(Protocol):
    """Remembers how far a long task came, per tenant and task. Same blocking, threads and errors as KeyStore."""

    def load_checkpoint(self, tenant: str, task: str) -> str | None:
        """What was saved last, or None."""

    def save_checkpoint(self, tenant: str, task: str, state: str | None) -> None:
        """Replace what was saved; None removes it."""


def frame(*parts: str | bytes) -> bytes:
    """Join parts so that no two different lists of parts give the same bytes: each stands after its length."""
    encoded = (part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts)
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
