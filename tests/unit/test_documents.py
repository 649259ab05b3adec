"""What the documents say is so: targets, links, settings, and the list of what is not built yet."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.services import NAMES, settings_class
from services.audit.servicer import AuditServicer
from services.generation.servicer import GenerationServicer
from services.ingestion.servicer import IngestionServicer
from services.monitoring.servicer import MonitoringServicer
from services.query.servicer import QueryServicer
from services.resilience.breaker import BreakerPolicy
from services.retrieval.servicer import RetrievalServicer
from services.runtime import health_watch
from services.runtime.options import FailoverOptions
from services.runtime.settings import load
from services.runtime.unbuilt import unbuilt_methods
from services.store.servicer import StoreServicer
from tests.support.documents import blocks
from tests.support.processes import ROOT

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
AVAILABILITY = ROOT / "docs" / "availability.md"
SERVICERS = (
    QueryServicer,
    IngestionServicer,
    RetrievalServicer,
    GenerationServicer,
    StoreServicer,
    AuditServicer,
    MonitoringServicer,
)


def test_the_table_of_what_is_not_built_is_right() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## Not built yet")[2]
    rows = re.findall(r"^\| (\w+Service) \| ([\w, ]+) \|$", section, re.MULTILINE)
    stated = {service: set(methods.split(", ")) for service, methods in rows}
    built = {servicer.__name__.removesuffix("r"): unbuilt_methods(servicer) for servicer in SERVICERS}
    assert stated == {service: set(names) for service, names in built.items() if names}


def test_every_make_target_that_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (README, OPERATIONS, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"):
        named = set(re.findall(r"`make ([a-z0-9 -]+)`|^\$ make ([a-z0-9-]+)", document.read_text(), re.MULTILINE))
        for words in named:
            assert set(" ".join(words).split()) <= targets, (document.name, words)


def test_every_file_that_documents_link_to_exists() -> None:
    for document in (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "examples" / "grpcurl.md"):
        for link in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), (document.name, link)


def test_the_settings_of_the_documents_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "groundwire.toml"
    guides = sorted((ROOT / "docs").glob("*.md"))
    assert {OPERATIONS, AVAILABILITY} <= set(guides)
    for block in (block for guide in guides for block in blocks(guide, "toml")):
        file.write_text(block.body)
        for name in NAMES:
            load(settings_class(name), file)
    for block in blocks(OPERATIONS, "sh"):
        for line in block.body.splitlines():
            words = shlex.split(line)
            while "=" in words[0]:
                variable, _, value = words.pop(0).partition("=")
                monkeypatch.setenv(variable, value)
            if words[:2] == ["groundwire", "serve"]:
                load(settings_class(words[2]))
            else:
                assert words[0] in ("chroma", "groundwire")


def test_the_guide_to_availability_has_the_numbers_of_the_code() -> None:
    text = AVAILABILITY.read_text()
    for name, field in FailoverOptions.model_fields.items():
        default = f"{field.default:g}"
        assert re.search(rf"`(failover)?\.{name}`[^\n]*\b{re.escape(default)}\b", text), name
    policy = BreakerPolicy()
    assert f"opens after {policy.consecutive} failures in a row" in text
    assert f"at least {policy.minimum} calls in {policy.window:g} seconds" in text
    assert f"after {policy.open_for:g} seconds with at most {policy.probes} calls at a time" in text
    assert f"up to {policy.max_open_for:g} seconds" in text
    assert (health_watch.HEARTBEAT_INTERVAL, health_watch.HEARTBEAT_TIMEOUT) == (0.5, 0.8), "twice a second within 0.8"
