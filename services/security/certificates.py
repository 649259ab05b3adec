"""A development authority and the certificates of a mesh under it: X509-SVIDs that any TLS library takes.

Keys are EC P-256. The authority signs leaves only (path length 0). A service's certificate has one URI name, its SPIFFE
ID, and the hosts under which it is called; a client's has the URI alone, so that nobody can serve with it.

Sources: RFC 5280 §4.2; X509-SVID specification (github.com/spiffe/spiffe, standards/X509-SVID.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.corpus.errors import FailedPrecondition, InvalidField
from services.security.mesh_identity import SpiffeId

AUTHORITY_LIFETIME = timedelta(days=3650)
# Other machines' clocks may be a little behind.
_BACKDATED = timedelta(minutes=5)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, both PEM, and what is worth telling of them."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    serial: int
    not_after: datetime


class DevelopmentAuthority:
    """Signs the certificates of one mesh."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.not_after = certificate.not_valid_after_utc

    @classmethod
    def create(cls, trust_domain: str, now: datetime) -> Self:
        """A new one for ``spiffe://trust_domain``; InvalidField if that is no trust domain."""
        identity = SpiffeId.parse(f"spiffe://{trust_domain}", "trust_domain")
        if identity.path:
            raise InvalidField("trust_domain", "must be a name without a path")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Groundwire development CA")])
        builder = _builder(name, name, key.public_key(), now - _BACKDATED, now + AUTHORITY_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        names = [x509.UniformResourceIdentifier(str(identity))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate: bytes, private_key: bytes, trust_domain: str, now: datetime) -> Self:
        """One that was kept as PEM; FailedPrecondition unless it can go on signing for ``trust_domain``."""
        try:
            loaded = x509.load_pem_x509_certificate(certificate)
            key = load_pem_private_key(private_key, password=None)
            names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            domains = names.get_values_for_type(x509.UniformResourceIdentifier)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
            raise FailedPrecondition("the authority in this directory was not made here, or is damaged") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != loaded.public_key():
            raise FailedPrecondition("the authority's key in this directory is not that of its certificate")
        if domains != [f"spiffe://{trust_domain}"]:
            raise FailedPrecondition(f"the authority in this directory is for {', '.join(domains)}")
        if now >= loaded.not_valid_after_utc:
            raise FailedPrecondition("the authority in this directory has expired; remove its files to make a new one")
        return cls(loaded, key)

    @property
    def private_key(self) -> bytes:
        """Its key as PEM."""
        return _key_pem(self._key)

    def issue(self, identity: SpiffeId, hosts: Iterable[str], now: datetime, lifetime: timedelta) -> Issued:
        """A certificate for ``identity``; one without ``hosts`` is a client's.

        It never outlives the authority. Raises InvalidField on a host that is neither a DNS name nor an IP address.
        """
        names = [x509.UniformResourceIdentifier(str(identity)), *map(_host, hosts)]
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, identity.service)])
        not_after = min(now + lifetime, self.not_after)
        builder = _builder(subject, self._certificate.subject, key.public_key(), now - _BACKDATED, not_after)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if len(names) > 1:
            usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        signers_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(signers_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate.public_bytes(Encoding.PEM),
            _key_pem(key),
            certificate.serial_number,
            certificate.not_valid_after_utc,
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in wanted for name in _USAGES})


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise InvalidField("host", f"{text[:253]!r} is neither a DNS name nor an IP address")
    return x509.DNSName(text.lower())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
