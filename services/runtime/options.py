"""The sections of the settings: what can be configured, within which bounds, and what it means.

Sections that belong to one service alone are in the ``settings.py`` of its folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from services.corpus.principal import is_name
from services.resilience.targets import parse_targets
from services.runtime.addresses import address_problem
from services.security.claim_paths import parse_claim_path

_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:\-]{0,127}")
_MIN_SECRET = 32  # that of services.security.keysets, which would import cryptography into every command
_PERMISSION = re.compile(r"[a-z][a-z_]*:(?:[a-z][a-z_]*|\*)")


class Options(BaseModel):
    """Base of one section's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Addresses(Options):
    """Where each service listens, and where the others find it: ``host:port`` or ``unix:/path``."""

    query: str = "127.0.0.1:50050"
    ingestion: str = "127.0.0.1:50051"
    retrieval: str = "127.0.0.1:50052"
    generation: str = "127.0.0.1:50053"
    audit: str = "127.0.0.1:50054"
    monitoring: str = "127.0.0.1:50055"
    store: str = Field("", description="Empty: a unix socket that belongs to the data directory.")
    witness: str = Field("", description="Of the audit log's witness; empty: a unix socket, as for the store.")

    @field_validator("*")
    @classmethod
    def _can_be_read(cls, address: str, info: ValidationInfo) -> str:
        usual = str(cls.model_fields[info.field_name or ""].default).rpartition(":")[2]
        # An empty one is a socket in the data directory, for each service.
        if address and (problem := address_problem(address, usual or "50056")):
            raise ValueError(problem)
        return address


class ServiceEndpoints(Options):
    """Where callers find one service, when that is not where it listens.

    ``HOST:PORT``, ``unix:/PATH``, ``dns:///NAME:PORT``, ``static:///A,B`` or ``xds:///NAME``, each with ``@ZONE``
    behind it if that is known.
    """

    primary: tuple[str, ...] = Field((), description="Who serves while one of them can; empty: the service's address.")
    backup: tuple[str, ...] = Field((), description="Who serves while no primary can.")

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        for text in (*self.primary, *self.backup):
            parse_targets(text)
        if self.backup and not self.primary:
            raise ValueError("backup without primary: name the primary, too")
        return self


class Endpoints(Options):
    """The endpoints of each service."""

    query: ServiceEndpoints = ServiceEndpoints()
    ingestion: ServiceEndpoints = ServiceEndpoints()
    retrieval: ServiceEndpoints = ServiceEndpoints()
    generation: ServiceEndpoints = ServiceEndpoints()
    audit: ServiceEndpoints = ServiceEndpoints()
    monitoring: ServiceEndpoints = ServiceEndpoints()
    store: ServiceEndpoints = ServiceEndpoints()
    witness: ServiceEndpoints = ServiceEndpoints()


class FailoverOptions(Options):
    """How calls between services go where they succeed."""

    attempts: int = Field(4, ge=1, le=10, description="Attempts for one call that may be repeated.")
    patience: float = Field(
        5.0, ge=0, le=60, description="Seconds that a call waits, within its deadline, while nobody can be reached."
    )
    retry_ratio: float = Field(0.2, ge=0, le=1, description="Retries per call, over all calls of ten seconds.")
    retry_floor: int = Field(3, ge=0, le=1000, description="Retries in ten seconds that are allowed in any case.")
    hedge_ratio: float = Field(0.1, ge=0, le=1, description="Hedges per read, over all calls of ten seconds; 0: none.")
    proving: float = Field(
        2.0, ge=0, le=300, description="Seconds that a primary which came back is watched before it serves again."
    )


class LogOptions(Options):
    """How logs look."""

    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON.")
    level: Literal["debug", "info", "warning", "error"] = "info"


class DrainOptions(Options):
    """How a service stops."""

    delay: float = Field(0.5, ge=0, le=120, description="Seconds between NOT_SERVING and the first refused call.")
    grace: float = Field(30.0, ge=0, le=600, description="Seconds that calls in flight may still take.")


class ConnectionOptions(Options):
    """What callers' connections may cost each server; times in seconds."""

    handshake: float = Field(10.0, gt=0, le=600, description="From a connection to its first words, TLS included.")
    idle: float = Field(300.0, gt=0, le=86_400, description="Without a call; then the connection is closed.")
    age: float = Field(
        1800.0, gt=0, le=604_800, description="Then its client is asked to connect anew; calls in flight go on."
    )
    age_grace: float = Field(600.0, gt=0, le=86_400, description="How long they go on; then they are cut.")
    request_time: float = Field(120.0, gt=0, le=86_400, description="From a call's headers to the end of its request.")
    max_connections: int = Field(4096, ge=1, le=1_000_000, description="Of each port; more are closed as they come.")
    max_streams: int = Field(1000, ge=1, le=100_000, description="Calls at the same time on one connection.")
    window_kib: int = Field(
        256, ge=64, le=65_536, description="What may be sent ahead of being read; more is faster over long distances."
    )
    max_metadata_kib: int = Field(16, ge=8, le=1024, description="The metadata of one call.")
    max_response_mib: int = Field(64, ge=4, le=1024, description="The largest message that is sent.")
    max_health_watchers: int = Field(1000, ge=1, le=100_000, description="Of each port; shared fairly by peers.")
    ping_interval: float = Field(60.0, ge=1, le=86_400, description="How long nothing is heard before a ping is sent.")
    ping_timeout: float = Field(20.0, gt=0, le=600, description="How long its answer may take.")
    min_ping_interval: float = Field(10.0, ge=0, le=600, description="How often callers may ping, also without a call.")
    max_ping_strikes: int = Field(4, ge=1, le=1000, description="How many pings may come too early.")


class DevelopmentOptions(Options):
    """Whose token commands on this machine carry while no issuer is configured: see ``AuthenticationOptions``."""

    tenant: str = "default"
    subject: str = "developer"
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("admin",)

    @model_validator(mode="after")
    def _are_names(self) -> Self:
        for kind, name in (("user", self.subject), *(("group", group) for group in self.groups)):
            if not is_name(kind, name):
                raise ValueError(f"{name!r} cannot name a {kind}")
        return self


class EncryptionOptions(Options):
    """How what is stored is encrypted: each tenant has keys of its own, which a master key wraps."""

    enabled: bool = Field(True, description="False keeps texts in clear; it cannot be changed once data is stored.")
    master_key: str = Field(
        "file:",
        pattern=r"^(file:.*|env:[A-Za-z_][A-Za-z0-9_]*|print:.+|command:.+)$",
        description="file: (a generated one in the data directory), file:PATH, env:VARIABLE, print:ARGV (a command "
        "that prints it) or command:ARGV (a command that wraps and unwraps, for a KMS).",
    )


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_Texts = Annotated[tuple[str, ...], BeforeValidator(_one_or_several)]


class ClaimOptions(Options):
    """Where an issuer's tokens say what: names of claims, or JSON pointers (RFC 6901) such as `/realm_access/roles`.

    Groups, roles and scopes may stand in several places. Where they are named here, a text in a list's place is read
    as well.
    """

    user: str = Field("sub", description="Who calls.")
    tenant: str = Field("tenant", description="Whose data they work with.")
    audience: str = Field("aud", description="For whom the token is; `azp` or `client_id` where `aud` does not tell.")
    groups: _Texts = Field((), description="Which groups they are in; unset: `groups`.")
    roles: _Texts = Field((), description="Which roles they have; unset: `roles`.")
    scopes: _Texts = Field((), description="Scopes that count as roles, such as `scope` or `scp`; unset: none.")

    @field_validator("user", "tenant", "audience", "groups", "roles", "scopes")
    @classmethod
    def _are_paths(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (value,) if isinstance(value, str) else value:
            parse_claim_path(text)
        return value


class IssuerOptions(Options):
    """One party whose tokens are accepted. Exactly one source of keys must be set."""

    name: str = Field(min_length=1, description="Exactly the tokens' `iss`.")
    audience: str | tuple[str, ...] = Field("groundwire", description="What their `aud` must contain one of.")
    algorithm: Literal["HS256", "RS256", "PS256", "ES256", "EdDSA"]
    secret: SecretStr | None = Field(None, description="HS256: the shared secret, at least 32 bytes.")
    jwks_url: str | None = Field(
        None,
        pattern=r"^https://\S+$|^http://(127\.0\.0\.1|localhost)[:/]\S*$",
        description="Where its key set is: https://HOST/PATH, or http:// on this machine alone.",
    )
    jwks_file: Path | None = None
    token_types: tuple[Literal["JWT", "none", "id_token"], ...] = Field(
        (),
        description="What is accepted beside the type at+jwt: access tokens of type JWT or without a type, ID tokens.",
    )
    claims: ClaimOptions = ClaimOptions()
    roles: dict[str, _Texts] = Field(
        default_factory=dict,
        description="What its roles and scopes are called here; with it no other counts. Empty: as they are.",
    )
    tenant: str | None = Field(None, description="The tenant of all its users; unset: their tokens name it.")
    tenants: tuple[str, ...] = Field((), description="The only tenants it may speak for; empty: any.")
    max_lifetime: int = Field(3600, ge=1, le=86_400, description="The longest life of a token, in seconds.")
    leeway: int = Field(10, ge=0, le=30, description="How far its clock may be off, in seconds.")

    @property
    def audiences(self) -> tuple[str, ...]:
        """Every audience that counts."""
        return (self.audience,) if isinstance(self.audience, str) else self.audience

    @field_validator("audience")
    @classmethod
    def _is_not_empty(cls, audience: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not audience or (not isinstance(audience, str) and "" in audience):
            raise ValueError("must not be empty")
        return audience

    @field_validator("roles")
    @classmethod
    def _name_roles(cls, roles: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for role in (role for meant in roles.values() for role in meant):
            if not _ROLE.fullmatch(role):
                raise ValueError(f"{role!r} cannot name a role")
        return roles

    @field_validator("secret")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _MIN_SECRET:
            raise ValueError(f"must have at least {_MIN_SECRET} bytes (RFC 7518 §3.2)")
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        sources = [source for source in (self.secret, self.jwks_url, self.jwks_file) if source is not None]
        if self.tenant is not None and (self.tenants or "tenant" in self.claims.model_fields_set):
            raise ValueError("`tenant` is that of all its users: leave out `tenants` and `claims.tenant`")
        if len(sources) != 1 or (self.secret is not None) != (self.algorithm == "HS256"):
            raise ValueError("HS256 takes a secret, the other algorithms one of jwks_url and jwks_file")
        return self


class AuthenticationOptions(Options):
    """Whose tokens are accepted.

    Without an issuer those are accepted that are signed with a secret which the data directory keeps for whoever owns
    it. Such development secrets are good for loopback addresses and unix sockets alone.
    """

    issuers: tuple[IssuerOptions, ...] = ()
    required: bool = Field(True, description="False: no tokens at all, every caller is the development identity.")

    @model_validator(mode="after")
    def _is_not_for_nothing(self) -> Self:
        if self.issuers and not self.required:
            raise ValueError("issuers are configured, but `required` is false: nobody would look at their tokens")
        return self


class AuthorizationOptions(Options):
    """What the roles in tokens permit, beside the roles that are built in."""

    roles: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="A role's permissions, each RESOURCE:ACTION, RESOURCE:* or admin:*; replaces one of the same name.",
    )

    @field_validator("roles")
    @classmethod
    def _are_permissions(cls, roles: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for role, permissions in roles.items():
            if not _ROLE.fullmatch(role):
                raise ValueError(f"{role!r} cannot name a role")
            for permission in permissions:
                if not _PERMISSION.fullmatch(permission):
                    raise ValueError(f"{role}: {permission!r} is not RESOURCE:ACTION, RESOURCE:* or admin:*")
        return roles


class TlsOptions(Options):
    """Certificates for every port and call over TCP; in a path, ``{service}`` stands for the service's name."""

    certificate: Path | None = Field(None, description="PEM, the service's own first, then those that lead from it.")
    private_key: Path | None = Field(None, description="PEM without a passphrase; not readable by others.")
    authorities: Path | None = Field(None, description="PEM; whose certificates are trusted, of servers and clients.")
    client_certificates: Literal["internal", "all", "none"] = Field(
        "internal", description="Who must present one: callers of all services but query and ingestion; all; nobody."
    )
    allowed_peers: tuple[str, ...] = Field((), description="The SPIFFE IDs that may act as services of the mesh.")
    insecure: bool = Field(False, description="Serve addresses beyond this machine even without TLS.")


class EmbeddingOptions(Options):
    """Which model turns text into vectors; ingestion and retrieval must agree on it."""

    url: str = Field(
        "embedded:",
        pattern=r"^(embedded:|https?://\S+)$",
        description="embedded: the model that is installed; http(s)://HOST/v1: an OpenAI-compatible server.",
    )
    model: str = Field("", description="The model that a server is asked for.")
    dimension: int = Field(384, ge=2, le=65_536, description="The length of the server's vectors.")
    api_key: SecretStr | None = Field(None, description="The server's key, if it wants one.")
    batch_size: int = Field(32, ge=1, le=2048, description="The most texts in one request to the server.")
    timeout: float = Field(
        30.0, gt=0, le=3600, description="Seconds that a request for passages should take; then smaller ones are tried."
    )
    patience: float = Field(120.0, gt=0, le=3600, description="Seconds that a request for one passage may take.")
    query_timeout: float = Field(
        5.0,
        gt=0,
        le=600,
        description="Seconds that the vector of a question may take, and at most half of what its caller has left; "
        "then words alone are searched.",
    )
    concurrency: int = Field(4, ge=1, le=256, description="The most requests for passages at once.")


class SpoolOptions(Options):
    """Where a service keeps its events until the audit log has them."""

    directory: Path | None = Field(
        None, description="One directory in it for each process of a service; unset: in the data directory."
    )
    max_mib: int = Field(
        256, ge=8, le=65_536, description="How much a process keeps while the audit log is away; then it refuses calls."
    )


class WorkerOptions(Options):
    """What is true of services that run in several processes; how many is a setting of each (``workers``)."""

    connection_age: float = Field(
        30.0,
        ge=0.5,
        le=3600,
        description="Seconds after which a connection to one of several workers is asked to begin anew, which spreads "
        "callers over them again; a worker that is replaced lets its connections end for as long.",
    )


WORKERS_DESCRIPTION = (
    "Processes that share the address, which must be HOST:PORT. The other services have one each: ingestion, the store, "
    "the audit log and its witness own files that one process writes, and monitoring watches the others."
)


class QuotaOptions(Options):
    """What one tenant may use of one server; rates are per second, 0 for no limit."""

    weight: float = Field(1.0, gt=0, le=1000, description="Its share against other tenants' when calls have to wait.")
    requests_per_second: float = Field(0.0, ge=0, description="Calls of its users, operations not counted.")
    request_burst: float = Field(0.0, ge=0, description="Calls at once after a pause; 0: ten seconds' worth.")
    tokens_per_second: float = Field(0.0, ge=0, description="Tokens that models read and write for it.")
    token_burst: float = Field(0.0, ge=0, description="Tokens at once after a pause; 0: ten seconds' worth.")


class AdmissionOptions(Options):
    """How many calls a server takes at once, how many wait, and what each tenant may use."""

    enabled: bool = Field(True, description="False: every call begins at once.")
    initial_limit: int | None = Field(
        None, ge=1, le=100_000, description="To begin with; unset: what suits the service."
    )
    min_limit: int = Field(2, ge=1, le=100_000, description="The limit never falls below it.")
    max_limit: int = Field(512, ge=1, le=100_000, description="The limit never rises above it.")
    queue_length: int = Field(128, ge=0, le=100_000, description="How many interactive calls may wait.")
    max_wait: float = Field(5.0, ge=0, le=600, description="Seconds that an interactive call may wait.")
    batch_queue_length: int = Field(256, ge=0, le=100_000, description="How many batch calls may wait.")
    batch_max_wait: float = Field(60.0, ge=0, le=3600, description="Seconds that a batch call may wait.")
    brownout: bool = Field(True, description="Whether retrieval does less for each call under pressure.")
    quota: QuotaOptions = Field(QuotaOptions(), description="Of every tenant that `tenants` does not name.")
    tenants: dict[str, QuotaOptions] = Field(default_factory=dict, description="By tenant.")

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_limit > self.max_limit:
            raise ValueError("min_limit must not be above max_limit")
        return self
