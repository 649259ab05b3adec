"""SPIFFE IDs, the certificates that carry them, and the list of who may call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from services.corpus.errors import InvalidField, Unauthenticated
from services.security.mesh_identity import MeshPeers, SpiffeId, certificate_identity, peer_identity, speaks_for

QUERY = "spiffe://mesh.example/ns/groundwire/query"
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(names: Sequence[x509.GeneralName] | None, *, ca: bool | None = None) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, QUERY)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize(
    ("text", "domain", "path", "service"),
    [
        (QUERY, "mesh.example", "/ns/groundwire/query", "query"),
        ("spiffe://mesh-1_a.example/Query.v2_x", "mesh-1_a.example", "/Query.v2_x", "Query.v2_x"),
        ("spiffe://mesh.example", "mesh.example", "", ""),
        ("spiffe://10.0.0.1/...", "10.0.0.1", "/...", "..."),
        ("spiffe://" + "a" * 255 + "/x", "a" * 255, "/x", "x"),
    ],
)
def test_good_ids(text: str, domain: str, path: str, service: str) -> None:
    identity = SpiffeId.parse(text)
    assert (identity.trust_domain, identity.path, identity.service, str(identity)) == (domain, path, service, text)


BAD_IDS = [
    "",
    "spiffe://",
    "spiffe:///query",
    "spiffe:/mesh.example/query",
    "SPIFFE://mesh.example/query",
    "https://mesh.example/query",
    "spiffe://Mesh.example/query",
    "spiffe://mesh.example:443/query",
    "spiffe://user@mesh.example/query",
    "spiffe://mesh.example/query?x=1",
    "spiffe://mesh.example/query#x",
    "spiffe://mesh.example/",
    "spiffe://mesh.example/query/",
    "spiffe://mesh.example//query",
    "spiffe://mesh.example/./query",
    "spiffe://mesh.example/ns/../query",
    "spiffe://mesh.example/%71uery",
    "spiffe://mesh.example/qu ery",
    "spiffe://mesh.example/query\n",
    "spiffe://mesh.example/qu\u0435ry",
    "spiffe://m\u0435sh.example/query",
    "spiffe://" + "a" * 256 + "/x",
    "spiffe://mesh.example/" + "a" * 2048,
]


@pytest.mark.parametrize("text", BAD_IDS)
def test_bad_ids(text: str) -> None:
    with pytest.raises(InvalidField):
        SpiffeId.parse(text)


@pytest.mark.parametrize("constraint", [None, False])
def test_a_workloads_certificate_says_who_it_is(constraint: bool | None) -> None:
    pem = certificate([x509.DNSName("localhost"), uri(QUERY)], ca=constraint)
    assert certificate_identity(pem) == SpiffeId.parse(QUERY)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not a certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        certificate(None),
        certificate([x509.DNSName("query.mesh.example")]),
        certificate([x509.DNSName(QUERY)]),
        certificate([x509.RFC822Name("query@mesh.example"), uri("https://mesh.example/query")]),
        certificate([uri(QUERY), uri("spiffe://mesh.example/ns/groundwire/admin")]),
        certificate([uri(QUERY), uri("https://mesh.example")]),
        certificate([uri("spiffe://mesh.example")]),
        certificate([uri("spiffe://mesh.example/ns/../query")]),
        certificate([uri(QUERY)], ca=True),
    ],
    ids=[
        "empty",
        "garbage",
        "broken",
        "no names",
        "another name",
        "a DNS name spelled like an ID",
        "another URI",
        "two IDs",
        "an ID and another URI",
        "a trust domain alone",
        "a malformed ID",
        "an authority",
    ],
)
def test_other_certificates_say_nothing(pem: bytes) -> None:
    assert certificate_identity(pem) is None


def test_only_those_on_the_list_may_call() -> None:
    peers = MeshPeers([QUERY, "spiffe://mesh.example/ns/groundwire/retrieval"])
    assert peers.admit({"x509_pem_cert": [certificate([uri(QUERY)])]}).service == "query"
    strangers = [
        "spiffe://mesh.example/ns/groundwire/store",
        "spiffe://mesh.example/ns/other/query",
        "spiffe://evil.example/ns/groundwire/query",
        QUERY + "/more",
    ]
    contexts: list[dict[str, list[bytes]]] = [{}, {"x509_pem_cert": []}]
    contexts += [{"x509_pem_cert": [certificate([uri(stranger)])]} for stranger in strangers]
    contexts += [{"x509_pem_cert": [certificate([uri(QUERY)])] * 2}]
    # What a peer merely claims, and the list that does not tell names apart, count for nothing.
    contexts += [{"x509_subject_alternative_name": [QUERY.encode()], "x509_common_name": [QUERY.encode()]}]
    for context in contexts:
        with pytest.raises(Unauthenticated):
            peers.admit(context)


def test_nobody_is_on_an_empty_list() -> None:
    with pytest.raises(Unauthenticated):
        MeshPeers([]).admit({"x509_pem_cert": [certificate([uri(QUERY)])]})


@pytest.mark.parametrize("text", ["query", "spiffe://mesh.example", "spiffe://mesh.example/*/"])
def test_the_list_holds_whole_ids(text: str) -> None:
    with pytest.raises(InvalidField):
        MeshPeers([text])


def test_a_peer_speaks_for_itself_alone() -> None:
    identity = peer_identity({"x509_pem_cert": [certificate([uri(QUERY)])]})
    assert identity is not None
    assert speaks_for(identity, "query")
    assert speaks_for(identity, QUERY)
    assert not speaks_for(identity, "retrieval")
    assert not speaks_for(identity, "spiffe://evil.example/ns/groundwire/query")
    assert not speaks_for(SpiffeId("mesh.example", ""), "")
