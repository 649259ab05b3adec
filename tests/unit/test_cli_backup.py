"""``groundwire backup`` and ``restore`` as a user runs them, without a mesh: the store is opened for the time being."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cli.errors import ExitCode
from cli.main import main
from services.audit.event import Stage
from services.runtime.encryption import open_key_store
from services.runtime.settings import Settings
from services.security.keyring import Keyring
from services.security.master_keys import FileMasterKey
from services.vectorstores.embedded import open_embedded
from tests.support.backup_world import PARTITION, Installation, chunk
from tests.unit.test_on_record import taken_up


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in list(os.environ):
        if variable.startswith("GROUNDWIRE_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(data: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def stored(data: Path) -> Path:
    """A data directory with two documents, the keys of a tenant, and a log."""

    async def store() -> None:
        world = await Installation(data).open()
        index = await open_embedded(data / "store")
        for name in ("bus", "soup"):
            version = await world.put(name)
            await index.upsert_chunks(PARTITION, [chunk(name, version, i, 1) for i in range(3)])
        await index.close()
        await world.close()
        await world.write_log(4)

    asyncio.run(store())
    keys = open_key_store(data / "keys")
    Keyring(FileMasterKey.create(data / "keys" / "master.key"), keys).for_tenant("acme")
    keys.close()
    for directory in ("audit", "witness"):
        (data / directory / "signing-key").write_text("secret")
        (data / directory / "signing-key").chmod(0o600)
    return data


def test_a_round(run: Run, stored: Path, tmp_path: Path) -> None:
    backup, keys, new = tmp_path / "backup", tmp_path / "keys.tar", tmp_path / "new"
    done = run("backup", backup, "--keys", keys)
    assert done.code == ExitCode.OK, done.err
    assert "acme\thr\t2\t6\n" in done.out
    assert "2 documents in 6 passages, 4 audit events" in done.out
    assert f"{keys}: the tenants' keys, wrapped by the master key, the audit log's signing key" in done.out
    assert f"the master key ({stored}/keys/master.key)" in done.err
    verified = run("backup", "verify", backup)
    assert verified.out.startswith("acme\thr\t2\t6\nintact: 2 documents")
    (digest,) = {line for line in done.out.splitlines() if line.startswith("sha256 ")}
    assert digest in verified.out
    restored = run("restore", backup, "--keys", keys, "--data-dir", new)
    assert restored.code == ExitCode.OK, restored.err
    assert "restored and verified: 2 documents in 6 passages, audit log intact with 4 events" in restored.out
    assert f"Put the master key back as {new}/keys/master.key" in restored.err
    assert "has to be done again" in restored.err
    assert "signing-key" not in restored.err
    assert (new / "audit" / "signing-key").read_text() == "secret"

    async def count() -> int:
        index = await open_embedded(new / "store")
        try:
            return await index.count_chunks(PARTITION)
        finally:
            await index.close()

    assert asyncio.run(count()) == 6


def test_one_file_and_json(run: Run, stored: Path, tmp_path: Path) -> None:
    backup, new = tmp_path / "monday.tar", tmp_path / "new"
    written = json.loads(run("backup", backup, "--output", "json").out)
    assert (written["path"], written["lacking"]) == (str(backup), [])
    assert written["collections"] == [{"tenant": "acme", "collection": "hr", "documents": 2, "chunks": 6}]
    assert backup.stat().st_mode & 0o777 == 0o600
    verified = json.loads(run("backup", "verify", backup, "-o", "json").out)
    assert verified == {**{key: value for key, value in written.items() if key != "path"}, "intact": True}
    restored = run("restore", backup, "--data-dir", new, "--output", "json")
    document = json.loads(restored.out)
    assert document["collections"] == written["collections"]
    assert document["audit"] == {"events": 4, "log": "restored", "lost_events": 0}
    assert "Keys are missing for acme" in restored.err
    assert f"Put the audit log's signing key back as {new}/audit/signing-key" in restored.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "monday.tar", "new"]


def test_what_is_done_is_on_record(run: Run, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = json.loads(run("backup", tmp_path / "one", "-o", "json").out)
    run("backup", "--keys", tmp_path / "keys")
    run("restore", tmp_path / "one", "--data-dir", tmp_path / "new")
    events = asyncio.run(taken_up(Settings(), 4, monkeypatch))
    ended = {event.method: event for event in events if event.stage is Stage.ENDED}
    assert ended.keys() == {"groundwire backup", "groundwire backup --keys"}
    made = ended["groundwire backup"]
    name = f"backups/{written['backup_id']}"
    assert (made.resource, made.changes) == (name, (name, f"sha256:{written['sha256']}"))
    begun, restored = asyncio.run(taken_up(Settings().replace(data_dir=tmp_path / "new"), 2, monkeypatch))
    assert (begun.stage, restored.method) == (Stage.BEGUN, "groundwire restore")
    assert restored.changes[:2] == (name, f"sha256:{written['sha256']}")
    assert "audit log restored: 4 events of it, 0 known to be lost" in restored.changes
    assert written["audit"]["checkpoint"].splitlines()[2] in restored.changes


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("backup", "--data-dir", "/nowhere/at/all"), ExitCode.USAGE, "say where the backup goes"),
        (("backup", "one", "--keys", "one/keys"), ExitCode.USAGE, "keys never go into the backup of the data"),
        (("backup", "/tmp/never-made"), ExitCode.FAILED, "nothing to back up"),
        (("backup", "verify"), ExitCode.USAGE, "Missing argument"),
        (("backup", "verify", "/nowhere"), ExitCode.FAILED, "there is no such backup"),
        (("restore", "/nowhere"), ExitCode.FAILED, "there is no such backup"),
        (("restore", "/nowhere", "--keys", "/nowhere"), ExitCode.FAILED, "there is no such file"),
        (("restore", "/nowhere", "--checkpoint", "/nowhere"), ExitCode.USAGE, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (code, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_refusals_of_what_is_there(run: Run, stored: Path, tmp_path: Path) -> None:
    backup = tmp_path / "one"
    run("backup", backup)
    assert "exists already" in run("backup", backup).err
    refused = run("restore", backup)
    assert refused.code == ExitCode.FAILED
    assert "is not empty: name another place, or use --replace" in refused.err
    (backup / "catalog.sqlite3").write_bytes(b"")
    for command in (("backup", "verify", backup), ("restore", backup, "--data-dir", tmp_path / "new")):
        damaged = run(*command)
        assert damaged.code == ExitCode.FAILED
        assert "error: the backup is damaged: catalog.sqlite3 is damaged\n" in damaged.err
    assert not (tmp_path / "new").exists()
    (tmp_path / "no.tar").write_bytes(b"not a tar" * 100)
    assert "is no backup, or it is damaged" in run("backup", "verify", tmp_path / "no.tar").err


def test_a_document_that_the_index_has_lost_is_named(run: Run, stored: Path, tmp_path: Path) -> None:
    async def lose() -> None:
        index = await open_embedded(stored / "store")
        await index.delete_chunks(PARTITION, "soup")
        await index.close()

    asyncio.run(lose())
    done = run("backup", tmp_path / "one")
    assert done.code == ExitCode.FAILED
    assert "1 document not whole in the index" in done.err
    assert "acme/hr/soup" in done.err
    assert run("backup", "verify", tmp_path / "one").code == ExitCode.OK
