"""What the two journals of a log hold: events with their chain, and checkpoints. Pure.

events/       payload = chain (32 bytes), leaf;    chain = SHA-256(chain before, leaf hash), beginning with zeros
checkpoints/  payload = time (microseconds since 1970, 8 bytes), signed note; a checkpoint that was cosigned
              afterwards is there once more, with the cosignature
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.audit.merkle import HASH_SIZE, hash_leaf
from services.audit.note import Checkpoint, Note, NoteError, Verifier, open_checkpoint

EVENTS = "events"
CHECKPOINTS = "checkpoints"
FIRST_CHAIN = bytes(HASH_SIZE)


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint as it was recorded. ``time`` is in microseconds since 1970."""

    checkpoint: Checkpoint
    note: Note
    time: int


def extend_chain(chain: bytes, leaf_hash: bytes) -> bytes:
    """The chain behind one more leaf."""
    return hashlib.sha256(chain + leaf_hash).digest()


def read_event(payload: bytes, chain: bytes) -> tuple[bytes, bytes, bytes]:
    """The leaf, its hash and the chain behind it; ValueError if the chain is broken."""
    stated, leaf = payload[:HASH_SIZE], payload[HASH_SIZE:]
    leaf_hash = hash_leaf(leaf)
    if extend_chain(chain, leaf_hash) != stated:
        raise ValueError("the hash chain is broken")
    return leaf, leaf_hash, stated


def write_checkpoint(signed: SignedCheckpoint) -> bytes:
    """A checkpoint's payload."""
    return signed.time.to_bytes(8, "big") + str(signed.note).encode()


def read_checkpoint(payload: bytes, keys: tuple[Verifier, ...]) -> SignedCheckpoint:
    """A checkpoint that is signed by one of the log's ``keys``; NoteError otherwise."""
    try:
        text = payload[8:].decode()
    except UnicodeDecodeError as error:
        raise NoteError("not a signed note") from error
    note, checkpoint = open_checkpoint(text, keys)
    return SignedCheckpoint(checkpoint, note, int.from_bytes(payload[:8], "big"))
