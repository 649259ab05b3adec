"""How addresses are written down: what is refused names what to write."""

from __future__ import annotations

import pytest

from services.runtime.addresses import address_problem, target
from services.runtime.settings import SERVICES, ConfigurationError, Settings, load


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50050",
        "localhost:1",
        "0.0.0.0:65535",
        "rag-1.example.org:443",
        "[::1]:5",
        "[fe80::1%eth0]:5",
        "retrieval_1:5",
        "unix:/run/query.sock",
        "unix:///run/query.sock",
    ],
)
def test_addresses(address: str) -> None:
    assert address_problem(address, lowest=1) is None


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("http://127.0.0.1:6000", "write 127.0.0.1:6000, without http://"),
        ("HTTP://127.0.0.1:6000/", "write 127.0.0.1:6000, without HTTP://"),
        ("http://127.0.0.1:6000/v1?a=b#c", "write 127.0.0.1:6000, without http://"),
        ("http://127.0.0.1", "write 127.0.0.1:50050, without http://; the port was missing"),
        ("http://[::1]:6000", "write [::1]:6000, without http://"),
        ("http://", "write 127.0.0.1:50050"),
        ("https://rag.example.org:443", "write rag.example.org:443, without https://; TLS is used when"),
        ("grpcs://rag.example.org:443", "tls.authorities"),
        ("grpc://localhost:6000", "write localhost:6000, without grpc://"),
        ("dns:///query:6000", "write query:6000, without dns://"),
        ("127.0.0.1:6000/", "write 127.0.0.1:6000"),
        (" 127.0.0.1:6000\n", "write 127.0.0.1:6000"),
        ("localhost", "write localhost:50050; the port was missing"),
        ("localhost:", "write localhost:50050; the port was missing"),
        (":6000", "write 127.0.0.1:6000"),
        ("6000", "write 127.0.0.1:6000"),
        ("::1", "write [::1]:50050"),
        ("[::1]", "write [::1]:50050"),
        ("::1:24100", "write [::1]:24100"),
        ("127.0.0.1:65536", "a port is a number from 1 to 65535"),
        ("127.0.0.1:0", "a port is a number from 1 to 65535"),
        ("127.0.0.1:-1", "a port is a number from 1 to 65535"),
        ("127.0.0.1:http", "a port is a number from 1 to 65535"),
        ("127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}", "a port is a number from 1 to 65535"),
        ("a:1,b:2", "is not HOST:PORT or unix:/path"),
        ("unix:", "write unix:/path"),
        ("unix:///", "write unix:/path"),
    ],
)
def test_what_is_no_address_says_what_to_write(address: str, wanted: str) -> None:
    problem = address_problem(address, "50050", lowest=1)
    assert problem is not None
    assert problem.startswith(repr(address))
    assert wanted in problem
    if ": write " in problem:
        # What is named can be used.
        suggested = problem.partition(": write ")[2].split(",")[0].split(";")[0]
        assert address_problem(suggested, "50050", lowest=1) is None
        assert suggested in target(suggested)


def test_a_server_may_be_asked_to_take_any_port() -> None:
    assert address_problem("127.0.0.1:0") is None


@pytest.mark.parametrize("service", SERVICES)
def test_an_address_of_the_settings_is_looked_at_when_they_are_read(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"GROUNDWIRE_ADDRESSES__{service.upper()}"
    monkeypatch.setenv(variable, "http://127.0.0.1")
    with pytest.raises(ConfigurationError) as refused:
        load(Settings)
    usual = Settings.model_fields["addresses"].default
    port = str(getattr(usual, service)).rpartition(":")[2] or "50056"
    assert str(refused.value).startswith(f"{variable}: 'http://127.0.0.1' is not HOST:PORT or unix:/path")
    assert f"write 127.0.0.1:{port}" in str(refused.value)
