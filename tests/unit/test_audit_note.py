"""Signed notes, checkpoints and cosignatures: the published example, and everything that must not pass."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.note import Algorithm, Checkpoint, Note, NoteError, Signer, Verifier, open_checkpoint

# The example of golang.org/x/mod/sumdb/note, which the specification took its format from.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
QUOTE = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
LOG = Signer("example.com/log", Algorithm.ED25519, bytes(range(32)))
WITNESS = Signer("example.com/witness", Algorithm.COSIGNATURE_V1, bytes(range(32)))
CHECKPOINT = Checkpoint("example.com/log", 42, bytes(range(32)))


def signed(checkpoint: Checkpoint = CHECKPOINT, signer: Signer = LOG) -> Note:
    return Note(checkpoint.body, ()).with_line(signer.sign(checkpoint.body))


def test_the_published_example() -> None:
    verifier = Verifier.parse(PETER)
    assert str(verifier) == PETER
    note = Note.parse(f"{QUOTE}\n{SIGNED}")
    assert note.signed_by(verifier) == 0
    assert str(note) == f"{QUOTE}\n{SIGNED}"
    signer = Signer("PeterNeumann", Algorithm.ED25519, base64.b64decode(PETER_SECRET)[1:])
    assert signer.verifier == verifier
    assert signer.sign(QUOTE) == SIGNED


def test_a_checkpoint_is_three_lines() -> None:
    assert CHECKPOINT.body == "example.com/log\n42\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert Checkpoint.parse(CHECKPOINT.body) == CHECKPOINT
    extended = Checkpoint.parse(CHECKPOINT.body + "more\n")
    assert (extended.extensions, extended.body) == (("more",), CHECKPOINT.body + "more\n")


def test_a_cosignature_has_a_time_and_a_key_of_its_own() -> None:
    assert WITNESS.verifier.public_key == LOG.verifier.public_key
    assert WITNESS.verifier.key_hash != LOG.verifier.key_hash
    note = signed().with_line(WITNESS.sign(CHECKPOINT.body, 1_700_000_000))
    assert note.signed_by(WITNESS.verifier) == 1_700_000_000
    assert note.signed_by(LOG.verifier) == 0
    blob = base64.b64decode(str(note).rstrip("\n").rpartition(" ")[2])
    assert (blob[:4], blob[4:12], len(blob)) == (WITNESS.verifier.key_hash, (1_700_000_000).to_bytes(8, "big"), 76)
    # What is signed is the specification's text.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    message = f"cosignature/v1\ntime 1700000000\n{CHECKPOINT.body}".encode()
    Ed25519PublicKey.from_public_bytes(WITNESS.verifier.public_key).verify(blob[12:], message)


def test_a_later_cosignature_replaces_an_earlier_one() -> None:
    note = signed().with_line(WITNESS.sign(CHECKPOINT.body, 1)).with_line(WITNESS.sign(CHECKPOINT.body, 2))
    assert note.signed_by(WITNESS.verifier) == 2
    assert len(note.signatures) == 2


def test_a_checkpoint_is_its_logs() -> None:
    note, checkpoint = open_checkpoint(str(signed()), [LOG.verifier])
    assert (str(note), checkpoint) == (str(signed()), CHECKPOINT)
    other = Signer("example.com/other", Algorithm.ED25519, bytes(32))
    for text, match in (
        (str(signed(signer=other)), "not signed"),
        (str(signed(Checkpoint("example.com/third", 1, bytes(32)))), "another log"),
        (str(Note(CHECKPOINT.body, ()).with_line(WITNESS.sign(CHECKPOINT.body, 1))), "not signed"),
        (str(signed()).replace("\n42\n", "\n43\n"), "wrong"),
    ):
        with pytest.raises(NoteError, match=match):
            open_checkpoint(text, [LOG.verifier])


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_note_passes(place: int, change: int) -> None:
    data = bytearray(str(signed().with_line(WITNESS.sign(CHECKPOINT.body, 7))).encode())
    data[place % len(data)] ^= change
    try:
        note, checkpoint = open_checkpoint(data.decode(), [LOG.verifier])
        cosigned = note.signed_by(WITNESS.verifier)
    except (NoteError, UnicodeDecodeError):
        return
    # The one harmless change: the other key's name, which makes its line a stranger's.
    assert checkpoint == CHECKPOINT
    assert cosigned in (None, 7)
    assert str(note).startswith(str(signed()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a\n\n",
        f"{QUOTE}\n",
        f"{QUOTE}{SIGNED}",
        f"{QUOTE}\n{SIGNED[:-1]}",
        f"{QUOTE}\n{SIGNED}x",
        f"{QUOTE}\n- {SIGNED[2:]}",
        f"\n\n{SIGNED}",
        f"\x1b[2J{QUOTE}\n{SIGNED}",
        f"{QUOTE}\n{SIGNED}{'x' * 70_000}",
    ],
)
def test_what_is_no_note(text: str) -> None:
    with pytest.raises(NoteError):
        Note.parse(text)


@pytest.mark.parametrize(
    "body",
    ["a\n1\n", "a\n01\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "a\n1\nAAAA\n", "\n1\nAAAA\n", "a\n-1\nAAAA\n"],
)
def test_what_is_no_checkpoint(body: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(body)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+00000000+", PETER.replace("c74f", "c74e"), PETER[:-1], PETER.replace("Peter", "Pe ter"), "x+y+z"],
)
def test_what_is_no_verifier_key(text: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(text)


def test_two_signatures_of_one_key_are_wrong() -> None:
    note = signed()
    with pytest.raises(NoteError, match="twice"):
        Note(note.body, note.signatures * 2).signed_by(LOG.verifier)
    with pytest.raises(NoteError, match="spaces"):
        Signer("a b", Algorithm.ED25519, bytes(32))
