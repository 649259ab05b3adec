"""The signing key of a log or a witness: made at the first start, for its owner alone; its public half beside it.

A key's name is also the log's origin. It ends in random letters, because two logs must never share one.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.note import Algorithm, NoteError, Signer, Verifier
from services.corpus.errors import FailedPrecondition
from services.security.key_files import ensure_private_directory, read_private, replace_private

PUBLIC = "verifier-key"
_HEADER = "PRIVATE+KEY+"


def load_signer(path: Path, algorithm: Algorithm, role: str, *, fresh: bool) -> Signer:
    """The key in ``path``, made if it is missing and all is ``fresh``; its verifier key is (re)written beside it.

    FailedPrecondition if it is not private, not a key, or missing although it has signed before.
    """
    ensure_private_directory(path.parent)
    if not path.exists():
        if not fresh:
            raise FailedPrecondition(
                f"the signing key {path.name!r} is missing: put it back, or start a new log elsewhere"
            )
        name = f"groundwire.local/{role}/{secrets.token_hex(4)}"
        key = Ed25519PrivateKey.generate().private_bytes_raw().hex()
        replace_private(path, f"{_HEADER}{name}+{algorithm.value}+{key}\n".encode())
    content, _ = read_private(path)
    try:
        name, stated, key = content.decode().strip().removeprefix(_HEADER).split("+")
        signer = Signer(name, Algorithm(int(stated)), bytes.fromhex(key))
    except (ValueError, NoteError):
        raise FailedPrecondition(f"{path.name!r} is not a signing key") from None
    if signer.verifier.algorithm is not algorithm:
        raise FailedPrecondition(
            f"{path.name!r} is the key of a {'log' if algorithm is not Algorithm.ED25519 else 'witness'}"
        )
    public = path.with_name(PUBLIC)
    if not public.exists() or public.read_text() != f"{signer.verifier}\n":
        public.write_text(f"{signer.verifier}\n")
        public.chmod(0o644)
    return signer


def read_verifier(text: str, path: Path) -> Verifier | None:
    """The verifier key that a setting gives, or else the one in ``path``; None if there is none yet."""
    if not text:
        try:
            text = path.read_text()
        except OSError:
            return None
    return Verifier.parse(text)
