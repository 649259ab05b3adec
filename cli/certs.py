"""``groundwire certs``: a development authority, and a certificate for everybody in the mesh."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.errors import CliError, usage
from cli.output import Format, Screen
from cli.services import KEYS, NAMES
from cli.streams import is_unicode
from services.corpus.errors import FailedPrecondition, InvalidField
from services.runtime.tls import CLIENT
from services.security.certificates import DevelopmentAuthority, Issued
from services.security.key_files import only_writer, read_private, replace_private
from services.security.mesh_identity import SpiffeId

_LOCAL = ("localhost", "127.0.0.1", "::1")
_AUTHORITY, _AUTHORITY_KEY = "ca.pem", "ca-key.pem"


@dataclass(frozen=True)
class Made:
    """What is in ``directory`` now."""

    directory: Path
    new_authority: bool
    authority_not_after: datetime
    issued: dict[SpiffeId, Issued]

    @property
    def settings(self) -> dict[str, str | list[str]]:
        """The section ``tls`` of the settings that use it."""
        return {
            "certificate": str(self.directory / "{service}.pem"),
            "private_key": str(self.directory / "{service}-key.pem"),
            "authorities": str(self.directory / _AUTHORITY),
            "allowed_peers": [str(identity) for identity in self.issued if identity.service != CLIENT],
        }

    @property
    def toml(self) -> str:
        """The same as TOML, whose strings and lists look like those of JSON; only UTF-8 is read from its files."""
        escaped = not is_unicode(sys.stdout)
        lines = [f"{name} = {json.dumps(value, ensure_ascii=escaped)}" for name, value in self.settings.items()]
        return "\n".join(["[tls]", *lines])


def make(directory: Path, *, trust_domain: str, hosts: Sequence[str], days: int, now: datetime | None = None) -> Made:
    """Make what is missing in ``directory``, and every certificate but the authority's anew.

    Each file is replaced in one step, a key before its certificate. Raises CliError if a name is not one, if the
    authority in ``directory`` cannot be used, or if nothing can be written there.
    """
    now = now or datetime.now(UTC)
    directory = directory.absolute()
    try:
        identities = [
            SpiffeId.parse(f"spiffe://{trust_domain}/{name}", "trust_domain") for name in (*NAMES, KEYS, CLIENT)
        ]
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with only_writer(directory / _AUTHORITY_KEY):
            authority, new = _authority(directory, trust_domain, now)
            issued = {}
            for identity in identities:
                names = () if identity.service in (KEYS, CLIENT) else (*_LOCAL, *hosts)
                issued[identity] = authority.issue(identity, names, now, timedelta(days=days))
            # Only now: a wrong --host must not leave half of them renewed.
            if new:
                replace_private(directory / _AUTHORITY_KEY, authority.private_key)
                _replace(directory / _AUTHORITY, authority.pem)
            for identity, pair in issued.items():
                replace_private(directory / f"{identity.service}-key.pem", pair.private_key)
                _replace(directory / f"{identity.service}.pem", pair.certificate)
    except InvalidField as error:
        raise usage(f"--{error.path.replace('_', '-')}: {error.why}") from None
    except FailedPrecondition as error:
        raise CliError(f"{directory}: {error.message}") from None
    except OSError as error:
        raise CliError(f"{error.filename or directory}: {(error.strerror or 'cannot be written').lower()}") from None
    return Made(directory, new, authority.not_after, issued)


def show(screen: Screen, made: Made) -> None:
    """The settings on stdout, so that they can be redirected into a file; everything else on stderr."""
    if screen.format is Format.JSON:
        screen.json(
            {
                "directory": str(made.directory),
                "authority": {"new": made.new_authority, "not_after": made.authority_not_after.isoformat()},
                "certificates": [
                    {
                        "spiffe_id": str(identity),
                        "certificate": str(made.directory / f"{identity.service}.pem"),
                        "private_key": str(made.directory / f"{identity.service}-key.pem"),
                        "serial": f"{pair.serial:x}",
                        "not_after": pair.not_after.isoformat(),
                    }
                    for identity, pair in made.issued.items()
                ],
                "settings": {"tls": made.settings},
            }
        )
        return
    screen.text(made.toml)
    until = min(pair.not_after for pair in made.issued.values())
    kept = "a new authority" if made.new_authority else "the authority that was there"
    screen.note(f"{len(made.issued)} certificates of {kept}, valid until {until:%Y-%m-%d %H:%M} UTC; for development.")
    if made.new_authority:
        screen.note(
            "These are the settings that use them; in a file (`> groundwire.toml`), they start a mesh with TLS:\n"
            "  groundwire --config groundwire.toml up"
        )
    else:
        screen.note("Servers that run take them up with their next connection.")
    screen.note(f"Keep {shlex.quote(str(made.directory / _AUTHORITY_KEY))} secret: who has it can be any service.")


def _authority(directory: Path, trust_domain: str, now: datetime) -> tuple[DevelopmentAuthority, bool]:
    certificate, key = directory / _AUTHORITY, directory / _AUTHORITY_KEY
    if not certificate.exists():
        if key.exists():
            raise FailedPrecondition(f"has {_AUTHORITY_KEY} but not {_AUTHORITY}; remove it to make a new authority")
        return DevelopmentAuthority.create(trust_domain, now), True
    return DevelopmentAuthority.load(certificate.read_bytes(), read_private(key)[0], trust_domain, now), False


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
