"""TLS as it is configured: what stops a start, and how replaced files are taken up."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from structlog.testing import capture_logs

from cli import doctor
from services.runtime.options import AuthenticationOptions, TlsOptions
from services.runtime.settings import SERVICES, ConfigurationError, Settings
from services.runtime.tls import ReloadingTls, demands_certificates, listening_tls, open_tls
from services.runtime.tls_files import TlsFiles
from tests.support.tls import ISSUER, certificate, key, tls_options

ANYWHERE, LOOPBACK = "0.0.0.0:50052", "127.0.0.1:50052"


def listen(tls: TlsOptions, address: str = LOOPBACK, service: str = "retrieval", *, issuer: bool = True) -> bool:
    """Whether a service that may listen there does so with TLS."""
    settings = Settings(tls=tls, authentication=AuthenticationOptions(issuers=(ISSUER,) if issuer else ()))
    return listening_tls(settings, service, address) is not None


# --- where a server may listen ----------------------------------------------------------------------------------------


def test_complete_tls_serves_any_address(tmp_path: Path) -> None:
    tls = tls_options(tmp_path)
    assert listen(tls)
    assert listen(tls, ANYWHERE)
    assert listen(tls, ANYWHERE, "query")
    assert listen(tls, "rag.example.org:443")


def test_unix_sockets_and_loopback_need_no_tls(tmp_path: Path) -> None:
    assert not listen(TlsOptions())
    assert not listen(TlsOptions(), f"unix:{tmp_path}/s")
    assert not listen(tls_options(tmp_path), f"unix:{tmp_path}/s")


def test_other_addresses_need_tls_or_an_explicit_word() -> None:
    with pytest.raises(ConfigurationError, match=r"retrieval: will not listen on 0.0.0.0:50052: .*tls\.certificate"):
        listen(TlsOptions(), ANYWHERE)
    assert not listen(TlsOptions(insecure=True), ANYWHERE)


@pytest.mark.parametrize("insecure", [True, False])
@pytest.mark.parametrize("with_tls", [True, False])
def test_development_credentials_never_leave_this_machine(tmp_path: Path, insecure: bool, with_tls: bool) -> None:
    tls = tls_options(tmp_path, insecure=insecure) if with_tls else TlsOptions(insecure=insecure)
    with pytest.raises(ConfigurationError, match=r"will not listen on .*authentication\.issuers"):
        listen(tls, ANYWHERE, issuer=False)
    assert listen(tls, LOOPBACK, issuer=False) is with_tls
    issued = Settings(tls=tls, authentication=AuthenticationOptions(issuers=(ISSUER,)))
    with pytest.raises(ConfigurationError, match="will not listen on"):
        listening_tls(issued, "query", ANYWHERE, development_secrets=True)


@pytest.mark.parametrize(
    ("wanted", "demanding"),
    [("internal", set(SERVICES) - {"query", "ingestion"}), ("all", set(SERVICES)), ("none", set())],
)
def test_who_must_present_a_certificate(wanted: Any, demanding: set[str]) -> None:
    options = TlsOptions(client_certificates=wanted)
    assert {service for service in SERVICES if demands_certificates(options, service)} == demanding


# --- TLS that is configured by half -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ({"certificate"}, r"^tls\.certificate: is not set, but tls\.private_key is$"),
        ({"private_key"}, r"^tls\.private_key: is not set, but tls\.certificate is$"),
        ({"authorities"}, r"^tls\.authorities: is not set"),
        ({"certificate", "private_key"}, r"^tls\.certificate: is not set, but tls\.authorities is$"),
        ({"allowed_peers"}, r"^tls\.allowed_peers: is empty: no service could call retrieval$"),
    ],
)
def test_a_missing_setting_stops_the_start(tmp_path: Path, removed: set[str], named: str) -> None:
    tls = tls_options(tmp_path)
    with pytest.raises(ConfigurationError, match=named):
        listen(TlsOptions.model_validate(tls.model_dump(exclude=removed)))


def test_services_that_cannot_tell_who_calls_do_not_start(tmp_path: Path) -> None:
    tls = tls_options(tmp_path, client_certificates="none")
    with pytest.raises(ConfigurationError, match=r"^tls\.client_certificates: .*retrieval"):
        listen(tls)
    # No token of the mesh is looked at here.
    assert listen(tls, issuer=False)
    assert listen(tls, service="query")


@pytest.mark.parametrize("wrong", ["retrieval", "spiffe://Mesh.Example/query", "spiffe://mesh.example", ""])
@pytest.mark.parametrize("address", [LOOPBACK, "unix:/tmp/s"])
def test_an_identity_that_is_none_stops_the_start(tmp_path: Path, wrong: str, address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^tls\.allowed_peers(\[0\])?: "):
        listen(tls_options(tmp_path, allowed_peers=[wrong]), address)


def _missing(folder: Path) -> None:
    (folder / "retrieval.pem").unlink()


def _no_key(folder: Path) -> None:
    (folder / "retrieval-key.pem").unlink()


def _folder(folder: Path) -> None:
    _missing(folder)
    (folder / "retrieval.pem").mkdir()


def _open_key(folder: Path) -> None:
    (folder / "retrieval-key.pem").chmod(0o604)


def _writable_key(folder: Path) -> None:
    (folder / "retrieval-key.pem").chmod(0o620)


def _other_key(folder: Path) -> None:
    (folder / "retrieval-key.pem").write_bytes(key(folder, "query"))


def _key_with_passphrase(folder: Path) -> None:
    made = ec.generate_private_key(ec.SECP256R1())
    encrypted = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (folder / "retrieval-key.pem").write_bytes(encrypted)


def _no_certificate(folder: Path) -> None:
    (folder / "retrieval.pem").write_text("hello")


def _no_private_key(folder: Path) -> None:
    (folder / "retrieval-key.pem").write_bytes(certificate(folder, "retrieval"))


def _no_authority(folder: Path) -> None:
    (folder / "ca.pem").write_text("")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_missing, r"^tls\.certificate: .*retrieval\.pem: cannot be read: No such file"),
        (_no_key, r"^tls\.private_key: .*retrieval-key\.pem: cannot be read: No such file"),
        (_folder, r"^tls\.certificate: .*retrieval\.pem: cannot be read: Is a directory$"),
        (_open_key, r"^tls\.private_key: .*others can open it"),
        (_writable_key, r"^tls\.private_key: .*others can open it"),
        (_other_key, r"^tls\.private_key: .*is not the key of tls\.certificate"),
        (_key_with_passphrase, r"^tls\.private_key: .*without a passphrase$"),
        (_no_private_key, r"^tls\.private_key: .*holds no PEM private key"),
        (_no_certificate, r"^tls\.certificate: .*holds no PEM certificate$"),
        (_no_authority, r"^tls\.authorities: .*holds no PEM certificate$"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start_with_one_line(tmp_path: Path, spoil: Any, named: str) -> None:
    tls = tls_options(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ConfigurationError, match=named) as caught:
        listen(tls)
    assert "\n" not in str(caught.value)


def test_a_key_that_its_group_may_read_is_one_that_an_orchestrator_mounted(tmp_path: Path) -> None:
    tls = tls_options(tmp_path)
    (tmp_path / "retrieval-key.pem").chmod(0o440)
    assert listen(tls)


def test_an_expired_certificate_stops_the_start(tmp_path: Path) -> None:
    tls = tls_options(tmp_path, now=datetime.now(UTC) - timedelta(days=31))
    with pytest.raises(ConfigurationError, match=r"^tls\.certificate: .*retrieval\.pem: expired at "):
        listen(tls)


def test_a_certificate_of_the_future_stops_the_start(tmp_path: Path) -> None:
    made = tls_options(tmp_path)
    files = TlsFiles(made, "retrieval")
    with pytest.raises(ConfigurationError, match=r"^tls\.authorities: .*no certificate in it is valid now$"):
        files.read(datetime.now(UTC) - timedelta(days=1))
    tls_options(tmp_path, now=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(ConfigurationError, match=r"^tls\.certificate: .*is not valid before "):
        files.read(datetime.now(UTC))


def test_a_bundle_may_hold_an_authority_that_has_expired(tmp_path: Path) -> None:
    tls = tls_options(tmp_path / "new")
    tls_options(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=4000))
    bundle = (tmp_path / "old" / "ca.pem").read_bytes() + (tmp_path / "new" / "ca.pem").read_bytes()
    (tmp_path / "new" / "ca.pem").write_bytes(bundle)
    assert listen(tls)


# --- what doctor says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "state"), [(0, doctor.OK), (24, doctor.WARN), (31, doctor.FAIL)])
def test_doctor_knows_when_certificates_expire(tmp_path: Path, age: int, state: str) -> None:
    tls = tls_options(tmp_path, now=datetime.now(UTC) - timedelta(days=age))
    findings = list(doctor.tls(Settings(data_dir=tmp_path, tls=tls)))
    assert {finding.state for finding in findings} == {state}
    assert all("expire" in finding.found for finding in findings)
    assert bool(findings[0].remedy) is (state != doctor.OK)


def test_doctor_says_that_there_is_none(tmp_path: Path) -> None:
    (finding,) = doctor.tls(Settings(data_dir=tmp_path))
    assert (finding.state, finding.found.partition(";")[0]) == (doctor.OK, "off")


# --- clients ----------------------------------------------------------------------------------------------------------


def test_a_client_needs_nothing_but_authorities(tmp_path: Path) -> None:
    made = tls_options(tmp_path)
    opened = open_tls(TlsOptions(authorities=made.authorities), "client")
    assert opened is not None
    assert opened.current().certificate is None
    assert open_tls(TlsOptions(), "client") is None


def test_each_service_presents_its_own_certificate(tmp_path: Path) -> None:
    tls = tls_options(tmp_path)
    for service in ("query", "client"):
        opened = open_tls(tls, service)
        assert opened is not None
        material = opened.current()
        assert (material.certificate, material.private_key) == (certificate(tmp_path, service), key(tmp_path, service))
        assert "PRIVATE KEY" not in repr(material)


# --- renewed files ----------------------------------------------------------------------------------------------------


def reloading(folder: Path) -> ReloadingTls:
    return ReloadingTls(TlsFiles(tls_options(folder), "query"), "query")


def test_replaced_files_are_taken_up(tmp_path: Path) -> None:
    tls = reloading(tmp_path)
    first = tls.current()
    assert tls.current() is first
    with capture_logs() as logs:
        tls_options(tmp_path)
        assert tls.current().certificate == certificate(tmp_path, "query") != first.certificate
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("certificate renewed", "info")]


def test_files_are_not_read_again_while_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = itertools.count()
    read = TlsFiles.read

    def counted(self: TlsFiles, now: datetime) -> Any:
        next(reads)
        return read(self, now)

    monkeypatch.setattr(TlsFiles, "read", counted)
    tls = reloading(tmp_path)
    for _ in range(5):
        tls.current()
    assert next(reads) == 1


def test_a_secret_that_is_switched_by_its_links_is_taken_up(tmp_path: Path) -> None:
    # As Kubernetes mounts secrets: files are links through ..data, which is replaced in one step.
    made = tls_options(tmp_path / "..1")
    tls_options(tmp_path / "..2")
    (tmp_path / "..data").symlink_to("..1")
    paths = {
        name: tmp_path / "..data" / getattr(made, name).name for name in ("certificate", "private_key", "authorities")
    }
    tls = ReloadingTls(TlsFiles(TlsOptions.model_validate(paths), "query"), "query")
    assert tls.current().certificate == certificate(tmp_path / "..1", "query")
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert tls.current().certificate == certificate(tmp_path / "..2", "query")


def test_files_that_cannot_be_used_change_nothing_and_are_told_of_once(tmp_path: Path) -> None:
    tls = reloading(tmp_path)
    first = tls.current()
    with capture_logs() as logs:
        (tmp_path / "query.pem").write_text("hello")
        assert [tls.current() for _ in range(3)] == [first] * 3
        (tmp_path / "query.pem").unlink()
        assert tls.current() is first
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"]
    assert "holds no PEM certificate" in logs[0]["reason"]
    assert "No such file" in logs[1]["reason"]


def test_a_key_that_came_before_its_certificate_waits_for_it(tmp_path: Path) -> None:
    tls = reloading(tmp_path / "a")
    first = tls.current()
    tls_options(tmp_path / "b")
    for name in ("query-key.pem", "ca.pem"):
        (tmp_path / "b" / name).rename(tmp_path / "a" / name)
    assert tls.current() is first
    (tmp_path / "b" / "query.pem").rename(tmp_path / "a" / "query.pem")
    assert tls.current().certificate == certificate(tmp_path / "a", "query") != first.certificate


def test_a_new_certificate_that_has_expired_is_not_taken_up(tmp_path: Path) -> None:
    tls = reloading(tmp_path)
    first = tls.current()
    with capture_logs() as logs:
        tls_options(tmp_path, now=datetime.now(UTC) - timedelta(days=31))
        assert tls.current() is first
    assert "expired" in logs[0]["reason"]


def test_the_time_is_that_of_the_clock(tmp_path: Path) -> None:
    files = TlsFiles(tls_options(tmp_path), "query")
    later = datetime.now(UTC) + timedelta(days=31)
    with pytest.raises(ConfigurationError, match="expired"):
        ReloadingTls(files, "query", now=lambda: later)
