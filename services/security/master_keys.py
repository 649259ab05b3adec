"""Master keys held by Groundwire itself: as a value (environment, memory) or in a file.

A master key is 32 random bytes, written as base64 (``openssl rand -base64 32`` makes one). Where several are given,
the first wraps and all unwrap, as in MultiFernet. Wrapping is AES-256-GCM with the context as associated data.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.corpus.errors import FailedPrecondition
from services.security.encryption import KeysDamaged, MasterKey, MasterKeyMissing, MasterKeyUnavailable, frame
from services.security.key_files import only_writer, read_private, replace_private

KEY_BYTES = 32
_AES_GCM = 1
_NONCE_BYTES = 12
_FILE_HEADER = "# Groundwire master keys: the first wraps, all unwrap. Whoever reads this file reads everything.\n"


def pack(kind: int, key_id: str, body: bytes) -> bytes:
    """A wrapped key under a header that says how, and by which key, it was wrapped."""
    name = key_id.encode()
    return bytes([kind, len(name)]) + name + body


def unpack(kind: int, wrapped: bytes) -> tuple[str, bytes]:
    """Undo :func:`pack`; MasterKeyMissing if it was wrapped in another way, KeysDamaged if the header is damaged."""
    if len(wrapped) < 2:
        raise KeysDamaged
    if wrapped[0] != kind:
        raise MasterKeyMissing
    end = 2 + wrapped[1]
    try:
        return wrapped[2:end].decode(), wrapped[end:]
    except UnicodeDecodeError:
        raise KeysDamaged from None


def encode_context(context: Mapping[str, str]) -> bytes:
    """The one byte string of a context, whatever the order of its entries."""
    return frame(*(part for entry in sorted(context.items()) for part in entry))


def generate_key() -> str:
    """A new master key in its written form."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def parse_keys(text: str) -> list[bytes]:
    """Read keys separated by white space or commas; lines that start with # are comments.

    Raises FailedPrecondition, without a byte of the text, unless each is the base64 of 32 bytes that look random.
    """
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    words = " ".join(lines).replace(",", " ").split()
    if not words:
        raise FailedPrecondition("there is no master key; make one with `groundwire keys generate`")
    return [_parse_key(word) for word in words]


def _parse_key(word: str) -> bytes:
    try:
        key = base64.b64decode(word.translate(str.maketrans("-_", "+/")), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    # Words of eight different bytes at most are a placeholder or a mistake: 32 random bytes never look like that.
    if len(key) != KEY_BYTES or len(set(key)) <= 8:
        raise FailedPrecondition("a master key must be the base64 of 32 random bytes")
    return key


class SecretMasterKey:
    """Master keys whose bytes are at hand. Implements the MasterKey port; the first key wraps, all unwrap."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise FailedPrecondition("a master key must be 32 bytes long")
        # The bytes that an operator holds serve for nothing directly: the id, which is public, and the key that
        # encrypts are derived from them apart.
        named = [(_derive(key, b"id", 8).hex(), AESGCM(_derive(key, b"wrap", KEY_BYTES))) for key in keys]
        self._key_id = named[0][0]
        self._ciphers = dict(named)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._ciphers)}>"

    def __reduce__(self) -> str:
        raise TypeError("key material is not pickled")

    @classmethod
    def from_text(cls, text: str) -> SecretMasterKey:
        """Of the value of a setting, see :func:`parse_keys`."""
        return cls(parse_keys(text))

    @classmethod
    def generate(cls) -> SecretMasterKey:
        """A fresh key that dies with the process."""
        return cls([secrets.token_bytes(KEY_BYTES)])

    @property
    def key_id(self) -> str:
        """See the port."""
        return self._key_id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All keys at hand, the one that wraps first."""
        return tuple(self._ciphers)

    def wrap(self, data_key: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        nonce = os.urandom(_NONCE_BYTES)
        bound = frame("groundwire/wrapped-key/v1", self._key_id, encode_context(context))
        return pack(_AES_GCM, self._key_id, nonce + self._ciphers[self._key_id].encrypt(nonce, data_key, bound))

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        key_id, body = unpack(_AES_GCM, wrapped)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise MasterKeyMissing
        bound = frame("groundwire/wrapped-key/v1", key_id, encode_context(context))
        try:
            return cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], bound)
        except (InvalidTag, ValueError):
            raise KeysDamaged from None


class FileMasterKey:
    """Master keys in a file of mode 0600, one a line, newest first. Implements the MasterKey port.

    The file is read again whenever it changed, so a rotation reaches running processes with their next use of the
    key. Keep it away from the key store and from both their backups: who has both has everything.
    """

    def __init__(self, path: Path) -> None:
        """Raises FailedPrecondition if others can read the file or its keys are malformed, MasterKeyUnavailable."""
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._keys: SecretMasterKey
        self._current()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._keys.key_ids)}>"

    @classmethod
    def create(cls, path: Path) -> FileMasterKey:
        """Make the file with a fresh key; FailedPrecondition if there is one already."""
        with _changing(path):
            if path.exists():
                raise FailedPrecondition("there is a master key already; rotate it instead")
            _write_keys(path, [generate_key()])
        return cls(path)

    @property
    def key_id(self) -> str:
        """See the port."""
        return self._current().key_id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All keys in the file, the one that wraps first."""
        return self._current().key_ids

    def wrap(self, data_key: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        return self._current().wrap(data_key, context)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        return self._current().unwrap(wrapped, context)

    def add_key(self) -> str:
        """Put a fresh key first, durably, and return its id; ``Keyring.rewrap_all`` is the second half of a rotation."""
        with _changing(self._path):
            _write_keys(self._path, [generate_key(), *self._written()])
        return self.key_id

    def forget(self, key_id: str) -> None:
        """Destroy an older key: nothing that it wrapped can be read again, in backups of the key store neither.

        FailedPrecondition for the key that wraps, or an unknown one. First see in ``Keyring.list_tenants`` that no
        record is wrapped by it any more.
        """
        with _changing(self._path):
            written = self._written()
            kept = [word for word in written if SecretMasterKey.from_text(word).key_id != key_id]
            if len(kept) == len(written) or kept[:1] != written[:1]:
                raise FailedPrecondition("only an older key of the file can be destroyed")
            _write_keys(self._path, kept)

    def _written(self) -> list[str]:
        try:
            content, _ = read_private(self._path)
        except OSError:
            raise MasterKeyUnavailable from None
        return [base64.b64encode(key).decode() for key in parse_keys(content.decode("ascii", "replace"))]

    def _current(self) -> SecretMasterKey:
        with self._lock:
            try:
                if _signature(self._path.stat()) != self._seen:
                    content, status = read_private(self._path)
                    self._keys = SecretMasterKey.from_text(content.decode("ascii", "replace"))
                    self._seen = _signature(status)
            except OSError:
                raise MasterKeyUnavailable from None
            return self._keys


class MasterKeyChain:
    """Moves from one master key to another: the first wraps, each may unwrap. Implements the MasterKey port."""

    def __init__(self, first: MasterKey, *older: MasterKey) -> None:
        self._all = (first, *older)

    @property
    def key_id(self) -> str:
        """See the port."""
        return self._all[0].key_id

    def wrap(self, data_key: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        return self._all[0].wrap(data_key, context)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        for master in self._all:
            try:
                return master.unwrap(wrapped, context)
            except MasterKeyMissing:
                continue
        raise MasterKeyMissing


class NoMasterKey:
    """For work that needs none, such as listing and shredding. Implements the MasterKey port; every use fails."""

    @property
    def key_id(self) -> str:
        """See the port."""
        raise MasterKeyUnavailable

    def wrap(self, data_key: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        del data_key, context
        raise MasterKeyUnavailable

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        del wrapped, context
        raise MasterKeyUnavailable


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_mode & 0o022:
            raise FailedPrecondition("the directory of the master key must not be writable for others")
        if path.is_symlink():
            raise FailedPrecondition("the master key file is a symbolic link; change it where it comes from")
        with only_writer(path):
            yield
    except OSError:
        raise FailedPrecondition("the master key file cannot be written") from None


def _derive(key: bytes, label: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=b"groundwire/master-key/v1/" + label).derive(key)


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode


def _write_keys(path: Path, words: Iterable[str]) -> None:
    replace_private(path, (_FILE_HEADER + "".join(f"{word}\n" for word in words)).encode())
