"""TLS of one service: its files, what must be true of them, and how new ones are taken up while it runs.

Everybody presents a certificate of the authorities that the settings name and verifies the other side against the same
ones: servers the clients that must have one (``tls.client_certificates``), clients the server and the name that they
dialled. The lowest version is TLS 1.2, which is gRPC's own limit. Unix sockets stay without TLS: their mode (0600) and
their directory prove who is at the other end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import grpc
import structlog

from services.corpus.errors import InvalidField
from services.runtime.options import TlsOptions
from services.runtime.settings import ConfigurationError, Settings, is_loopback
from services.runtime.tls_files import Signature, TlsFiles, TlsMaterial
from services.security.mesh_identity import MeshPeers

FRONT = ("query", "ingestion")
"""The services that clients call: unless all must, these do not ask for client certificates."""
CLIENT = "client"
"""What ``{service}`` stands for in the paths of a command that calls services."""
_log = structlog.get_logger(__name__)

Now = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ReloadingTls:
    """The newest usable contents of a service's files. Safe to ask from any thread: gRPC has its own."""

    def __init__(self, files: TlsFiles, service: str, *, now: Now = _utc_now) -> None:
        """Read them for the first time; ConfigurationError if they cannot be used."""
        self._files = files
        self._service = service
        self._now = now
        self._lock = threading.Lock()
        self._refused: Signature = ()
        # The signature comes first: a file that is replaced in between is then read once more, and never missed.
        self._signature = files.signature()
        self._material = files.read(now())

    def current(self) -> TlsMaterial:
        """The contents as they are now; those from before where the files cannot be used (a warning says why)."""
        with self._lock:
            signature = self._files.signature()
            if signature == self._signature:
                return self._material
            try:
                material = self._files.read(self._now())
            except ConfigurationError as error:
                # Tried again every time: perhaps the certificate had been replaced, and its key had not yet.
                if signature != self._refused:
                    self._refused = signature
                    _log.warning("certificate not renewed", service=self._service, reason=str(error))
                return self._material
            self._signature, self._refused = signature, ()
            if material != self._material:
                self._material = material
                _log.info("certificate renewed", service=self._service)
            return self._material


def open_tls(options: TlsOptions, service: str) -> ReloadingTls | None:
    """What ``service`` calls others with; None where no authorities are set. Raises ConfigurationError."""
    return ReloadingTls(TlsFiles(options, service), service) if _is_configured(options) else None


def server_credentials(tls: ReloadingTls, *, client_certificates: bool) -> grpc.ServerCredentials:
    """Credentials that take up renewed files with the next handshake."""
    served = tls.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        material = tls.current()
        if material is served:
            return None
        served = material
        return _configuration(material)

    # None says that nothing changed; its stubs do not know that.
    fetch: Any = renewed
    return grpc.dynamic_ssl_server_credentials(_configuration(served), fetch, client_certificates)


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """Credentials of a client: it verifies the server, and presents its certificate if it has one."""
    return grpc.ssl_channel_credentials(material.authorities, material.private_key, material.certificate)


def listening_tls(
    settings: Settings, service: str, address: str, *, development_secrets: bool | None = None
) -> ReloadingTls | None:
    """The TLS with which ``service`` may listen on ``address``; None for a port without it.

    ConfigurationError, with one line, if it may not listen there, or if TLS is configured by half. With
    ``development_secrets`` (None: what the settings say) nobody beyond this machine is served at all.
    """
    options = settings.tls
    _check_peers(options.allowed_peers)
    if development_secrets is None:
        development_secrets = settings.development_secrets
    refused = f"{service}: will not listen on {address}"
    if development_secrets and not is_loopback(address):
        raise ConfigurationError(
            f"{refused}: with development credentials only loopback addresses and unix sockets are served; "
            "authentication.issuers names real ones"
        )
    if address.startswith("unix:"):
        return None
    if not _is_configured(options):
        if not is_loopback(address) and not options.insecure:
            raise ConfigurationError(
                f"{refused}: without TLS only loopback addresses and unix sockets are served; "
                "tls.certificate is not set (`groundwire certs` makes certificates)"
            )
        return None
    if options.certificate is None and options.private_key is None:
        raise ConfigurationError("tls.certificate: is not set, but tls.authorities is")
    if service not in FRONT and settings.authentication.issuers:
        # Without these every token of the mesh is refused, and only calls would show it.
        if not demands_certificates(options, service):
            raise ConfigurationError(f'tls.client_certificates: is "none": {service} could not tell who calls it')
        if not options.allowed_peers:
            raise ConfigurationError(f"tls.allowed_peers: is empty: no service could call {service}")
    return ReloadingTls(TlsFiles(options, service), service)


def demands_certificates(options: TlsOptions, service: str) -> bool:
    """Whether whoever calls ``service`` must present a certificate."""
    return options.client_certificates == "all" or (options.client_certificates == "internal" and service not in FRONT)


def _is_configured(options: TlsOptions) -> bool:
    return any((options.authorities, options.certificate, options.private_key))


def _check_peers(allowed: Iterable[str]) -> None:
    try:
        MeshPeers(allowed)
    except InvalidField as error:
        name = error.path.replace("allowed", "tls.allowed_peers")
        raise ConfigurationError(f"{name}: {error.why}") from None


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.private_key or b"", material.certificate or b"")], material.authorities
    )
