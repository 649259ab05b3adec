"""``groundwire keys rotate --master``: every tenant's keys wrapped by a new master key. Data stays as it is."""

from __future__ import annotations

from cli.errors import CliError, usage
from cli.keys import existing_key_store, explained, key_ids
from cli.on_record import on_record
from cli.output import Format, Screen
from cli.progress import progress
from cli.text import plural
from services.corpus.cleaning import cleaned
from services.runtime.encryption import open_master_key
from services.runtime.settings import Settings
from services.security.encryption import KeyStore, MasterKey, RewrapProgress
from services.security.keyring import Keyring
from services.security.master_keys import FileMasterKey, NoMasterKey

_STEPS = {
    "env": (
        "1. make a key: groundwire keys generate --print",
        "2. write it into the variable before the present one, separated by a comma, and restart every service",
        "3. run this command again: it wraps with the first and finds the second only to read",
        "4. take the older key out of the variable",
    ),
    "print": (
        "1. make a key: groundwire keys generate --print",
        "2. let the command print it before the present one, each on a line, and restart every service",
        "3. run this command again: it wraps with the first and finds the second only to read",
        "4. let the command print the new one alone",
    ),
    "command": (
        "1. make a new key in the KMS, and let the command wrap with it and still unwrap with the older one",
        "2. run this command again",
        "3. disable the older key in the KMS",
    ),
}


def rotate(screen: Screen, settings: Settings, *, to: str | None, retire: bool) -> None:
    """A new master key; or the older ones of the file destroyed."""
    source = settings.encryption.master_key
    with existing_key_store(settings) as store, explained():
        master = open_master_key(source, settings.keys_dir)
        keyring = Keyring(master, store)
        with on_record(settings, "keys rotate --master", "master-keys"):
            if to is not None:
                _move(screen, settings, keyring, store, to)
            elif retire:
                _retire(screen, keyring, store, master)
            else:
                _renew(screen, source, keyring, store, master)


def _renew(screen: Screen, source: str, keyring: Keyring, store: KeyStore, master: MasterKey) -> None:
    if not _left(store, master.key_id):
        if not isinstance(master, FileMasterKey):
            kind = source.partition(":")[0]
            raise usage(
                f"everything is wrapped by master key {cleaned(master.key_id)}, and this command cannot make another "
                f"one where the settings take it from ({kind}:). To rotate it:",
                *_STEPS[kind],
            )
        master.add_key()
        screen.note(f"new master key {master.key_id}, first in its file")
    else:
        screen.note(f"an earlier rotation is not complete: going on with master key {cleaned(master.key_id)}")
    _report(screen, master.key_id, rewrapped=_rewrap(screen, keyring, store))
    if len(key_ids(master)) > 1:
        screen.note(
            "The older master key is still at hand, for backups of the keys directory. To destroy it: "
            "groundwire keys rotate --master --retire"
            if isinstance(master, FileMasterKey)
            else "The older master key is not needed any more, except for backups of the keys directory."
        )


def _move(screen: Screen, settings: Settings, keyring: Keyring, store: KeyStore, to: str) -> None:
    try:
        target = type(settings.encryption)(master_key=to).master_key
    except ValueError:
        raise usage(f"--to {to}: write file:PATH, env:VARIABLE, print:ARGV or command:ARGV") from None
    if target == "file:":
        raise usage("--to file: needs a PATH")
    new = open_master_key(target, settings.keys_dir)
    rewrapped = _rewrap(screen, keyring, store, new)
    _report(screen, new.key_id, rewrapped=rewrapped)
    screen.note("Services read the new master key alone from now on: set this and restart them.")
    screen.note(f'encryption.master_key = "{target}"')


def _retire(screen: Screen, keyring: Keyring, store: KeyStore, master: MasterKey) -> None:
    if not isinstance(master, FileMasterKey):
        raise usage("only master keys in a file can be destroyed by this command; take the older one away yourself")
    rewrapped = _rewrap(screen, keyring, store)
    # Counted once more, after everything was done: nothing may be lost with a key that still wraps something.
    if left := _left(store, master.key_id):
        raise CliError(f"{plural(left, 'tenant')} had keys made meanwhile; run the command again")
    older = master.key_ids[1:]
    for key_id in older:
        master.forget(key_id)
    _report(screen, master.key_id, rewrapped=rewrapped, destroyed=older)


def _left(store: KeyStore, key_id: str) -> int:
    """How many tenants have keys that another master key wraps."""
    records = Keyring(NoMasterKey(), store).list_tenants()
    return sum(any(key.master_key_id != key_id for key in record.keys) for record in records)


def _rewrap(screen: Screen, keyring: Keyring, store: KeyStore, new: MasterKey | None = None) -> int:
    bar = progress(screen.err, "Wrapping again", "tenant")
    bar.begin(sum(1 for _ in Keyring(NoMasterKey(), store).list_tenants()))
    done = 0

    def told(state: RewrapProgress) -> None:
        nonlocal done
        bar.advance(max(0, state.checked - done))
        done = max(done, state.checked)

    try:
        return keyring.rewrap_all(new, told)
    finally:
        bar.end()


def _report(screen: Screen, key_id: str, *, rewrapped: int, destroyed: tuple[str, ...] = ()) -> None:
    if screen.format is Format.JSON:
        screen.json({"master_key_id": key_id, "rewrapped": rewrapped, "destroyed_master_key_ids": list(destroyed)})
        return
    screen.say(f"master key {cleaned(key_id)}: keys of {plural(rewrapped, 'tenant')} wrapped again")
    screen.say(*(f"master key {gone}: destroyed" for gone in destroyed))
