"""A certificate authority that lives for one test."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

LOOPBACK: tuple[x509.GeneralName, ...] = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))


class CertificateAuthority:
    """Signs certificates; ``pem`` is its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority for a test")])
        self.pem = self._sign(self._name, self._key.public_key(), (), ca=True)

    def issue(self, names: Sequence[x509.GeneralName] = LOOPBACK) -> tuple[bytes, bytes]:
        """A private key and a certificate for ``names``, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a leaf")])
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, self._sign(subject, key.public_key(), names, ca=False)

    def write(self, directory: Path) -> tuple[Path, Path, Path]:
        """The authority's certificate, and a key and certificate for this machine, as files."""
        key, certificate = self.issue()
        paths = (directory / "ca.pem", directory / "key.pem", directory / "certificate.pem")
        for path, content in zip(paths, (self.pem, key, certificate), strict=True):
            path.write_bytes(content)
        return paths

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, names: Sequence[x509.GeneralName], *, ca: bool
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
