"""What backups and restores tell: tables of what they hold, and what is left to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cli.errors import ExitCode
from cli.output import Format, Screen
from cli.tables import fitted_table
from cli.text import plural
from cli.text import size as as_size
from services.backup.backup import known_keys
from services.backup.journals import AUDIT, SPOOL, WITNESS, Log
from services.backup.keys_file import LOG_KEY, QUERY_SECRET, TENANTS, WITNESS_KEY
from services.backup.manifest import Manifest
from services.backup.restore import ENDED, LogFate, Outcome
from services.corpus.cleaning import cleaned
from services.runtime.encryption import default_master_key
from services.runtime.settings import Settings

_NAMES = {
    TENANTS: "the tenants' keys, wrapped by the master key",
    QUERY_SECRET: "the secret of the queries' hashes",
    LOG_KEY: "the audit log's signing key",
    WITNESS_KEY: "the witness's signing key",
}
_LACKING_SHOWN = 5


class _Counted(Protocol):
    @property
    def tenant(self) -> str: ...
    @property
    def collection(self) -> str: ...
    @property
    def documents(self) -> int: ...
    @property
    def chunks(self) -> int: ...


def show_backup(screen: Screen, target: Path, manifest: Manifest, digest: str) -> int:
    """What was backed up; the exit code."""
    if screen.format is Format.JSON:
        screen.json({"path": str(target), **_document(manifest, digest)})
    else:
        _show_collections(screen, manifest.collections)
        screen.say(f"{target}: {_summary(manifest)}", f"sha256 {digest}")
    if manifest.lacking:
        shown = [f"{e.tenant}/{e.collection}/{e.document_id}" for e in manifest.lacking[:_LACKING_SHOWN]]
        more = len(manifest.lacking) - len(shown)
        screen.note(
            f"{plural(len(manifest.lacking), 'document')} not whole in the index, nor in the backup; take them in again: "
            + cleaned(", ".join(shown))
            + (f" and {more:,} more" if more else ""),
            style="bold yellow",
        )
    return ExitCode.FAILED if manifest.lacking else ExitCode.OK


def show_keys(screen: Screen, file: Path, names: Sequence[str], settings: Settings, *, alone: bool) -> None:
    """What keys were backed up, and what is not among them."""
    if screen.format is Format.JSON:
        if alone:
            screen.json({"path": str(file), "keys": list(names)})
    else:
        screen.say(f"{file}: " + ", ".join(_NAMES[name] for name in names))
    screen.note(
        f"Not in it: the master key{_master_key(settings)}. Keep a copy of that in a third place; this file away from the "
        "backups of the data, and no longer than you need it: keys that are shredded later are still in it."
    )


def _master_key(settings: Settings) -> str:
    source = settings.encryption.master_key
    return f" ({default_master_key(settings.keys_dir)})" if source == "file:" else f" ({cleaned(source)})"


def show_verified(screen: Screen, manifest: Manifest, digest: str) -> None:
    """What is in a backup in which everything holds."""
    if screen.format is Format.JSON:
        screen.json({"intact": True, **_document(manifest, digest)})
    else:
        _show_collections(screen, manifest.collections)
        screen.say(f"intact: {_summary(manifest)}", f"sha256 {digest}")


def show_restored(screen: Screen, manifest: Manifest, outcome: Outcome) -> None:
    """What was restored."""
    if screen.format is Format.JSON:
        screen.json(
            {
                "backup_id": manifest.backup_id,
                "time": manifest.time,
                "collections": [_row(one) for one in outcome.collections],
                "audit": None
                if manifest.audit is None
                else {"events": manifest.audit.events, "log": outcome.log, "lost_events": outcome.lost_events},
                "shredded_again": list(outcome.shredded_again),
                "set_aside": None if outcome.set_aside is None else str(outcome.set_aside),
            }
        )
        return
    _show_collections(screen, outcome.collections)
    documents = sum(one.documents for one in outcome.collections)
    chunks = sum(one.chunks for one in outcome.collections)
    screen.say(
        f"restored and verified: {plural(documents, 'document')} in {plural(chunks, 'passage')}, {_log(manifest, outcome)}"
    )


def advice(manifest: Manifest, outcome: Outcome, settings: Settings, log: Log) -> Iterable[str]:
    """What whoever restored should know, and still has to do."""
    if outcome.went_on:
        yield "An earlier restore had been interrupted: this one began again."
    if outcome.set_aside is not None:
        yield f"What was there before is in {outcome.set_aside}."
    if outcome.shredded_again:
        names = cleaned(", ".join(outcome.shredded_again))
        yield f"The keys of {names} had been shredded before this backup: those that came back are destroyed again."
    if manifest.encrypted != settings.encryption.enabled:
        yield f"Set encryption.enabled = {str(manifest.encrypted).lower()} before you start: it was so when this was stored."
    yield from _missing_keys(manifest, settings)
    data_dir = settings.data_dir
    if outcome.log is LogFate.RESTORED and not (data_dir / AUDIT / "signing-key").exists():
        yield (
            f"Put the audit log's signing key back as {data_dir / AUDIT / 'signing-key'} (mode 0600) before you start: "
            "without it the log does not, and --new-log begins another."
        )
    if outcome.log is LogFate.ENDED:
        yield (
            f"The old audit log is in {data_dir / ENDED / manifest.backup_id}; keep it. The next start begins a new one: a "
            "witness elsewhere has to be given its key, and a directory of its own for it."
        )
    for name, place in ((AUDIT, log.audit), (WITNESS, log.witness), (SPOOL, settings.spool_path("x").parent)):
        if place.absolute() != (data_dir / name).absolute() and (data_dir / name).exists():
            yield f"The settings name another place: move {data_dir / name} to {place}."
    yield f"What was deleted, revoked or taken in after {manifest.time} has to be done again (docs/backup.md)."


def _missing_keys(manifest: Manifest, settings: Settings) -> Iterable[str]:
    if not manifest.encrypted:
        return
    here = {entry.tenant: entry for entry in known_keys(settings.keys_dir)}
    missing = [
        entry.tenant
        for entry in manifest.keys
        if not entry.shredded
        and (
            entry.tenant not in here
            or (not here[entry.tenant].shredded and set(entry.data_keys) - set(here[entry.tenant].data_keys))
        )
    ]
    if missing:
        yield (
            f"Keys are missing for {cleaned(', '.join(missing))}: without them their documents cannot be read. Restore with "
            "--keys FILE before you start, or new ones are made."
        )
    if settings.encryption.master_key == "file:" and not default_master_key(settings.keys_dir).exists():
        yield f"Put the master key back as {default_master_key(settings.keys_dir)} (mode 0600) before you start."


def _log(manifest: Manifest, outcome: Outcome) -> str:
    if manifest.audit is None:
        return "no audit log"
    events = plural(manifest.audit.events, "event")
    lost = f", {outcome.lost_events:,} more are lost" if outcome.lost_events else ""
    match outcome.log:
        case LogFate.KEPT:
            return "the audit log that was there is newer and stays"
        case LogFate.ENDED:
            return f"the audit log ended after {events}{lost}"
        case _:
            return f"audit log intact with {events}"


def _show_collections(screen: Screen, collections: Sequence[_Counted]) -> None:
    if screen.format is not Format.TABLE:
        screen.text(*(f"{cleaned(c.tenant)}\t{cleaned(c.collection)}\t{c.documents}\t{c.chunks}" for c in collections))
        return
    heads = ("Tenant", "Collection", "Documents", "Passages")
    rows = [
        (cleaned(one.tenant), cleaned(one.collection), f"{one.documents:,}", f"{one.chunks:,}") for one in collections
    ]
    screen.table(fitted_table(heads, rows, screen.out.width, yielding=heads[:2], right=heads[2:]))


def _summary(manifest: Manifest) -> str:
    audit = "no audit log" if manifest.audit is None else f"{plural(manifest.audit.events, 'audit event')}"
    held = f"{plural(manifest.documents, 'document')} in {plural(manifest.chunks, 'passage')}, {audit}"
    return f"{held}, {as_size(manifest.size)}, as of {manifest.time}"


def _document(manifest: Manifest, digest: str) -> dict[str, Any]:
    return {
        "backup_id": manifest.backup_id,
        "sha256": digest,
        "time": manifest.time,
        "size": manifest.size,
        "collections": [_row(entry) for entry in manifest.collections],
        "audit": None
        if manifest.audit is None
        else {
            "events": manifest.audit.events,
            "covered": manifest.audit.covered,
            "checkpoint": manifest.audit.checkpoint,
        },
        "lacking": [
            {"tenant": e.tenant, "collection": e.collection, "document_id": e.document_id} for e in manifest.lacking
        ],
    }


def _row(one: _Counted) -> dict[str, Any]:
    return {"tenant": one.tenant, "collection": one.collection, "documents": one.documents, "chunks": one.chunks}
