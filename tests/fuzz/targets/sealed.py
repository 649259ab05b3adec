"""Sealed values: one opens at its own place alone, and whatever else is found there is refused, not misread."""

from __future__ import annotations

from services.corpus.chunk import Passage
from services.corpus.errors import DataLoss
from services.security.encryption import SealBroken, frame
from services.security.key_stores import MemoryKeyStore
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Sealer, field_of
from tests.fuzz.source import Source

_RING = Keyring(SecretMasterKey([bytes(range(32))]), MemoryKeyStore())
_SEALER = Sealer(_RING)

_NUMBERS = bytes((0, 0, 0, 7, 0, 0, 0, 1))

SEEDS = (
    b"acme\xffd\xfftext\xffplaintext\xff" + _NUMBERS,
    b"a\xff\xff1\xff" + Passage("text", 0, 4, ("A", "B"), 2).to_payload() + b"\xffx" + _NUMBERS,
    b'a\xffd\xff1\xff{"t": 1, "s": 1e999, "e": 4, "h": [], "p": 0}\xffx' + _NUMBERS,
    b"bolt\x00acme\xff\xff\xff\xff\x01\x00\x00\x00\x01\x80" + bytes(80),
)


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    version, bit = source.number(1 << 32) - (1 << 31), source.number(1 << 16)
    tenant, document_id, name, plaintext, token = (
        source.text() or "t",
        source.text(),
        source.text(),
        source.part(),
        source.part(),
    )
    field = field_of(name, document_id)
    sealed = _SEALER.seal(tenant, document_id, version, field, plaintext)
    assert _SEALER.open(tenant, document_id, version, field, sealed) == plaintext
    flipped = bytearray(sealed)
    flipped[bit // 8 % len(sealed)] ^= 1 << bit % 8
    places = [
        (tenant, document_id, version, field, bytes(flipped)),
        (tenant, document_id, version + 1, field, sealed),
        (tenant, document_id + name + "x", version, field, sealed),
        (tenant + "\0", document_id, version, field, sealed),
        (tenant, document_id, version, field_of(name + "x", document_id), sealed),
        (tenant, document_id, version, field, token),
        (tenant, document_id, version, field, sealed[: bit % len(sealed)]),
    ]
    for place in places:
        try:
            _SEALER.open(*place)
        except SealBroken:
            continue
        raise AssertionError("a value was opened that was not sealed for this place")
    assert frame(tenant, document_id) != frame(tenant + document_id)
    _check_payload(plaintext)


def _check_payload(payload: bytes) -> None:
    try:
        passage = Passage.from_payload(payload)
    except DataLoss:
        return
    assert Passage.from_payload(passage.to_payload()) == passage
