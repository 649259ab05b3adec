"""What the services of one process share: models, telemetry and channels are made once, on first use."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import structlog

from interceptors.authentication import Confirm, Identify
from interceptors.client import Credentials
from services.corpus.errors import GroundwireError, KeysDestroyed
from services.resilience.endpoints import Endpoint, Role
from services.resilience.failover import FailoverPolicy
from services.resilience.pool import PoolEvent, PoolPolicy
from services.resilience.targets import Target, parse_targets
from services.runtime.auditing.delivery import open_recorder
from services.runtime.auditing.recorder import Recorder
from services.runtime.auditing.security_events import SecurityEvents
from services.runtime.authentication import TokenAuthentication
from services.runtime.channels import open_channel
from services.runtime.encryption import Encryption
from services.runtime.failover_channel import FailoverChannel
from services.runtime.identity import development_identity
from services.runtime.options import FailoverOptions, TlsOptions
from services.runtime.settings import Settings
from services.runtime.status import from_rpc_error
from services.runtime.telemetry import Telemetry
from services.runtime.tls import ReloadingTls, open_tls
from services.security.key_files import shared_secret_file
from services.security.keyed_terms import SALT_BYTES, salted_hmac

if TYPE_CHECKING:
    # Models, the catalog and what speaks to stores take a third of a process's start: who opens none imports none.
    from services.catalog.sql import SqlCatalog
    from services.embedding.ports import CrossEncoder, Embedder
    from services.vectorstores.ports import ChunkStore, VectorStore

VERSION = "0.1.0"
_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class Process:
    """The shared parts of one process. Tests hand in light models instead of the embedded ones.

    With ``tls``, calls over TCP verify who answers and say which service calls.
    """

    def __init__(
        self,
        *,
        embedder: Embedder | None = None,
        cross_encoder: CrossEncoder | None = None,
        tls: TlsOptions | None = None,
    ) -> None:
        self._tls_options = tls
        self._tls: dict[str, ReloadingTls | None] = {}
        self._dependencies: defaultdict[str, list[FailoverChannel]] = defaultdict(list)
        self.telemetry = Telemetry(VERSION)
        self._security_events = SecurityEvents()
        self._made: dict[str, Any] = {}
        self._authentication: TokenAuthentication | None = None
        if embedder is not None:
            self._made["embedder"] = embedder
        if cross_encoder is not None:
            self._made["cross_encoder"] = cross_encoder
        self._making = asyncio.Lock()

    async def embedder(self, settings: Settings) -> Embedder:
        """The embedding model of this process."""
        return await self._once("embedder", lambda: _open_embedder(settings))

    async def cross_encoder(self, settings: Settings) -> CrossEncoder:
        """The cross-encoder of this process."""
        return await self._once("cross_encoder", lambda: _open_cross_encoder(settings))

    async def identify(self, settings: Settings) -> Identify:
        """How this process finds out who calls; from here on its own calls carry tokens, too, if they are required."""
        if not settings.authentication.required:
            return development_identity(settings)
        self._authentication = await self._once("authentication", lambda: TokenAuthentication.start(settings))
        return self._authentication.identify

    @property
    def confirm(self) -> Confirm | None:
        """How this process finds out whether a caller that was let in still would be; None where all are let in."""
        return self._authentication.confirm if self._authentication is not None else None

    async def encryption(self, settings: Settings) -> Encryption | None:
        """The keys of this process; None where encryption is switched off."""
        options = settings.encryption
        if not options.enabled:
            return None

        def open_() -> Encryption:
            return Encryption.open(
                options,
                settings.keys_dir,
                on_refused=self._security_events.refused,
                announce=self._security_events.announce_keys,
            )

        return await self._once("encryption", lambda: asyncio.to_thread(open_))

    async def recorder(self, settings: Settings, service: str, *, several: bool = False) -> Recorder:
        """What makes the events of ``service`` durable; its server closes it.

        With ``several``, more than one process of the service may use the data directory.
        """
        recorder = await open_recorder(
            service,
            settings.spool_path(service),
            self.channel(settings, "audit", service),
            max_bytes=settings.spool.max_mib * 1024 * 1024,
            several=several,
        )
        self.attend(recorder)
        return recorder

    def attend(self, recorder: Recorder) -> None:
        """Let ``recorder`` have the events of what belongs to no call: new keys, refused values."""
        self._security_events.recorder = self._security_events.recorder or recorder

    async def query_digest(self, settings: Settings) -> Callable[[str, str], Awaitable[bytes]]:
        """Makes of a tenant and a query what the audit log keeps of it; nothing for a tenant without keys."""
        keys = await self.encryption(settings)
        secret = b"" if keys else await asyncio.to_thread(shared_secret_file, settings.keys_dir / "audit.key")

        async def digest(tenant: str, query: str) -> bytes:
            if keys is None:
                message = f"{tenant}\0{query}".encode("utf-8", "surrogatepass")
                return salted_hmac(secret, message, secrets.token_bytes(SALT_BYTES))
            try:
                return await keys.terms.query_hmac(tenant, query)
            except KeysDestroyed:
                return b""

        return digest

    async def catalog(self, settings: Settings) -> SqlCatalog:
        """A catalog for one service, which closes it."""
        from services.catalog.sql import SqlCatalog  # noqa: PLC0415 - not every process has one

        keys = await self.encryption(settings)
        return await SqlCatalog.open_sqlite(settings.catalog_path, cipher=keys.sealer if keys else None)

    def channel(self, settings: Settings, service: str, caller: str) -> FailoverChannel:
        """A new channel to the endpoints of ``service``, which ``caller`` depends on; its user closes it."""
        channel = self.channel_to(service, settings.targets(service), caller, settings)
        self._dependencies[caller].append(channel)
        return channel

    def dependencies(self, caller: str) -> list[FailoverChannel]:
        """The channels to what ``caller`` depends on, in the order in which they were made."""
        return [channel for channel in self._dependencies[caller] if not channel.closed]

    def channel_to(
        self, name: str, targets: Sequence[tuple[Target, Role]], caller: str, settings: Settings | None = None
    ) -> FailoverChannel:
        """A new channel to ``targets``, which are called ``name``; without ``settings``, as by default."""
        if self._tls_options is not None and caller not in self._tls:
            self._tls[caller] = open_tls(self._tls_options, caller)

        def connect(endpoint: Endpoint) -> grpc.aio.Channel:
            return open_channel(
                endpoint.address,
                server_name=endpoint.name,
                tls=self._tls.get(caller),
                tracer=self.telemetry.tracer(caller),
                credentials=self._credentials(caller),
                # Where calls go is decided on the endpoint's health already.
                health_checked=False,
            )

        options = settings.failover if settings else FailoverOptions()
        channel = FailoverChannel(
            name,
            targets,
            connect,
            zone=settings.zone if settings else "",
            policy=FailoverPolicy(
                attempts=options.attempts,
                patience=options.patience,
                retry_ratio=options.retry_ratio,
                retry_floor=options.retry_floor,
                hedge_ratio=options.hedge_ratio,
                hedge_floor=1 if options.hedge_ratio else 0,
            ),
            pool_policy=PoolPolicy(proving=options.proving),
        )

        channel.pool.listeners.append(partial(self.endpoint_changed, caller, name))
        return channel

    def endpoint_changed(self, caller: str, dependency: str, event: PoolEvent) -> None:
        """Log, count and, where a breaker changed, record what happened to an endpoint that ``caller`` uses."""
        _log.info("endpoint changed", service=caller, dependency=dependency, what=event.what)
        self.telemetry.endpoints.record(caller, dependency, event)
        self._security_events.breaker_changed(caller, dependency, event)

    def _credentials(self, service: str) -> Credentials:
        made: Credentials | None = None

        async def credentials() -> list[tuple[str, str]]:
            nonlocal made
            if self._authentication is None:
                return []
            made = made or self._authentication.credentials(service)
            return await made()

        return credentials

    def remote_store(self, address: str, service: str, name: str, settings: Settings | None = None) -> ChunkStore:
        """A vector store behind the StoreService at ``address``, for calls that ``service`` makes.

        Without an address it is the mesh's own, which ``settings`` know.
        """
        return _remote(self.store_channel(address, service, name, settings))

    def store_channel(self, address: str, service: str, name: str, settings: Settings | None = None) -> FailoverChannel:
        """A new channel to the StoreService at ``address``, like :meth:`channel`."""
        if address:
            targets = [(target, Role.PRIMARY) for target in parse_targets(address)]
        elif settings is not None:
            targets = settings.targets("store")
        else:
            raise ValueError("neither an address nor settings")
        channel = self.channel_to(name, targets, service, settings)
        self._dependencies[service].append(channel)
        return channel

    async def sealed_store(self, settings: Settings, channel: FailoverChannel) -> VectorStore:
        """The vector store behind ``channel``, which it owns; the store gets sealed texts and keyed terms alone.

        Where encryption is switched off it gets them in clear.
        """
        from services.runtime.sealed_store import SealedVectorStore  # noqa: PLC0415 - not every process has one

        remote = _remote(channel)
        keys = await self.encryption(settings)
        return SealedVectorStore(remote, keys.sealer, keys.terms) if keys else remote

    async def close(self) -> None:
        """Release models and send the last spans; services must have stopped."""
        for made in self._made.values():
            await made.close()
        self._made.clear()
        await self.telemetry.close()

    async def _once(self, name: str, make: Callable[[], Awaitable[_T]]) -> _T:
        async with self._making:
            if name not in self._made:
                self._made[name] = await make()
        made: _T = self._made[name]
        return made


def _remote(channel: FailoverChannel) -> ChunkStore:
    from services.vectorstores.remote import RemoteVectorStore  # noqa: PLC0415 - not every process has one

    def to_error(error: grpc.aio.AioRpcError) -> GroundwireError:
        return from_rpc_error(error, channel.pool.service)

    return RemoteVectorStore(channel, to_error)


async def _open_embedder(settings: Settings) -> Embedder:
    options = settings.embedding
    if options.url == "embedded:":
        from services.embedding.onnx import OnnxEmbedder  # noqa: PLC0415 - not every process has a model
        from services.embedding.weights import WeightSources  # noqa: PLC0415

        return await OnnxEmbedder.load(WeightSources(settings.models_dir))
    from services.embedding.openai import OpenAIEmbedder  # noqa: PLC0415 - needed with a remote model alone
    from services.embedding.ports import EmbeddingModel  # noqa: PLC0415

    key = options.api_key.get_secret_value() if options.api_key else None
    return OpenAIEmbedder(
        options.url,
        EmbeddingModel(options.model, options.dimension, 8192),
        api_key=key,
        timeout=options.timeout,
        patience=options.patience,
        query_timeout=options.query_timeout,
        batch_size=options.batch_size,
        concurrency=options.concurrency,
    )


async def _open_cross_encoder(settings: Settings) -> CrossEncoder:
    from services.embedding.onnx import OnnxCrossEncoder  # noqa: PLC0415 - not every process has a model
    from services.embedding.weights import WeightSources  # noqa: PLC0415

    return await OnnxCrossEncoder.load(WeightSources(settings.models_dir))
