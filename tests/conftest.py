"""What tests of many kinds share."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from interceptors import current
from services.journal import spool
from tests.support.serving import Serving

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Tests start hundreds of processes: each of them would compile all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Whoever runs the tests in the background may ignore Ctrl-C, and every process that is started would as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_ROOT = Path(__file__).resolve().parent.parent
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of whoever runs the tests reaches them, nor their data directory: each test has a default of its own.

    With the development key of that directory commands would carry a token of their own, in some tests and not others.
    """
    for name in list(os.environ):
        if name.upper().startswith(("GROUNDWIRE_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "user-data" / str(next(_numbers))))


@pytest.fixture(autouse=True)
def clean_logging() -> None:
    """What a command configured in one test does not silence another.

    Tracebacks are plain, as the product's are: structlog's default takes seconds to draw one with its local variables.
    """
    structlog.reset_defaults()
    *processors, _ = structlog.get_config()["processors"]
    console = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, console])


@pytest.fixture(autouse=True)
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that other tests keep busy is no disk that does not answer; what is about that says so."""
    monkeypatch.setattr(spool, "DISK_PATIENCE", 60.0)


@pytest.fixture
def served_request() -> Iterator[None]:
    """As if a request with the id "from-the-call" were being served."""
    token = current.request_id.set("from-the-call")
    yield
    current.request_id.reset(token)


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    """Starts servers through the production assembly; all are stopped when the test ends."""
    serving = Serving(tmp_path)
    yield serving
    await serving.stop()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working copy."""
    return _ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public retrieval collections, which are not part of the repository."""
    directory = _ROOT.parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("the shared collections are not here")
    return directory


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order", choices=("given", "random"), default="given", help="in which order tests run")
    parser.addoption("--order-seed", type=int, help="repeats a random order; printed at the beginning")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Chosen once: processes that run tests side by side have to agree on the order.
    if config.option.order == "random" and config.option.order_seed is None:
        given = getattr(config, "workerinput", {}).get("order_seed")
        config.option.order_seed = random.SystemRandom().randrange(1_000_000) if given is None else given


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a process that runs tests beside others the seed of their order."""
    node.workerinput["order_seed"] = node.config.option.order_seed


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.option.order == "given":
        return None
    return f"random order: --order random --order-seed {config.option.order_seed}"


# First: pytest puts together afterwards what shares a fixture with parameters.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real processes first: their files take longest, and one that begins last leaves cores idle.

    With ``--order random`` files are shuffled, and the tests within each; files stay whole, since tests share servers.
    """
    if config.option.order == "random":
        drawn = random.Random(config.option.order_seed)
        files = {item.path: drawn.random() for item in items}
        places = {
            item: (files[item.path], str(item.path), item.get_closest_marker("last") is not None, drawn.random())
            for item in items
        }
        items.sort(key=places.__getitem__)
    else:
        items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
