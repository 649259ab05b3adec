"""Settings: from a TOML file and the environment, checked once at start and frozen.

Precedence: environment (``GROUNDWIRE_RETRIEVAL__TOP_K=20``, nested with two underscores) over file
(``[retrieval] top_k = 20``) over defaults. A value that does not fit, or a name that nobody knows, stops the start
with its name and the reason: a typing error in a security setting must never be silent.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from services.resilience.endpoints import Role
from services.resilience.targets import Target, parse_targets
from services.runtime.options import (
    Addresses,
    AdmissionOptions,
    AuthenticationOptions,
    AuthorizationOptions,
    ConnectionOptions,
    DevelopmentOptions,
    DrainOptions,
    EmbeddingOptions,
    EncryptionOptions,
    Endpoints,
    FailoverOptions,
    LogOptions,
    ServiceEndpoints,
    SpoolOptions,
    TlsOptions,
    WorkerOptions,
)
from services.runtime.settings_problems import Origin, problems

PREFIX = "GROUNDWIRE_"
CONFIG_VARIABLE = "GROUNDWIRE_CONFIG"
TOKEN_VARIABLE = "GROUNDWIRE_TOKEN"  # noqa: S105 - a variable's name; clients send its value as their token
SERVICES = ("query", "ingestion", "retrieval", "generation", "audit", "monitoring", "store", "witness")
# sun_path holds 108 bytes; the rest is for the scheme and a margin.
_MAX_SOCKET_PATH = 100


class ConfigurationError(Exception):
    """The settings cannot be used; the message has one line per problem, each with the setting's name."""


class Settings(BaseSettings):
    """What every service shares; each service's own settings add one section."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="ignore", env_ignore_empty=False
    )

    data_dir: Path = Field(
        default_factory=lambda: _data_home() / "groundwire", description="Where everything durable is kept."
    )
    addresses: Addresses = Addresses()
    endpoints: Endpoints = Endpoints()
    zone: str = Field("", max_length=63, description="Where this process runs: endpoints of the same zone come first.")
    failover: FailoverOptions = FailoverOptions()
    log: LogOptions = LogOptions()
    drain: DrainOptions = DrainOptions()
    connections: ConnectionOptions = ConnectionOptions()
    development: DevelopmentOptions = DevelopmentOptions()
    authentication: AuthenticationOptions = AuthenticationOptions()
    authorization: AuthorizationOptions = AuthorizationOptions()
    tls: TlsOptions = TlsOptions()
    embedding: EmbeddingOptions = EmbeddingOptions()
    encryption: EncryptionOptions = EncryptionOptions()
    spool: SpoolOptions = SpoolOptions()
    workers: WorkerOptions = WorkerOptions()
    admission: AdmissionOptions = AdmissionOptions()
    models_dir: Path | None = Field(None, description="Where model weights are looked for first.")
    reflection: bool | None = Field(
        None,
        description="Server reflection for everybody, or not at all; unset: on loopback, and elsewhere for admin:* alone.",
    )

    @field_validator("data_dir", mode="before")
    @classmethod
    def _names_a_directory(cls, given: Any) -> Any:
        # An empty path would be whatever directory a command is started in.
        if given == "":
            raise ValueError("is empty; it must be the path of a directory")
        return given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before what :func:`load` read from the file and passes as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def address(self, service: str) -> str:
        """Where ``service`` is found."""
        given = str(getattr(self.addresses, service))
        return given or f"unix:{socket_path(self.data_dir, service)}"

    def targets(self, service: str) -> list[tuple[Target, Role]]:
        """Where callers find ``service``, and the part that each target plays."""
        given: ServiceEndpoints = getattr(self.endpoints, service)
        primary = given.primary or (self.address(service),)
        return [
            (target, role)
            for role, texts in ((Role.PRIMARY, primary), (Role.BACKUP, given.backup))
            for text in texts
            for target in parse_targets(text)
        ]

    @property
    def development_secrets(self) -> bool:
        """Whether whoever reads the data directory, or reaches an address, may call: nothing to serve a network with."""
        return not self.authentication.issuers

    @property
    def catalog_path(self) -> Path:
        """The embedded catalog's file."""
        return self.data_dir / "catalog.sqlite3"

    @property
    def keys_dir(self) -> Path:
        """Where wrapped keys are kept; leave it out of the backups of the data."""
        return self.data_dir / "keys"

    def spool_path(self, service: str) -> Path:
        """Where ``service`` keeps its events until the audit log has them."""
        return (self.spool.directory or self.data_dir / "spool") / service

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return self.model_copy(update=changes)


AnySettings = TypeVar("AnySettings", bound=Settings)


def load(settings_class: type[AnySettings], config_file: Path | None = None) -> AnySettings:
    """Read settings from ``config_file`` (or ``GROUNDWIRE_CONFIG``) and the environment.

    Raises ConfigurationError with every problem, each with the name under which it was set.
    """
    environ = os.environ
    named = config_file or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    from_file = _read(named) if named else {}
    known = {*Settings.model_fields, *SERVICES}
    unknown = [f"{named}: {name}: no such setting" for name in from_file if name not in known]
    unknown += [
        f"{variable}: no such setting"
        for variable in environ
        if variable.startswith(PREFIX)
        and variable not in (CONFIG_VARIABLE, TOKEN_VARIABLE)
        and not _names_a_setting(variable, settings_class)
    ]
    if unknown:
        raise ConfigurationError("\n".join(unknown))
    origin = Origin(PREFIX, environ, named, from_file)
    try:
        return settings_class(**from_file)
    except ValidationError as error:
        raise ConfigurationError("\n".join(problems(error, settings_class, origin))) from None
    except SettingsError as error:
        raise ConfigurationError("\n".join(origin.unparsable(error))) from None


def is_loopback(address: str) -> bool:
    """Whether only programs on this machine can reach ``address``."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def socket_path(data_dir: Path, name: str) -> Path:
    """A unix socket's path inside ``data_dir``, or in a private temporary directory where that would be too long."""
    path = data_dir.absolute() / f"{name}.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:16]
    private = Path(f"groundwire-{os.getuid()}", f"{digest}-{name}.sock")
    short = Path(tempfile.gettempdir()) / private
    # A temporary directory may have a long name, too.
    return short if len(os.fsencode(short)) <= _MAX_SOCKET_PATH else Path("/tmp") / private  # noqa: S108 - a private directory is made in it


def environment_secret(variable: str) -> str:
    """The value of a variable that a setting names; ConfigurationError if it is not set."""
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigurationError(f"{variable}: is not set, but a setting names it")
    return value


def otel_variables() -> dict[str, str]:
    """The variables of the environment that OpenTelemetry defines."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


def _names_a_setting(variable: str, settings_class: type[Settings]) -> bool:
    name, *below = variable.removeprefix(PREFIX).lower().split("__")
    field = settings_class.model_fields.get(name)
    if field is None:
        return name in SERVICES  # a section of another service, which looks into it itself
    is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return is_section or not below


def _data_home() -> Path:
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError:
        raise ConfigurationError(
            f"{PREFIX}DATA_DIR: is not set, and this user has no home directory to keep data in; set it to a directory"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not valid TOML: byte {error.start} is not UTF-8") from None
    except (ValueError, RecursionError):
        # What Python's reader does not say as a fault of the file.
        raise ConfigurationError(
            f"{path}: is not valid TOML: a number is too long, or values are nested too deep"
        ) from None
