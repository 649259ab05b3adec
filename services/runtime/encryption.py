"""Opening the keys of this installation, as the settings name them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from services.corpus.errors import FailedPrecondition
from services.runtime.options import EncryptionOptions
from services.runtime.settings import environment_secret
from services.security.encryption import Checkpoints, MasterKey
from services.security.key_stores import SqliteKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Announce, Keyring
from services.security.master_key_command import CommandMasterKey, printed_master_key
from services.security.master_keys import FileMasterKey, SecretMasterKey
from services.security.sealed import Refusal, Sealer

# Seconds that something sealed under an outdated key may still be on its way into a store: a process learns of a new key
# within half a second, and a write may take a minute, and another one in a thread that outlives its call.
_SETTLE = 150.0


class Encryption:
    """The keyring of one process and what works with it."""

    def __init__(self, keyring: Keyring, store: SqliteKeyStore, on_refused: Callable[[Refusal], None]) -> None:
        self.keyring = keyring
        self.sealer = Sealer(keyring, on_refused=on_refused)
        self.terms = KeyedTerms(keyring)
        self._store = store

    @classmethod
    def open(
        cls,
        options: EncryptionOptions,
        directory: Path,
        *,
        on_refused: Callable[[Refusal], None] = lambda _: None,
        announce: Announce = lambda _: lambda _: None,
    ) -> Encryption:
        """Open, or create, the key store in ``directory``; blocking.

        ``on_refused`` is told of every refusal, ``announce`` of keys that are made.

        Raises FailedPrecondition or MasterKeyUnavailable when the master key or the directory cannot be used.
        """
        store = open_key_store(directory)
        try:
            master = open_master_key(options.master_key, directory)
            return cls(Keyring(master, store, settle=_SETTLE, announce=announce), store, on_refused)
        except BaseException:
            store.close()
            raise

    @property
    def checkpoints(self) -> Checkpoints:
        """Where long tasks keep their place."""
        return self._store

    async def close(self) -> None:
        """Release the key store."""
        self._store.close()


def open_key_store(directory: Path) -> SqliteKeyStore:
    """The key store in ``directory``, made if it is missing; FailedPrecondition, Unavailable."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteKeyStore.open(key_store_path(directory))


def key_store_path(directory: Path) -> Path:
    """The file of the key store in ``directory``."""
    return directory / "tenants.sqlite3"


def open_master_key(source: str, directory: Path) -> MasterKey:
    """The master key that ``encryption.master_key`` names; the generated one is in ``directory``."""
    kind, _, value = source.partition(":")
    match kind:
        case "env":
            return SecretMasterKey.from_text(environment_secret(value))
        case "print":
            return printed_master_key(shlex.split(value))
        case "command":
            return CommandMasterKey(shlex.split(value))
        case _:
            return FileMasterKey(Path(value)) if value else _generated(default_master_key(directory))


def default_master_key(directory: Path) -> Path:
    """The file of the master key that is generated where none is configured."""
    return directory / "master.key"


def _generated(path: Path) -> FileMasterKey:
    if not path.exists():
        try:
            return FileMasterKey.create(path)
        except FailedPrecondition:
            if not path.exists():
                raise  # not because another process was faster
    return FileMasterKey(path)
