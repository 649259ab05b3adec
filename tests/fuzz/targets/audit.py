"""The audit log's texts: notes, checkpoints and keys are what they are read from; an event that is read can be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random

from google.protobuf.message import DecodeError

from groundwire.audit.v1 import audit_service_pb2 as pb
from services.audit import convert
from services.audit.event import decode, encode, escape
from services.audit.log import LoggedEvent
from services.audit.note import Checkpoint, Note, NoteError, Verifier, open_checkpoint
from services.audit.records import FIRST_CHAIN, SignedCheckpoint, read_checkpoint, read_event, write_checkpoint
from services.corpus.errors import InvalidRequest
from tests.fuzz.messages import mutate_message
from tests.fuzz.mutations import mutate as mutate_bytes
from tests.support.audit_world import LOG, WITNESS, event

_EVENT, _NOTE, _PAYLOAD, _LEAF = b"\x00", b"\x01", b"\x02", b"\x03"
_BODY = Checkpoint(LOG.verifier.name, 42, bytes(range(32))).body
_SIGNED = _BODY + "\n" + LOG.sign(_BODY) + WITNESS.sign(_BODY, 1_790_000_000)
_KEYS = (LOG.verifier, WITNESS.verifier)


def _at(seconds: int, nanos: int, duration: int) -> bytes:
    """An event with odd times."""
    message = convert.write_event(LoggedEvent(0, event(1), bytes(32))).event
    message.time.seconds, message.time.nanos = seconds, nanos
    message.duration.seconds, message.duration.nanos = duration, nanos
    return _EVENT + message.SerializeToString()


SEEDS = (
    _at(253_402_300_799, 2**31 - 1, 1),
    _at(1, -1, 1),
    _at(1, 2**31 - 1, 2**63 - 1),
    _EVENT + convert.write_event(LoggedEvent(0, event(1), bytes(32))).event.SerializeToString(),
    _NOTE + _SIGNED.encode(),
    _NOTE + str(LOG.verifier).encode(),
    _NOTE + (_BODY + "extension\n\n" + LOG.sign(_BODY + "extension\n")).encode(),
    _PAYLOAD + write_checkpoint(SignedCheckpoint(Checkpoint.parse(_BODY), Note.parse(_SIGNED), 7)),
    _LEAF + encode(event(2)),
    _LEAF + b'{"v":1,"time":"2026-05-28T20:26:40.0Z","decision":"allowed","event_id":"e","unknown":1}',
    _LEAF + b"[" * 5000,
    _LEAF + b"1",
)


def mutate(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Change an event field by field, and everything else as bytes."""
    if data.startswith(_EVENT):
        return _EVENT + mutate_message(pb.AuditEvent, data[1:], random, others, words)
    return data[:1] + mutate_bytes(data[1:], random, others, words)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [b"\x01" + run, b"\x03" + run]


def fuzz(data: bytes) -> None:
    """See the module."""
    kind, content = data[:1], data[1:]
    text = content.decode("utf-8", "replace")
    if kind == _EVENT:
        _check_event(content)
    elif kind == _LEAF:
        _check_leaf(content)
    elif kind == _PAYLOAD:
        _check_payload(content)
    else:
        _check_note(text)
    escaped = escape(text)
    assert escaped.isprintable()
    assert len(escaped) <= 600


def _check_event(content: bytes) -> None:
    try:
        read = convert.read_event(pb.AuditEvent.FromString(content))
    except (DecodeError, InvalidRequest):
        return
    leaf = encode(read)
    assert leaf.isascii()
    kept = decode(leaf)
    assert kept.time == read.time
    assert kept.event_id == read.event_id
    convert.write_event(LoggedEvent(0, kept, bytes(32)))


def _check_leaf(leaf: bytes) -> None:
    try:
        decode(leaf)
    except ValueError:
        return


def _check_payload(payload: bytes) -> None:
    try:
        signed = read_checkpoint(payload, _KEYS)
    except NoteError:
        pass
    else:
        assert write_checkpoint(signed)[8:] == payload[8:]
    with contextlib.suppress(ValueError):
        read_event(payload, FIRST_CHAIN)


def _check_note(text: str) -> None:
    for parse in (Note.parse, Checkpoint.parse):
        try:
            parsed = parse(text)
        except NoteError:
            continue
        # A note's text ends with a newline, which Checkpoint.parse does not ask for.
        assert (parsed.body if isinstance(parsed, Checkpoint) else str(parsed)) == text.removesuffix("\n") + "\n"
    try:
        note, checkpoint = open_checkpoint(text, _KEYS)
    except NoteError:
        pass
    else:
        assert checkpoint.body == note.body == _BODY or "extension" in text
        note.with_line(note.signatures[0].line)
    with contextlib.suppress(NoteError):
        assert str(Verifier.parse(text)) == text.strip()
