"""Who is at the other end of a mutually authenticated connection: SPIFFE IDs and the list of those who may call.

Pure functions over what gRPC's ``context.auth_context()`` gives. The certificate itself is read, not gRPC's list of
alternative names: that list does not tell a URI from a DNS name that was spelled like one.

Sources: SPIFFE-ID and X509-SVID specifications (github.com/spiffe/spiffe, standards/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from cryptography import x509

from services.corpus.errors import InvalidField, Unauthenticated

_MAX_ID = 2048
_ID = re.compile(r"spiffe://([a-z0-9._\-]{1,255})((?:/[A-Za-z0-9._\-]+)*)")
_PEM_PROPERTY = "x509_pem_cert"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """``spiffe://TRUST-DOMAIN/SEGMENT/…``. ``path`` is empty or begins with a slash."""

    trust_domain: str
    path: str

    @classmethod
    def parse(cls, text: str, path: str = "spiffe_id") -> Self:
        """Read an ID exactly as the specification spells it (no percent-encoding, port, query or dot segment).

        Raises InvalidField, named ``path``, otherwise.
        """
        found = _ID.fullmatch(text) if len(text) <= _MAX_ID else None
        if found is None or not {".", ".."}.isdisjoint(found[2].split("/")):
            raise InvalidField(path, "must be 'spiffe://TRUST-DOMAIN/PATH' with lower-case domain and plain segments")
        return cls(found[1], found[2])

    @property
    def service(self) -> str:
        """The last segment of the path, by which services are called here; empty for a bare trust domain."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def certificate_identity(pem: bytes) -> SpiffeId | None:
    """The SPIFFE ID of a workload's certificate (X509-SVID); None if it is not exactly one.

    Such a certificate has one URI name, which is the ID and has a path, and cannot sign other certificates. That the
    chain leads to a trusted authority is for the TLS handshake to prove.
    """
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = SpiffeId.parse(uris[0]) if len(uris) == 1 else None
        constraints = [extension.value for extension in extensions if extension.oid == x509.BasicConstraints.oid]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    if identity is None or not identity.path:
        return None
    return None if any(isinstance(value, x509.BasicConstraints) and value.ca for value in constraints) else identity


# A connection's certificate is the same for thousands of calls, and reading it takes tens of microseconds.
_cached_identity = lru_cache(maxsize=512)(certificate_identity)


def peer_identity(auth_context: Mapping[str, Iterable[bytes]]) -> SpiffeId | None:
    """The SPIFFE ID of the peer, from ``context.auth_context()``; None if the peer showed no such certificate."""
    certificates = list(auth_context.get(_PEM_PROPERTY, ()))
    return _cached_identity(certificates[0]) if len(certificates) == 1 else None


class MeshPeers:
    """The allow-list of the mesh: exactly these workloads may call as services."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """``allowed`` are whole SPIFFE IDs; InvalidField on one that is malformed or has no path."""
        self._allowed = frozenset(SpiffeId.parse(text, f"allowed[{i}]") for i, text in enumerate(allowed))
        if any(not identity.path for identity in self._allowed):
            raise InvalidField("allowed", "a trust domain alone names no workload")

    def admit(self, auth_context: Mapping[str, Iterable[bytes]]) -> SpiffeId:
        """The identity of a peer that is on the list; Unauthenticated for everybody else."""
        identity = peer_identity(auth_context)
        if identity is None or identity not in self._allowed:
            raise Unauthenticated
        return identity


def speaks_for(identity: SpiffeId, actor: str) -> bool:
    """Whether a peer with ``identity`` may present a token whose nearest actor is ``actor``."""
    return bool(identity.path) and actor in {identity.service, str(identity)}
