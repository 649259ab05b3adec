"""Commands that change something are on record: announced before, confirmed after, taken up by the audit service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cli.errors import CliError
from cli.on_record import on_record
from services.audit.adapters import command_spools
from services.audit.event import AuditEvent, Decision, Stage
from services.audit.log import AuditLog
from services.corpus.errors import Unavailable
from services.journal.memory import MemoryFiles
from services.journal.spool import Spool
from services.runtime.options import SpoolOptions
from services.runtime.settings import Settings
from tests.support.audit_world import LOG
from tests.support.serving import until


async def taken_up(settings: Settings, count: int, monkeypatch: pytest.MonkeyPatch) -> list[AuditEvent]:
    """The first ``count`` events that an audit service of the same directory finds."""
    monkeypatch.setattr(command_spools, "_INTERVAL", 0.01)
    log = await AuditLog.open(MemoryFiles(), MemoryFiles(), LOG)
    spools = command_spools.command_spools(settings.spool_path(""), log)
    spools.start()
    try:
        await until(lambda: log.size >= count)
        await until(lambda: not list(settings.spool_path("").iterdir()))
    finally:
        await spools.close()
    events = [logged.event for logged in await log.read(range(log.size))]
    await log.close()
    return events


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


async def test_a_command_is_announced_and_confirmed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_record(settings, "keys shred", "tenants/acme/keys", tenant="acme"):
        pass
    begun, ended = await taken_up(settings, 2, monkeypatch)
    assert (begun.stage, ended.stage) == (Stage.BEGUN, Stage.ENDED)
    assert begun.event_id == f"{ended.event_id}.1"
    assert (ended.tenant, ended.method, ended.decision) == ("acme", "groundwire keys shred", Decision.ALLOWED)
    assert ended.principal.startswith("local:")
    assert (begun.resource, begun.changes, ended.changes) == ("tenants/acme/keys", (), ("tenants/acme/keys",))


async def test_what_failed_is_not_claimed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CliError, match="there are no keys"), on_record(settings, "keys rotate", "master-keys"):
        raise CliError("there are no keys")
    _, ended = await taken_up(settings, 2, monkeypatch)
    assert (ended.code, ended.changes) == (2, ())


async def test_what_was_interrupted_is_said_to_be(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), on_record(settings, "keys rotate", "master-keys"):
        raise KeyboardInterrupt
    begun, closed = await taken_up(settings, 2, monkeypatch)
    assert (begun.stage, closed.stage, closed.changes) == (Stage.BEGUN, Stage.INTERRUPTED, ())


async def test_a_command_that_still_runs_is_left_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_spools, "_INTERVAL", 0.001)
    log = await AuditLog.open(MemoryFiles(), MemoryFiles(), LOG)
    spools = command_spools.command_spools(settings.spool_path(""), log)
    looks = 0
    found = spools._found

    def counted() -> list[Path]:
        nonlocal looks
        looks += 1
        return found()

    monkeypatch.setattr(spools, "_found", counted)
    with on_record(settings, "revoke", "tokens/1"):
        spools.start()
        await until(lambda: looks > 3)
        assert log.size == 0
    await until(lambda: log.size == 2)
    await spools.close()
    await log.close()


def test_nothing_is_done_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    done = False
    with (
        pytest.raises(CliError, match="nothing was changed"),
        on_record(Settings(spool=SpoolOptions(directory=tmp_path / "spool")), "revoke", "tokens/1"),
    ):
        done = True
    assert not done


def test_what_was_done_is_not_called_undone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CliError, match="it was done"), on_record(settings, "revoke", "tokens/1"):
        monkeypatch.setattr(Spool, "failure", property(lambda _: Unavailable("the disk is full")))


async def test_commands_may_run_in_a_loop_of_their_own(settings: Settings) -> None:
    async def command() -> None:
        with on_record(settings, "keys shred", "tenants/acme/keys"):
            await asyncio.sleep(0)

    await command()
    assert len(list(settings.spool_path("").iterdir())) == 1
