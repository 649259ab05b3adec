"""Sealing: data encrypted under its tenant's keys, and bound to the place where it is kept.

A sealed value is, in bytes:

    0x01 · number of the data key (4, big-endian) · a Fernet token, decoded from its base64

and what the token encrypts is the SHA-256 of {the five bytes before, tenant, document, version, field} followed by
the plaintext. Fernet has no associated data, so it is this binding that keeps one row's value from being read in the
place of another's. The key's number in front makes it cheap to see what a key rotation left to do.

An overhead of about 100 bytes; a Fernet token tells the second when it was sealed and the plaintext's length to 16
bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

import structlog
from cryptography.fernet import InvalidToken

from services.security.encryption import KeysShredded, SealBroken, frame
from services.security.keyring import Keyring

_log = structlog.get_logger(__name__)
# No JSON text begins with this byte: what was stored before encryption was switched on is told apart.
_FORMAT = 1
_HEADER = 5
_BINDING = 32


class Place(NamedTuple):
    """Where in a tenant a value belongs. A value opens at its own place alone.

    Places must differ wherever values must not be swapped: what ``document_id`` and ``version`` do not tell apart (a
    collection, the ordinal of a chunk, the name of a column) belongs into ``field``; build that with :func:`field_of`.
    """

    document_id: str
    version: int
    field: str


def field_of(*parts: str | int) -> str:
    """A field's name of several parts; no two different lists of parts give the same name.

    >>> field_of("chunk", "default", 3)
    '5:chunk7:default1:3'
    """
    return "".join(f"{len(str(part))}:{part}" for part in parts)


class RefusedBecause(StrEnum):
    """Why a sealed value was refused; for the audit log, never for the caller."""

    FORMAT = "format"
    UNKNOWN_KEY = "unknown_key"
    DAMAGED = "damaged"
    """Changed since, or sealed by another tenant."""
    MOVED = "moved"
    """Sound, but sealed for another place of this tenant."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A sealed value that was refused where it was found."""

    tenant: str
    place: Place
    because: RefusedBecause


class Sealer:
    """Seals and opens values. Safe to use from several threads.

    The plain methods cost some ten microseconds per kilobyte and may block for fresh keys: call them in a worker
    thread, or use the asynchronous ones. Besides what they name, all may raise what ``Keyring.for_tenant`` raises.
    """

    def __init__(self, keyring: Keyring, *, on_refused: Callable[[Refusal], None] = lambda _: None) -> None:
        """``on_refused`` is told of every refusal, in the thread that met it; its own failure is logged."""
        self._keyring = keyring
        self._on_refused = on_refused

    def seal(self, tenant: str, document_id: str, version: int, field: str, plaintext: bytes) -> bytes:
        """Encrypt ``plaintext`` for its place."""
        keys = self._keyring.for_tenant(tenant)
        header = bytes([_FORMAT]) + keys.newest.to_bytes(_HEADER - 1, "big")
        bound = _binding(header, tenant, Place(document_id, version, field)) + plaintext
        return header + base64.urlsafe_b64decode(keys.fernet.encrypt(bound))

    def open(self, tenant: str, document_id: str, version: int, field: str, token: bytes) -> bytes:
        """The plaintext that was sealed for this place; SealBroken if ``token`` is anything else."""
        place = Place(document_id, version, field)
        because, plaintext = self._try(tenant, place, token)
        if because is not None:
            try:
                self._on_refused(Refusal(tenant, place, because))
            except Exception as error:  # noqa: BLE001 - the value is refused all the same
                _log.exception("a refusal could not be reported", exc_info=error)
            raise SealBroken
        return plaintext

    def needs_reseal(self, tenant: str, token: bytes) -> bool:
        """Whether ``token`` is not sealed under the tenant's newest key; damaged values need it too."""
        return token[:1] != bytes([_FORMAT]) or _number(token) != self._keyring.for_tenant(tenant).newest

    def reseal(self, tenant: str, document_id: str, version: int, field: str, token: bytes) -> bytes:
        """The same plaintext under the newest key; SealBroken."""
        return self.seal(tenant, document_id, version, field, self.open(tenant, document_id, version, field, token))

    async def seal_many(self, tenant: str, values: Iterable[tuple[Place, bytes]]) -> list[bytes]:
        """:meth:`seal` for many values, in a thread."""
        listed = list(values)
        return await asyncio.to_thread(lambda: [self.seal(tenant, *place, plaintext) for place, plaintext in listed])

    async def open_many(self, tenant: str, tokens: Iterable[tuple[Place, bytes]]) -> Sequence[bytes | SealBroken]:
        """:meth:`open` for many values, in a thread; one that is refused does not keep the others back."""
        listed = list(tokens)
        return await asyncio.to_thread(lambda: [self._open_or_error(tenant, place, token) for place, token in listed])

    async def is_shredded(self, tenant: str) -> bool:
        """Whether the tenant's keys were destroyed, so that nothing of it can be opened, or sealed, again."""
        try:
            await self._keyring.load(tenant)
        except KeysShredded:
            return True
        return False

    def _open_or_error(self, tenant: str, place: Place, token: bytes) -> bytes | SealBroken:
        try:
            return self.open(tenant, *place, token)
        except SealBroken as broken:
            return broken

    def _try(self, tenant: str, place: Place, token: bytes) -> tuple[RefusedBecause | None, bytes]:
        if len(token) <= _HEADER or token[0] != _FORMAT:
            return RefusedBecause.FORMAT, b""
        number = _number(token)
        keys = self._keyring.find_tenant(tenant, number=number)
        if keys is None or number not in keys.numbers:
            return RefusedBecause.UNKNOWN_KEY, b""
        try:
            bound = keys.fernet.decrypt(base64.urlsafe_b64encode(token[_HEADER:]))
        except InvalidToken:
            return RefusedBecause.DAMAGED, b""
        if not hmac.compare_digest(bound[:_BINDING], _binding(token[:_HEADER], tenant, place)):
            return RefusedBecause.MOVED, b""
        return None, bound[_BINDING:]


def _number(token: bytes) -> int:
    return int.from_bytes(token[1:_HEADER], "big")


def _binding(header: bytes, tenant: str, place: Place) -> bytes:
    parts = frame("groundwire/sealed/v1", header, tenant, place.document_id, str(place.version), place.field)
    return sha256(parts).digest()
