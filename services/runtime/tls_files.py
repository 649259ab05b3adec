"""The files of one service's TLS: what must be true of them before anything is made of them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.runtime.options import TlsOptions
from services.runtime.settings import ConfigurationError

_PLACE = "{service}"
Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What is presented and what is trusted, as PEM. A client may have nothing to present."""

    authorities: bytes
    certificate: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    not_after: datetime | None = None
    """When the certificate expires."""


class TlsFiles:
    """The files of one service, as the settings name them."""

    def __init__(self, options: TlsOptions, service: str) -> None:
        """ConfigurationError, naming the setting, unless all of them are set that must be."""
        if options.authorities is None:
            raise ConfigurationError("tls.authorities: is not set: without it no certificate can be verified")
        if (options.certificate is None) != (options.private_key is None):
            missing, given = "certificate", "private_key"
            if options.certificate is not None:
                missing, given = given, missing
            raise ConfigurationError(f"tls.{missing}: is not set, but tls.{given} is")
        self._service = service
        self._authorities = self._path(options.authorities)
        self._certificate = options.certificate and self._path(options.certificate)
        self._private_key = options.private_key and self._path(options.private_key)

    def signature(self) -> Signature:
        """Differs once a file was changed or replaced, links included; blocking, but three look-ups only."""
        return tuple(_signature(path) for path in (self._authorities, self._certificate, self._private_key) if path)

    def read(self, now: datetime) -> TlsMaterial:
        """The files' contents; ConfigurationError, naming the setting, unless they can be used at ``now``."""
        authorities = _read("tls.authorities", self._authorities)
        _check_authorities(self._authorities, authorities, now)
        if self._certificate is None or self._private_key is None:
            return TlsMaterial(authorities)
        certificate = _read("tls.certificate", self._certificate)
        leaf = _check_certificate(self._certificate, certificate, now)
        private_key = _read("tls.private_key", self._private_key, private=True)
        if _public_key(self._private_key, private_key) != _spki(leaf.public_key()):
            raise ConfigurationError(
                f"tls.private_key: {self._private_key}: is not the key of tls.certificate, {self._certificate}"
            )
        return TlsMaterial(authorities, certificate, private_key, leaf.not_valid_after_utc)

    def _path(self, path: Path) -> Path:
        return Path(str(path).replace(_PLACE, self._service))


def _signature(path: Path) -> Signature:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(setting: str, path: Path, *, private: bool = False) -> bytes:
    try:
        # Without waiting for the other end of a pipe, should it be one.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{setting}: {path}: is not a file")
            # A group may read it: orchestrators mount secrets so for processes that are not root.
            if private and status.st_mode & 0o027:
                raise ConfigurationError(f"{setting}: {path}: others can open it (chmod 600)")
            content = file.read()
        # A key that is replaced may also be overwritten (key_files.py): what was read then could be its zeros.
        return content if path.stat().st_ino == status.st_ino else _read(setting, path, private=private)
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: cannot be read: {error.strerror}") from None


def _certificates(setting: str, path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ConfigurationError(f"{setting}: {path}: holds no PEM certificate") from None


def _check_authorities(path: Path, content: bytes, now: datetime) -> None:
    # Bundles often hold some that have expired, next to those that replaced them.
    if all(_time_problem(certificate, now) for certificate in _certificates("tls.authorities", path, content)):
        raise ConfigurationError(f"tls.authorities: {path}: no certificate in it is valid now")


def _check_certificate(path: Path, content: bytes, now: datetime) -> x509.Certificate:
    leaf = _certificates("tls.certificate", path, content)[0]
    if problem := _time_problem(leaf, now):
        raise ConfigurationError(f"tls.certificate: {path}: {problem}")
    return leaf


def _time_problem(certificate: x509.Certificate, now: datetime) -> str:
    if now >= certificate.not_valid_after_utc:
        return f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def _public_key(path: Path, content: bytes) -> bytes:
    try:
        return _spki(load_pem_private_key(content, password=None).public_key())
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        # No context: an error of the parser might quote the key.
        raise ConfigurationError(f"tls.private_key: {path}: holds no PEM private key without a passphrase") from None


def _spki(key: PublicKeyTypes) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
