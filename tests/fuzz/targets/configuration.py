"""Settings from a file and the environment: settings, or what is wrong with them in words that repeat no value."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

from services.audit.settings import AuditSettings
from services.audit.witness.settings import WitnessSettings
from services.generation.settings import GenerationSettings
from services.ingestion.settings import IngestionSettings
from services.query.settings import QuerySettings
from services.resilience.targets import parse_targets
from services.retrieval.settings import RetrievalSettings
from services.runtime.addresses import address_problem
from services.runtime.settings import PREFIX, ConfigurationError, is_loopback, load
from services.store.settings import StoreSettings
from tests.fuzz.source import Source

_CLASSES = (
    GenerationSettings,
    AuditSettings,
    WitnessSettings,
    IngestionSettings,
    QuerySettings,
    RetrievalSettings,
    StoreSettings,
)
_SHOWN = "ADDRESSES__"
_SECRET = "hunter2hunter2hunter2hunter2hunter2"
_FILE = Path(tempfile.mkdtemp(prefix="groundwire-fuzz-")) / "groundwire.toml"

SEEDS = (
    b'data_dir = "/tmp/x"\nzone = "a"\n[addresses]\nstore = "unix:/tmp/s"\nquery = "[::1]:5"\n[failover]\n[drain]\ndelay = 1\n\xff\x00',
    b"[[generation.endpoints]]\nname = 'a'\nkind = 'openai'\nurl = 'http://127.0.0.1:1/v1'\nmodel = 'm'\n[generation]\nmax_tokens = 10\n\xff\x00",
    b"[[authentication.issuers]]\nname = 'https://i'\naudience = ['a']\njwks_file = '/x'\nalgorithm = 'RS256'\n[authentication.issuers.claims]\ngroups = ['/a/b']\n\xff\x01",
    b'\xffGENERATION__ENDPOINTS=[{"name": 1}]\xffADMISSION={"quotas": {}}\xffZONE=' + b"z" * 70 + b"\xffNOPE=1\x00",
    b"[endpoints.retrieval]\nprimary = ['static:///10.0.0.1:1,10.0.0.2:1@z']\n[tls]\n[encryption]\n[authorization.roles]\nx = ['query:*']\n\xffLOG__LEVEL=x\x05",
    b"\xffADDRESSES__QUERY=host:" + b"1" * 6000 + b"\xffADDRESSES__STORE=[::1]:\xc2\xb2" + b"\x00",
    b'\xffENDPOINTS__QUERY__PRIMARY=["a:1"]\xffA=host:\xc2\xb2\xffB=host:' + b"1" * 5000 + b"\x00",
    b"[development]\nsecret = '" + _SECRET.encode() + b"'\n[retrieval.stores.a]\nkind='chroma'\n\xff\x05",
)  # fmt: skip


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [run[:6000] + b"\xffZONE=" + run[:6000] + b"\xff\x00", b'\xffENDPOINTS__QUERY__PRIMARY=["' + run + b'"]\x00']


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    settings_class = source.pick(_CLASSES)
    _FILE.write_bytes(source.part())
    environ = {"HOME": "/nonexistent"}
    while source:
        name, _, value = source.text().partition("=")
        if name and "\0" not in name + value:
            environ[PREFIX + name] = value
            _check_addresses(value)
    with mock.patch.dict(os.environ, environ, clear=True):
        try:
            loaded = load(settings_class, _FILE)
        except ConfigurationError as error:
            assert str(error).strip()
            # Addresses are shown as they were given; a secret that was put there is none.
            assert _SECRET not in str(error) or any(
                _SECRET in value for name, value in environ.items() if _SHOWN in name
            )
            return
        loaded.targets("retrieval")
        is_loopback(loaded.address("query"))
        assert _SECRET not in repr(loaded)


def _check_addresses(text: str) -> None:
    address_problem(text, "50050")
    is_loopback(text)
    try:
        for target in parse_targets(text):
            assert target.address
    except ValueError as error:
        assert "HOST:PORT" in str(error) or "static:" in str(error), error
