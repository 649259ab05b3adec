"""Opening the keys of this installation, as the settings name them."""

from __future__ import annotations

import shlex
from pathlib import Path

from services.corpus.errors import FailedPrecondition
from services.runtime.settings import EncryptionOptions, environment_secret
from services.security.encryption import MasterKey
from services.security.key_stores import SqliteKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_key_command import CommandMasterKey, printed_master_key
from services.security.master_keys import FileMasterKey, SecretMasterKey
from services.security.sealed import Sealer


class Encryption:
    """The keyring of one process and what works with it."""

    def __init__(self, keyring: Keyring, store: SqliteKeyStore) -> None:
        self.keyring = keyring
        self.sealer = Sealer(keyring)
        self.terms = KeyedTerms(keyring)
        self._store = store

    @classmethod
    def open(cls, options: EncryptionOptions, directory: Path) -> Encryption:
        """Open, or create, the key store in ``directory``; blocking.

        Raises FailedPrecondition or MasterKeyUnavailable when the master key or the directory cannot be used.
        """
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = SqliteKeyStore.open(directory / "tenants.sqlite3")
        return cls(Keyring(_master_key(options.master_key, directory), store), store)

    async def close(self) -> None:
        """Release the key store."""
        self._store.close()


def _master_key(source: str, directory: Path) -> MasterKey:
    kind, _, value = source.partition(":")
    match kind:
        case "env":
            return SecretMasterKey.from_text(environment_secret(value))
        case "print":
            return printed_master_key(shlex.split(value))
        case "command":
            return CommandMasterKey(shlex.split(value))
        case _:
            return FileMasterKey(Path(value)) if value else _generated(directory / "master.key")


def _generated(path: Path) -> FileMasterKey:
    if not path.exists():
        try:
            return FileMasterKey.create(path)
        except FailedPrecondition:
            if not path.exists():
                raise  # not because another process was faster
    return FileMasterKey(path)
