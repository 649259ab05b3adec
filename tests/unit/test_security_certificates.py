"""The certificates that `groundwire certs` makes."""

from __future__ import annotations

import json
import subprocess
import tomllib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cli.certs import make
from cli.errors import CliError
from cli.main import main
from cli.services import KEYS, NAMES
from services.corpus.errors import FailedPrecondition, InvalidField
from services.runtime.options import TlsOptions
from services.security.certificates import DevelopmentAuthority
from services.security.mesh_identity import SpiffeId, certificate_identity

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
MONTH = timedelta(days=30)
QUERY = SpiffeId.parse("spiffe://mesh.example/query")


@pytest.fixture(scope="module")
def authority() -> DevelopmentAuthority:
    return DevelopmentAuthority.create("mesh.example", NOW)


def verify(authority: bytes, leaf: bytes, host: str, at: datetime = NOW) -> None:
    store = Store([x509.load_pem_x509_certificate(authority)])
    builder = PolicyBuilder().store(store).time(at)
    builder.build_server_verifier(_name(host)).verify(x509.load_pem_x509_certificate(leaf), [])


def _name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def test_a_service_is_served_under_its_hosts_and_no_others(authority: DevelopmentAuthority) -> None:
    issued = authority.issue(QUERY, ["localhost", "::1", "10.1.2.3", "RAG.example.org"], NOW, MONTH)
    for host in ("localhost", "::1", "10.1.2.3", "rag.example.org"):
        verify(authority.pem, issued.certificate, host)
    for host in ("example.org", "127.0.0.1"):
        with pytest.raises(VerificationError):
            verify(authority.pem, issued.certificate, host)


def test_its_identity_is_its_only_uri(authority: DevelopmentAuthority) -> None:
    issued = authority.issue(QUERY, ["localhost"], NOW, MONTH)
    assert certificate_identity(issued.certificate) == QUERY
    assert certificate_identity(authority.pem) is None


def test_a_client_cannot_serve(authority: DevelopmentAuthority) -> None:
    issued = authority.issue(SpiffeId.parse("spiffe://mesh.example/client"), (), NOW, MONTH)
    extensions = x509.load_pem_x509_certificate(issued.certificate).extensions
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(VerificationError):
        verify(authority.pem, issued.certificate, "localhost")


def test_it_is_valid_for_as_long_as_was_said(authority: DevelopmentAuthority) -> None:
    issued = authority.issue(QUERY, ["localhost"], NOW, MONTH)
    assert issued.not_after == NOW + MONTH
    verify(authority.pem, issued.certificate, "localhost", NOW + MONTH - timedelta(seconds=1))
    with pytest.raises(VerificationError):
        verify(authority.pem, issued.certificate, "localhost", NOW + MONTH + timedelta(seconds=1))
    late = NOW + timedelta(days=3645)
    assert authority.issue(QUERY, ["localhost"], late, MONTH).not_after == authority.not_after


def test_the_authority_signs_leaves_only(authority: DevelopmentAuthority) -> None:
    extensions = x509.load_pem_x509_certificate(authority.pem).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.value.ca, constraints.value.path_length, constraints.critical) == (True, 0, True)
    assert (usage.value.key_cert_sign, usage.value.digital_signature, usage.critical) == (True, False, True)


@pytest.mark.parametrize("host", ["", "a b", "*.example.org", "-a", "a..b", "x" * 254, "a/b", "10.0.0.0/8"])
def test_a_host_that_is_none_is_refused(authority: DevelopmentAuthority, host: str) -> None:
    with pytest.raises(InvalidField, match="host"):
        authority.issue(QUERY, [host], NOW, MONTH)


@pytest.mark.parametrize("domain", ["", "Mesh.Example", "a/b", "a b", "spiffe://a"])
def test_a_trust_domain_that_is_none_is_refused(domain: str) -> None:
    with pytest.raises(InvalidField, match="trust_domain"):
        DevelopmentAuthority.create(domain, NOW)


def test_an_authority_goes_on_only_as_what_it_was(authority: DevelopmentAuthority) -> None:
    again = DevelopmentAuthority.load(authority.pem, authority.private_key, "mesh.example", NOW)
    assert again.pem == authority.pem
    other = DevelopmentAuthority.create("mesh.example", NOW)
    leaf = authority.issue(QUERY, ["localhost"], NOW, MONTH)
    for certificate, key, domain, at, why in (
        (authority.pem, other.private_key, "mesh.example", NOW, "not that of its certificate"),
        (authority.pem, authority.private_key, "other.example", NOW, "is for spiffe://mesh.example"),
        (authority.pem, authority.private_key, "mesh.example", NOW + timedelta(days=3650), "expired"),
        (b"hello", authority.private_key, "mesh.example", NOW, "not made here"),
        (authority.pem, b"hello", "mesh.example", NOW, "not made here"),
        (leaf.certificate, leaf.private_key, "mesh.example", NOW, "is for"),
    ):
        with pytest.raises(FailedPrecondition, match=why):
            DevelopmentAuthority.load(certificate, key, domain, at)


# --- the command ------------------------------------------------------------------------------------------------------


def test_everybody_gets_a_certificate_and_keys_are_private(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "certs"
    assert main(["certs", str(folder), "--host", "rag.example.org", "--days", "7"]) == 0
    shown = capsys.readouterr()
    tls = TlsOptions.model_validate(tomllib.loads(shown.out)["tls"])
    assert set(tls.allowed_peers) == {f"spiffe://groundwire.local/{name}" for name in (*NAMES, KEYS)}
    assert "groundwire --config groundwire.toml up" in shown.err
    assert "PRIVATE" not in shown.out + shown.err
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in (*NAMES, "client"):
        pem = Path(str(tls.certificate).replace("{service}", name)).read_bytes()
        assert certificate_identity(pem) == SpiffeId.parse(f"spiffe://groundwire.local/{name}")
        if name != "client":
            verify((folder / "ca.pem").read_bytes(), pem, "rag.example.org", datetime.now(UTC))
    for file in folder.glob("*-key.pem"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert len(list(folder.glob("*-key.pem"))) == len(NAMES) + 3


def test_openssl_agrees(tmp_path: Path) -> None:
    make(tmp_path, trust_domain="mesh.example", hosts=(), days=1)
    for name, purpose in (("query", "sslserver"), ("query", "sslclient"), ("client", "sslclient")):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", f"{name}.pem"]
        try:
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")
        assert done.returncode == 0, done.stderr


def test_repeating_it_renews_leaves_and_keeps_the_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, trust_domain="groundwire.local", hosts=(), days=1)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.pem")}
    assert main(["certs", str(tmp_path), "--output", "json"]) == 0
    after = {file.name: file.read_bytes() for file in tmp_path.glob("*.pem")}
    assert {name for name in before if before[name] == after[name]} == {"ca.pem", "ca-key.pem"}
    told = json.loads(capsys.readouterr().out)
    assert not told["authority"]["new"]
    assert len(told["certificates"]) == len(NAMES) + 2
    for entry in told["certificates"]:
        shown = x509.load_pem_x509_certificate(Path(entry["certificate"]).read_bytes())
        assert f"{shown.serial_number:x}" == entry["serial"]
    TlsOptions.model_validate(told["settings"]["tls"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--host", "a b"], 2, "--host: 'a b' is neither"),
        (["--trust-domain", "A B"], 2, "--trust-domain: "),
        (["--trust-domain", "other.example"], 1, "is for spiffe://groundwire.local"),
    ],
)
def test_what_it_refuses_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    make(tmp_path, trust_domain="groundwire.local", hosts=(), days=1)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.pem")}
    assert main(["certs", str(tmp_path), *arguments]) == code
    assert said in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.pem")} == before


def test_a_key_without_its_authority_is_not_replaced(tmp_path: Path) -> None:
    make(tmp_path, trust_domain="mesh.example", hosts=(), days=1)
    (tmp_path / "ca.pem").unlink()
    key = (tmp_path / "ca-key.pem").read_bytes()
    with pytest.raises(CliError, match=r"ca-key\.pem but not ca\.pem"):
        make(tmp_path, trust_domain="mesh.example", hosts=(), days=1)
    assert (tmp_path / "ca-key.pem").read_bytes() == key


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CliError, match="file"):
        make(tmp_path / "file", trust_domain="mesh.example", hosts=(), days=1)
