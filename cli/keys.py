"""``groundwire keys generate|list|shred``: master keys are made, tenants' keys are shown and destroyed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from cli.errors import CliError, ExitCode, usage
from cli.file_errors import refuse_obstacle
from cli.on_record import on_record
from cli.output import Format, Screen
from cli.tables import fitted_table
from cli.text import plural
from services.catalog.sql import SqlCatalog
from services.corpus.cleaning import cleaned
from services.corpus.errors import GroundwireError, Unavailable
from services.runtime.encryption import default_master_key, key_store_path, open_key_store, open_master_key
from services.runtime.settings import ConfigurationError, Settings
from services.security.encryption import KeyRecord, MasterKey, Purpose
from services.security.key_stores import SqliteKeyStore
from services.security.keyring import Keyring
from services.security.master_keys import FileMasterKey, NoMasterKey, SecretMasterKey, generate_key

_FAR_AWAY = (
    "Keep it away from the data and from the data's backups: whoever has both can read everything, "
    "and without it nobody can."
)


@contextmanager
def explained() -> Iterator[None]:
    """Domain errors as errors for people."""
    try:
        yield
    except ConfigurationError as error:
        first, *more = str(error).splitlines()
        raise usage(first, *more) from error
    except Unavailable as error:
        raise CliError(error.message, code=ExitCode.UNAVAILABLE) from error
    except GroundwireError as error:
        raise CliError(error.message) from error


@contextmanager
def existing_key_store(settings: Settings) -> Iterator[SqliteKeyStore]:
    """The key store of a data directory that has one."""
    refuse_obstacle(settings.data_dir)
    if not key_store_path(settings.keys_dir).exists():
        raise CliError(
            f"there are no keys under {settings.keys_dir}: nothing was stored yet, or --data-dir names another place"
        )
    with explained():
        store = open_key_store(settings.keys_dir)
        try:
            yield store
        finally:
            store.close()


def no_such_tenant(tenant: str) -> CliError:
    """The tenant has no keys."""
    return CliError(f"tenant {cleaned(tenant)} has no keys; `groundwire keys list` shows those that have")


# --- generate -------------------------------------------------------------------------------------------------------


def print_key() -> None:
    """A new master key on stdout, alone, so that it can go straight to where it is kept."""
    print(generate_key())
    if not sys.stdout.isatty():
        return
    print(f'Set a variable to it and encryption.master_key = "env:VARIABLE". {_FAR_AWAY}', file=sys.stderr)


def generate(screen: Screen, settings: Settings, file: Path | None) -> None:
    """A new master key in ``file``, or in the one that the settings name."""
    path = (file or _file_of(settings)).absolute()
    with on_record(settings, "keys generate", f"master-keys/{path.name}"), explained():
        made = FileMasterKey.create(path)
    screen.text(f"{path}: master key {made.key_id}")
    screen.text(f'encryption.master_key = "file:{path}"')
    screen.note(_FAR_AWAY)


def _file_of(settings: Settings) -> Path:
    kind, _, value = settings.encryption.master_key.partition(":")
    if kind != "file":
        raise usage(f"the settings take the master key from {kind}: name a FILE, or use --print")
    return Path(value) if value else default_master_key(settings.keys_dir)


# --- list -----------------------------------------------------------------------------------------------------------


def show(screen: Screen, settings: Settings) -> None:
    """Every tenant, and the master keys at hand."""
    refuse_obstacle(settings.data_dir)
    records: list[KeyRecord] = []
    if key_store_path(settings.keys_dir).exists():
        with existing_key_store(settings) as store:
            records = list(Keyring(NoMasterKey(), store).list_tenants())
    at_hand = _master_key_ids(screen, settings) if records else ()
    if screen.format is Format.JSON:
        screen.json({"master_key_ids": list(at_hand), "tenants": [_document(record) for record in records]})
    elif screen.format is Format.TEXT:
        screen.text(*(f"master key\t{key_id}" for key_id in at_hand))
        screen.text(*("tenant\t" + "\t".join(_cells(record)) for record in records))
    else:
        heads = ("Tenant", "State", "Data keys", "Newest", "Wrapped by master key")
        rows: list[list[str | Text]] = []
        for record in records:
            tenant, state, *more = _cells(record)
            rows.append([tenant, Text(state, style="green" if record.shred_time is None else "red"), *more])
        screen.table(fitted_table(heads, rows, screen.out.width, yielding=("Tenant", "Wrapped by master key")))
        screen.note(f"Master keys at hand, the one that wraps first: {', '.join(map(cleaned, at_hand)) or 'none'}")
    if not records:
        screen.note("no tenant has keys yet: they are made with the first document")


def _master_key_ids(screen: Screen, settings: Settings) -> tuple[str, ...]:
    try:
        with explained():
            return key_ids(open_master_key(settings.encryption.master_key, settings.keys_dir))
    except CliError as error:
        screen.note(f"note: the master key is not at hand: {error.message}")
        return ()


def key_ids(master: MasterKey) -> tuple[str, ...]:
    """The ids of the keys at hand, the one that wraps first; a KMS names that one alone."""
    return master.key_ids if isinstance(master, FileMasterKey | SecretMasterKey) else (master.key_id,)


def _document(record: KeyRecord) -> dict[str, Any]:
    return {
        "tenant": record.tenant,
        "state": _state(record),
        "shred_time": None if record.shred_time is None else _iso(record.shred_time),
        "keys": [
            {
                "purpose": key.purpose.value,
                "number": key.number,
                "create_time": _iso(key.create_time),
                "master_key_id": key.master_key_id,
            }
            for key in record.keys
        ],
    }


def _cells(record: KeyRecord) -> list[str]:
    data = record.of(Purpose.DATA)
    newest = record.shred_time if record.shred_time is not None else data[-1].create_time if data else None
    masters = sorted({key.master_key_id for key in record.keys})
    numbers = ", ".join(str(key.number) for key in data)
    return [
        cleaned(record.tenant),
        _state(record),
        numbers or "-",
        "-" if newest is None else _iso(newest),
        cleaned(", ".join(masters)) or "-",
    ]


def _state(record: KeyRecord) -> str:
    return "active" if record.shred_time is None else "shredded"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


# --- shred ----------------------------------------------------------------------------------------------------------


async def shred(screen: Screen, settings: Settings, tenant: str, *, confirmed: str | None) -> None:
    """Destroy a tenant's keys, once its name was typed again."""
    with existing_key_store(settings) as store:
        # No master key is needed: destroying works when it is lost, too.
        keyring = Keyring(NoMasterKey(), store)
        record = await asyncio.to_thread(store.get, tenant)
        if record is None:
            raise no_such_tenant(tenant)
        if record.shred_time is None:
            screen.note(await _what_is_lost(settings, tenant), style="bold yellow")
            _confirm(screen, tenant, confirmed)
        with on_record(settings, "keys shred", f"tenants/{tenant}/keys", tenant=tenant):
            receipt = await asyncio.to_thread(keyring.shred, tenant)
    masters = sorted(receipt.master_key_ids)
    if screen.format is Format.JSON:
        screen.json(
            {
                "tenant": receipt.tenant,
                "shred_time": _iso(receipt.shred_time),
                "keys_destroyed": receipt.keys_destroyed,
                "master_key_ids": masters,
            }
        )
    else:
        screen.say(
            f"tenant {cleaned(receipt.tenant)}: shredded {_iso(receipt.shred_time)}, "
            f"{plural(receipt.keys_destroyed, 'key')} destroyed"
        )
    if masters:
        screen.note(
            "Copies of the keys directory from before can still be opened with "
            f"{'master key' if len(masters) == 1 else 'the master keys'} {cleaned(', '.join(masters))}: delete those "
            "copies, or run `groundwire keys rotate --master` and then `groundwire keys rotate --master --retire`."
        )


async def _what_is_lost(settings: Settings, tenant: str) -> str:
    size = "everything"
    if settings.catalog_path.exists():
        catalog = await SqlCatalog.open_sqlite(settings.catalog_path)
        try:
            documents, chunks = await catalog.tenant_size(tenant)
        finally:
            await catalog.close()
        size = f"{plural(documents, 'document')} in {plural(chunks, 'passage')}"
    return (
        f"This destroys all keys of tenant {cleaned(tenant)}, for good. Unreadable from then on, here and in every backup "
        f"of the data: {size}, with texts, titles, URIs, metadata and search words. Nothing new can be taken in for it. "
        "What was never encrypted stays: vectors, ids, readers and sizes."
    )


def _confirm(screen: Screen, tenant: str, confirmed: str | None) -> None:
    if confirmed is None:
        if not sys.stdin.isatty():
            raise usage(f"nobody can be asked here; to go on, name the tenant once more: --yes {cleaned(tenant)}")
        screen.err.print("Type the tenant's name to go on: ", end="")
        confirmed = sys.stdin.readline().rstrip("\n")
    if confirmed != tenant:
        raise usage("that is not the tenant's name; nothing was destroyed")
