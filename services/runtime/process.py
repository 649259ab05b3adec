"""What the services of one process share: models, telemetry and channels are made once, on first use."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from interceptors.authentication import Identify
from interceptors.client import Credentials
from services.catalog.sql import SqlCatalog
from services.corpus.errors import GroundwireError, KeysDestroyed
from services.embedding.onnx import OnnxCrossEncoder, OnnxEmbedder
from services.embedding.openai import OpenAIEmbedder
from services.embedding.ports import CrossEncoder, Embedder, EmbeddingModel
from services.embedding.weights import WeightSources
from services.runtime.auditing.delivery import open_recorder
from services.runtime.auditing.recorder import Recorder
from services.runtime.auditing.security_events import SecurityEvents
from services.runtime.authentication import TokenAuthentication
from services.runtime.channels import open_channel
from services.runtime.encryption import Encryption
from services.runtime.identity import development_identity
from services.runtime.sealed_store import SealedVectorStore
from services.runtime.settings import Settings, TlsOptions
from services.runtime.status import from_rpc_error
from services.runtime.telemetry import Telemetry
from services.runtime.tls import ReloadingTls, open_tls
from services.security.key_files import shared_secret_file
from services.vectorstores.ports import ChunkStore, VectorStore
from services.vectorstores.remote import RemoteVectorStore

VERSION = "0.1.0"
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
        return await self._once("cross_encoder", lambda: OnnxCrossEncoder.load(WeightSources(settings.models_dir)))

    async def identify(self, settings: Settings) -> Identify:
        """How this process finds out who calls; from here on its own calls carry tokens, too, if they are required."""
        if not settings.authentication.required:
            return development_identity(settings)
        self._authentication = await self._once("authentication", lambda: TokenAuthentication.start(settings))
        return self._authentication.identify

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
            self.channel(settings.address("audit"), service),
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
                return hmac.digest(secret, f"{tenant}\0{query}".encode("utf-8", "surrogatepass"), "sha256")
            try:
                return await keys.terms.query_hmac(tenant, query)
            except KeysDestroyed:
                return b""

        return digest

    async def catalog(self, settings: Settings) -> SqlCatalog:
        """A catalog for one service, which closes it."""
        keys = await self.encryption(settings)
        return await SqlCatalog.open_sqlite(settings.catalog_path, cipher=keys.sealer if keys else None)

    def channel(self, address: str, service: str, *, health_checked: bool = True) -> grpc.aio.Channel:
        """A new channel to ``address`` for calls that ``service`` makes; its user closes it."""
        if self._tls_options is not None and service not in self._tls:
            self._tls[service] = open_tls(self._tls_options, service)
        return open_channel(
            address,
            tls=self._tls.get(service),
            tracer=self.telemetry.tracer(service),
            credentials=self._credentials(service),
            health_checked=health_checked,
        )

    def _credentials(self, service: str) -> Credentials:
        made: Credentials | None = None

        async def credentials() -> list[tuple[str, str]]:
            nonlocal made
            if self._authentication is None:
                return []
            made = made or self._authentication.credentials(service)
            return await made()

        return credentials

    def remote_store(self, address: str, service: str, name: str) -> ChunkStore:
        """A vector store behind the StoreService at ``address``, for calls that ``service`` makes."""

        def to_error(error: grpc.aio.AioRpcError) -> GroundwireError:
            return from_rpc_error(error, name)

        return RemoteVectorStore(self.channel(address, service), to_error)

    async def sealed_store(self, settings: Settings, address: str, service: str, name: str) -> VectorStore:
        """Like :meth:`remote_store`, but the store gets sealed texts and keyed terms alone.

        Where encryption is switched off it gets them in clear.
        """
        remote = self.remote_store(address, service, name)
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


async def _open_embedder(settings: Settings) -> Embedder:
    options = settings.embedding
    if options.url == "embedded:":
        return await OnnxEmbedder.load(WeightSources(settings.models_dir))
    key = options.api_key.get_secret_value() if options.api_key else None
    return OpenAIEmbedder(options.url, EmbeddingModel(options.model, options.dimension, 8192), api_key=key)
