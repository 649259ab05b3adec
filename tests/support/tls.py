"""Certificates of a mesh, as `groundwire certs` makes them, and what a server shows of its own."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from cli.certs import make
from services.runtime.options import IssuerOptions, TlsOptions

SECRET = "correct-horse-battery-staple-0123456789"
ISSUER = IssuerOptions.model_validate({"name": "https://login.example", "algorithm": "HS256", "secret": SECRET})


def tls_options(directory: Path, *, now: datetime | None = None, days: int = 30, **changes: Any) -> TlsOptions:
    """Make certificates in ``directory``, or make them anew, and give the settings that use them."""
    made = make(directory, trust_domain="mesh.example", hosts=(), days=days, now=now)
    return TlsOptions.model_validate({**made.settings, **changes})


def credentials(directory: Path, service: str | None, *, trust: Path | None = None) -> grpc.ChannelCredentials:
    """A client that trusts the authority in ``trust`` (or ``directory``) and presents ``service``'s certificate."""
    pair = (None, None) if service is None else (key(directory, service), certificate(directory, service))
    return grpc.ssl_channel_credentials(((trust or directory) / "ca.pem").read_bytes(), *pair)


def key(directory: Path, service: str) -> bytes:
    return (directory / f"{service}-key.pem").read_bytes()


def certificate(directory: Path, service: str) -> bytes:
    return (directory / f"{service}.pem").read_bytes()


def serial_in(pem: bytes) -> int:
    """The serial number of a certificate."""
    return x509.load_pem_x509_certificate(pem).serial_number


def serial_served(port: int, directory: Path, client: str = "client") -> int:
    """The serial number of the certificate that a server on loopback shows; the handshake verifies it."""
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    context.load_cert_chain(directory / f"{client}.pem", directory / f"{client}-key.pem")
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
