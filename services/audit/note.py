"""Signed notes, checkpoints and cosignatures as C2SP specifies them (signed-note, tlog-checkpoint, tlog-cosignature). Pure.

    example.com/log            the origin, which is also the name of the log's key
    42                         the size of the tree
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=      its root
                               an empty line, then signatures: em dash, name, base64(key hash, signature)
    — example.com/log Az3grl…
    — example.com/witness 6xY3tq…

A key hash is the first four bytes of SHA-256(name, newline, algorithm, public key); the algorithm is 1 for Ed25519 and 4
for the timestamped cosignature/v1, so a log's key can never be taken for a witness's. A verifier key in text is
``name+hash in hexadecimal+base64(algorithm, public key)``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.audit.merkle import HASH_SIZE

_DASH = "\N{EM DASH} "
_NAME = re.compile(r"[^\s+]{1,255}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE_SIZE = 64
_MAX_NOTE = 64 * 1024


class NoteError(ValueError):
    """A note, a checkpoint or a key is not well-formed, or a signature is missing or wrong."""


class Algorithm(IntEnum):
    """How a key signs."""

    ED25519 = 1
    COSIGNATURE_V1 = 4


@dataclass(frozen=True)
class Verifier:
    """A public key and its name."""

    name: str
    algorithm: Algorithm
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a verifier key in text; NoteError if it is none."""
        name, _, rest = text.strip().partition("+")
        stated, _, encoded = rest.partition("+")
        key = _decode(encoded)
        if not _NAME.fullmatch(name) or len(key) != 33 or key[0] not in tuple(Algorithm):
            raise NoteError("not a verifier key: it is written NAME+HASH+KEY")
        made = cls(name, Algorithm(key[0]), key[1:])
        if stated != made.key_hash.hex():
            raise NoteError("the verifier key's hash is not that of its name and key")
        return made

    @property
    def key_hash(self) -> bytes:
        """Four bytes that signatures name the key by."""
        text = self.name.encode() + b"\n" + bytes((self.algorithm,)) + self.public_key
        return hashlib.sha256(text).digest()[:4]

    def __str__(self) -> str:
        """The verifier key in text."""
        encoded = base64.b64encode(bytes((self.algorithm,)) + self.public_key).decode()
        return f"{self.name}+{self.key_hash.hex()}+{encoded}"

    def verify(self, body: str, signature: bytes) -> int:
        """The time of a cosignature, in seconds since 1970 (0 for a plain signature); NoteError if it is wrong."""
        seconds = 0
        message = body.encode()
        if self.algorithm is Algorithm.COSIGNATURE_V1:
            if len(signature) != 8 + _SIGNATURE_SIZE:
                raise NoteError(f"the cosignature of {self.name} has a wrong length")
            seconds, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            message = _cosigned(body, seconds)
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise NoteError(f"the signature of {self.name} is wrong") from error
        return seconds


class Signer:
    """A private key and its name."""

    def __init__(self, name: str, algorithm: Algorithm, private_key: bytes) -> None:
        """``private_key`` are the 32 bytes of RFC 8032."""
        if not _NAME.fullmatch(name):
            raise NoteError("a key's name has no spaces and no plus sign")
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.verifier = Verifier(name, algorithm, self._key.public_key().public_bytes_raw())

    def sign(self, body: str, seconds: int = 0) -> str:
        """A signature line, with its newline; ``seconds`` is when a witness saw the checkpoint."""
        if self.verifier.algorithm is Algorithm.COSIGNATURE_V1:
            signature = seconds.to_bytes(8, "big") + self._key.sign(_cosigned(body, seconds))
        else:
            signature = self._key.sign(body.encode())
        encoded = base64.b64encode(self.verifier.key_hash + signature).decode()
        return f"{_DASH}{self.verifier.name} {encoded}\n"


@dataclass(frozen=True)
class Signature:
    """One line of a note."""

    name: str
    key_hash: bytes
    signature: bytes
    line: str


@dataclass(frozen=True)
class Note:
    """A text, which ends with a newline, and its signatures."""

    body: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a note apart; NoteError if it is none. Nothing is verified yet."""
        body, found, lines = text.rpartition("\n\n")
        if not found or len(text) > _MAX_NOTE or not lines.endswith("\n") or not body:
            raise NoteError("not a signed note")
        if any(not letter.isprintable() and letter != "\n" for letter in text):
            raise NoteError("a note has no control characters")
        return cls(body + "\n", tuple(_parse_line(line) for line in lines[:-1].split("\n")))

    def __str__(self) -> str:
        """The note in text."""
        return self.body + "\n" + "".join(signature.line for signature in self.signatures)

    def with_line(self, line: str) -> Note:
        """The note with one more signature, in place of an earlier one by the same key."""
        added = _parse_line(line.removesuffix("\n"))
        kept = [one for one in self.signatures if (one.name, one.key_hash) != (added.name, added.key_hash)]
        return Note(self.body, (*kept, added))

    def signed_by(self, verifier: Verifier) -> int | None:
        """When ``verifier`` signed (0 for a plain signature), None if it did not; NoteError if a signature is wrong."""
        found = [one for one in self.signatures if (one.name, one.key_hash) == (verifier.name, verifier.key_hash)]
        if len(found) > 1:
            raise NoteError(f"{verifier.name} signed twice")
        return verifier.verify(self.body, found[0].signature) if found else None


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log. ``extensions`` are further lines of its text, which this log does not write."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = field(default=())

    @classmethod
    def parse(cls, body: str) -> Self:
        """From a note's text; NoteError if it is no checkpoint."""
        lines = body.removesuffix("\n").split("\n")
        if len(lines) < 3 or not lines[0] or not _SIZE.fullmatch(lines[1]) or not all(lines):
            raise NoteError("not a checkpoint: it has an origin, a size and a root")
        root = _decode(lines[2])
        if len(root) != HASH_SIZE:
            raise NoteError("a checkpoint's root has 32 bytes")
        return cls(lines[0], int(lines[1]), root, tuple(lines[3:]))

    @property
    def body(self) -> str:
        """The text that is signed."""
        return "\n".join((self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)) + "\n"


def open_checkpoint(text: str, keys: Iterable[Verifier]) -> tuple[Note, Checkpoint]:
    """A checkpoint that one of ``keys`` signed, with the origin that the key is named after; NoteError otherwise."""
    note = Note.parse(text)
    checkpoint = Checkpoint.parse(note.body)
    for key in keys:
        if note.signed_by(key) is not None:
            if checkpoint.origin != key.name:
                raise NoteError("the checkpoint is another log's")
            return note, checkpoint
    raise NoteError("the checkpoint is not signed by the log")


def _cosigned(body: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{body}".encode()


def _parse_line(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    blob = _decode(encoded)
    if not line.startswith(_DASH) or not _NAME.fullmatch(name) or len(blob) < 5:
        raise NoteError("not a signature line")
    return Signature(name, blob[:4], blob[4:], line + "\n")


def _decode(encoded: str) -> bytes:
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("not base64") from error
    if base64.b64encode(data).decode() != encoded:  # the last letter has bits to spare
        raise NoteError("not base64 in its one spelling")
    return data
