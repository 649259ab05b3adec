"""``groundwire keys``, run as a user runs it, over a real key store; what needs a store's answer is elsewhere."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli.errors import ExitCode
from cli.main import main
from services.runtime.encryption import Encryption, open_key_store
from services.runtime.options import EncryptionOptions
from services.security.encryption import KeyRecord
from services.security.keyring import Keyring
from services.security.master_keys import FileMasterKey, NoMasterKey, SecretMasterKey, generate_key

PLACE = ("d", 1, "f")


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
    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(["keys", *arguments])
        return Ended(code, *capsys.readouterr())

    return run


def seal(data: Path, *tenants: str, master: str = "file:") -> dict[str, bytes]:
    """Let tenants have keys, and a value sealed under them."""
    keys = Encryption.open(EncryptionOptions(master_key=master), data / "keys")
    tokens = {tenant: keys.sealer.seal(tenant, *PLACE, tenant.encode()) for tenant in tenants}
    keys._store.close()
    return tokens


def opened(data: Path, tokens: dict[str, bytes], *, master: str = "file:") -> None:
    keys = Encryption.open(EncryptionOptions(master_key=master), data / "keys")
    for tenant, token in tokens.items():
        assert keys.sealer.open(tenant, *PLACE, token) == tenant.encode()
    keys._store.close()


def records(data: Path) -> dict[str, KeyRecord]:
    store = open_key_store(data / "keys")
    found = {record.tenant: record for record in Keyring(NoMasterKey(), store).list_tenants()}
    store.close()
    return found


def masters_of(data: Path) -> set[str]:
    return {key.master_key_id for record in records(data).values() for key in record.keys}


# --- generate -------------------------------------------------------------------------------------------------------


def test_a_generated_key_is_the_owners_alone_and_never_overwritten(run: Run, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "master.key"
    done = run("generate", str(path))
    assert done.code == 0
    assert f'encryption.master_key = "file:{path}"' in done.out
    assert "away from the data" in done.err
    assert path.stat().st_mode & 0o777 == 0o600
    (word,) = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert word not in done.out + done.err
    assert SecretMasterKey.from_text(word).key_id in done.out
    again = run("generate", str(path))
    assert again.code == ExitCode.FAILED
    assert "there is a master key already" in again.err
    assert word in path.read_text()
    seal(data, "acme", master=f"file:{path}")


def test_without_a_file_it_is_the_one_of_the_settings(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("generate").code == 0
    assert (data / "keys" / "master.key").exists()
    monkeypatch.setenv("GROUNDWIRE_ENCRYPTION__MASTER_KEY", f"file:{tmp_path}/m/k")
    assert run("generate").code == 0
    assert (tmp_path / "m" / "k").exists()
    monkeypatch.setenv("GROUNDWIRE_ENCRYPTION__MASTER_KEY", "env:MY_KEY")
    refused = run("generate")
    assert (refused.code, "--print" in refused.err) == (ExitCode.USAGE, True)


def test_a_printed_key_stands_alone_and_works(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = run("generate", "--print"), run("generate", "--print")
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=\n", one.out)
    assert one.out != other.out
    assert not data.exists()
    monkeypatch.setenv("MY_KEY", one.out.strip())
    opened(data, seal(data, "acme", master="env:MY_KEY"), master="env:MY_KEY")
    assert run("generate", "x", "--print").code == ExitCode.USAGE


# --- list -----------------------------------------------------------------------------------------------------------


def test_listing_makes_nothing(run: Run, data: Path) -> None:
    done = run("list", "--output", "json")
    assert (done.code, json.loads(done.out)) == (0, {"master_key_ids": [], "tenants": []})
    assert not data.exists()


def test_tenants_are_listed_without_a_byte_of_their_keys(run: Run, data: Path) -> None:
    seal(data, "acme", "bolt")
    assert run("shred", "bolt", "--yes", "bolt").code == 0
    listed: dict[str, Any] = json.loads(run("list", "--output", "json").out)
    (master,) = listed["master_key_ids"]
    acme, bolt = listed["tenants"]
    assert (acme["tenant"], acme["state"], acme["shred_time"]) == ("acme", "active", None)
    assert [(key["purpose"], key["number"], key["master_key_id"]) for key in acme["keys"]] == [
        ("data", 1, master),
        ("root", 1, master),
    ]
    assert (bolt["tenant"], bolt["state"], bolt["keys"]) == ("bolt", "shredded", [])
    for output in ("text", "table", "json"):
        shown = run("list", "--output", output)
        assert shown.code == 0
        for word in ("acme", "active", "bolt", "shredded", master):
            assert word in shown.out + shown.err
        for key in records(data)["acme"].keys:
            assert key.wrapped.hex() not in shown.out
            assert repr(key.wrapped)[2:-1] not in shown.out


def test_listing_works_without_the_master_key(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(data, "acme")
    monkeypatch.setenv("GROUNDWIRE_ENCRYPTION__MASTER_KEY", "env:NOT_SET")
    done = run("list", "--output", "text")
    assert done.code == 0
    assert "acme" in done.out
    assert "not at hand" in done.err


def test_where_nothing_is_encrypted_there_are_no_keys(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_ENCRYPTION__ENABLED", "false")
    for command in (["list"], ["generate"], ["rotate", "--master"], ["shred", "acme"]):
        assert run(*command).code == ExitCode.USAGE


# --- rotate --master ------------------------------------------------------------------------------------------------


def test_a_new_master_key_wraps_and_the_older_one_can_be_destroyed(run: Run, data: Path) -> None:
    tokens = seal(data, "acme", "bolt", "cask")
    (old,) = masters_of(data)
    done = json.loads(run("rotate", "--master", "--output", "json").out)
    (new,) = masters_of(data)
    assert new != old
    assert (done["master_key_id"], done["rewrapped"], done["destroyed_master_key_ids"]) == (new, 3, [])
    opened(data, tokens)
    assert FileMasterKey(data / "keys" / "master.key").key_ids == (new, old)
    done = json.loads(run("rotate", "--master", "--retire", "--output", "json").out)
    assert (done["rewrapped"], done["destroyed_master_key_ids"]) == (0, [old])
    assert FileMasterKey(data / "keys" / "master.key").key_ids == (new,)
    opened(data, tokens)


@pytest.mark.parametrize("wrapped", [0, 2])
def test_an_interrupted_rotation_is_finished_before_another_key_is_made(run: Run, data: Path, wrapped: int) -> None:
    tokens = seal(data, "acme", "bolt", "cask")
    master = FileMasterKey(data / "keys" / "master.key")
    new = master.add_key()
    store = open_key_store(data / "keys")

    class EndedHereError(Exception):
        pass

    def progress(state: Any) -> None:
        if state.checked == wrapped:
            raise EndedHereError

    if wrapped:
        with pytest.raises(EndedHereError):
            Keyring(master, store).rewrap_all(progress=progress)
    store.close()
    assert len(masters_of(data)) == (2 if wrapped else 1)
    done = run("rotate", "--master", "--output", "text")
    assert done.code == 0
    assert "going on" in done.err
    assert masters_of(data) == {new}
    assert len(master.key_ids) == 2
    opened(data, tokens)


def test_a_master_key_elsewhere_is_rotated_by_its_holder(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = generate_key(), generate_key()
    monkeypatch.setenv("GROUNDWIRE_ENCRYPTION__MASTER_KEY", "env:MY_KEY")
    monkeypatch.setenv("MY_KEY", old)
    tokens = seal(data, "acme", master="env:MY_KEY")
    steps = run("rotate", "--master")
    assert steps.code == ExitCode.USAGE
    assert "groundwire keys generate --print" in steps.err
    assert run("rotate", "--master", "--retire").code == ExitCode.USAGE
    monkeypatch.setenv("MY_KEY", f"{new},{old}")
    assert run("rotate", "--master").code == 0
    assert masters_of(data) == {SecretMasterKey.from_text(new).key_id}
    monkeypatch.setenv("MY_KEY", new)
    opened(data, tokens, master="env:MY_KEY")


def test_a_master_key_moves_from_one_holder_to_another(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = seal(data, "acme", "bolt")
    path = tmp_path / "m" / "k"
    assert run("generate", str(path)).code == 0
    done = run("rotate", "--master", "--to", f"file:{path}")
    assert done.code == 0
    assert f'encryption.master_key = "file:{path}"' in done.err
    (data / "keys" / "master.key").unlink()
    opened(data, tokens, master=f"file:{path}")
    monkeypatch.setenv("GROUNDWIRE_ENCRYPTION__MASTER_KEY", f"file:{path}")
    assert run("rotate", "--master", "--to", f"file:{path}").code == 0
    for wrong in ("nothing", "file:", "kms:x", f"file:{tmp_path}/missing"):
        refused = run("rotate", "--master", "--to", wrong)
        assert refused.code in (ExitCode.USAGE, ExitCode.UNAVAILABLE), wrong
        assert "unexpected" not in refused.err
    opened(data, tokens, master=f"file:{path}")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("acme", "--master"),
        ("acme", "--all-tenants"),
        ("acme", "--to", "env:X"),
        ("--master", "--to", "env:X", "--retire"),
    ],
)
def test_what_to_rotate_must_be_clear(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("rotate", *arguments).code == ExitCode.USAGE


def test_an_unknown_tenant_is_named(run: Run, data: Path) -> None:
    assert "--data-dir" in run("rotate", "acme").err
    seal(data, "acme")
    for command in (("rotate", "bolt"), ("shred", "bolt", "--yes", "bolt")):
        refused = run(*command)
        assert refused.code == ExitCode.FAILED
        assert "tenant bolt has no keys" in refused.err


# --- shred ----------------------------------------------------------------------------------------------------------


def test_shredding_asks_for_the_name(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = seal(data, "acme", "bolt")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    refused = run("shred", "acme")
    assert (refused.code, "--yes acme" in refused.err) == (ExitCode.USAGE, True)
    for typed in ("bolt\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        assert run("shred", "acme").code == ExitCode.USAGE
    assert run("shred", "acme", "--yes", "bolt").code == ExitCode.USAGE
    opened(data, tokens)
    monkeypatch.setattr("sys.stdin", Terminal("acme\n"))
    done = run("shred", "acme")
    assert done.code == 0
    assert "unreadable" in done.err.lower()
    assert "2 keys destroyed" in done.out
    assert records(data)["acme"].keys == ()
    opened(data, {"bolt": tokens["bolt"]})


def test_shredding_again_gives_the_same_receipt(run: Run, data: Path) -> None:
    seal(data, "acme")
    (master,) = masters_of(data)
    # It must work when the master key is lost, too.
    (data / "keys" / "master.key").unlink()
    first = json.loads(run("shred", "acme", "--yes", "acme", "--output", "json").out)
    again = json.loads(run("shred", "acme", "--output", "json").out)
    assert (first["tenant"], first["keys_destroyed"], first["master_key_ids"]) == ("acme", 2, [master])
    assert again == {**first, "keys_destroyed": 0, "master_key_ids": []}
    assert not (data / "keys" / "master.key").exists()
