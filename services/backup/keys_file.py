"""Keys, in a file of their own: never in the backup of the data.

A tar with the tenants' keys (wrapped by the master key, which is not in it), the signing keys of the audit log and its
witness, the secret that queries are hashed with where encryption is off, and a list of hashes. Whoever has this file, a
backup of the data and the master key can read everything; with the signing keys they can sign a log, but no witness that
is somebody else's will sign it with them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from services.backup.databases import copy_database
from services.backup.folder import sync_directory
from services.corpus.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from services.runtime.encryption import key_store_path
from services.security.key_files import ensure_private_directory, replace_private
from services.security.key_stores import SqliteKeyStore
from services.security.keyring import Keyring
from services.security.master_keys import NoMasterKey

FORMAT = 1
TENANTS = "tenants.sqlite3"
QUERY_SECRET = "audit.key"  # noqa: S105 - a file's name
LOG_KEY = "audit-signing-key"
WITNESS_KEY = "witness-signing-key"
_LIST = "keys.json"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class KeyPlaces:
    """Where keys are: a file for each of the tar's members."""

    keys_dir: Path
    log_key: Path
    witness_key: Path

    @property
    def files(self) -> Mapping[str, Path]:
        """The members' names, and where each belongs."""
        return {
            TENANTS: key_store_path(self.keys_dir),
            QUERY_SECRET: self.keys_dir / QUERY_SECRET,
            LOG_KEY: self.log_key,
            WITNESS_KEY: self.witness_key,
        }


def back_up_keys(places: KeyPlaces, target: Path, *, time: str) -> Sequence[str]:
    """Write the keys to ``target``, which must not exist; which they are. Blocking.

    NotFound if there are none, AlreadyExists.
    """
    if target.exists():
        raise AlreadyExists(f"{target} exists already; nothing is ever overwritten: name another file")
    contents: dict[str, bytes] = {}
    for name, path in places.files.items():
        if path.is_file():
            contents[name] = _database(path) if name == TENANTS else path.read_bytes()
    if not contents:
        raise NotFound(f"there are no keys under {places.keys_dir}: nothing was stored yet, or it is another place")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    described = json.dumps({"format": FORMAT, "time": time, "sha256": hashes}, indent=1).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.incomplete")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, data in {_LIST: described, **contents}.items():
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = len(data), 0o600
                    tar.addfile(member, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)
    return tuple(contents)


def read_keys(source: Path) -> dict[str, bytes]:
    """The members by name; NotFound, FailedPrecondition, and DataLoss if one is damaged or missing. Blocking."""
    try:
        with tarfile.open(source, mode="r:") as tar:
            found = {member.name: _read(tar, member) for member in tar.getmembers()}
        described = json.loads(found.pop(_LIST))
        stated, hashes = described["format"], dict(described["sha256"])
    except FileNotFoundError as error:
        raise NotFound(f"{source}: there is no such file") from error
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"{source} is no backup of keys, or it is damaged") from error
    if stated != FORMAT:
        raise FailedPrecondition(f"{source} has format {stated}, this release reads format {FORMAT}")
    if {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} != hashes:
        raise DataLoss(f"{source} is damaged")
    return found


def restore_keys(contents: Mapping[str, bytes], places: KeyPlaces, *, shredded: Sequence[str] = ()) -> Sequence[str]:
    """Put keys where they belong; then destroy those of tenants that are known to be ``shredded``.

    Whose keys these were (a copy from before the shredding brought them back). Blocking.
    """
    for name, path in places.files.items():
        if name in contents:
            ensure_private_directory(path.parent)
            replace_private(path, contents[name])
    if TENANTS not in contents:
        return ()
    store = SqliteKeyStore.open(places.files[TENANTS])
    try:
        keyring = Keyring(NoMasterKey(), store)
        again = [
            record.tenant
            for record in keyring.list_tenants()
            if record.tenant in shredded and record.shred_time is None
        ]
        for tenant in again:
            keyring.shred(tenant)
    finally:
        store.close()
    return again


def _database(path: Path) -> bytes:
    with TemporaryDirectory(dir=path.parent) as directory:
        copy = Path(directory) / path.name
        copy_database(path, copy)
        return copy.read_bytes()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None or member.size > _MOST_BYTES:
        raise ValueError(member.name)
    return file.read()
