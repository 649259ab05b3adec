"""Settings from file and environment: precedence, and errors that name what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.runtime.settings import (
    CONFIG_VARIABLE,
    SERVICES,
    ConfigurationError,
    Settings,
    is_loopback,
    load,
    socket_path,
)
from services.store.settings import StoreSettings


def write(directory: Path, text: str) -> Path:
    file = directory / "groundwire.toml"
    file.write_text(text)
    return file


# --- precedence -----------------------------------------------------------------------------------------------------


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = load(Settings)
    assert settings.data_dir == tmp_path / "groundwire"
    assert settings.reflection is None
    assert {name: settings.address(name) for name in SERVICES if name not in ("store", "witness")} == {
        "query": "127.0.0.1:50050",
        "ingestion": "127.0.0.1:50051",
        "retrieval": "127.0.0.1:50052",
        "generation": "127.0.0.1:50053",
        "audit": "127.0.0.1:50054",
        "monitoring": "127.0.0.1:50055",
    }
    assert settings.address("store") == f"unix:{tmp_path}/groundwire/store.sock"
    assert settings.address("witness") == f"unix:{tmp_path}/groundwire/witness.sock"


def test_the_environment_goes_before_the_file_before_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path,
        """
        data_dir = "/from/file"
        reflection = true
        [log]
        level = "debug"
        format = "json"
        [addresses]
        query = "127.0.0.1:1"
        retrieval = "127.0.0.1:2"
        """,
    )
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", "/from/environment")
    monkeypatch.setenv("GROUNDWIRE_LOG__LEVEL", "error")
    monkeypatch.setenv("GROUNDWIRE_ADDRESSES__RETRIEVAL", "127.0.0.1:3")
    settings = load(Settings, file)
    assert settings.data_dir == Path("/from/environment")
    assert settings.reflection is True
    # One variable changes one value of its section, not the section.
    assert (settings.log.level, settings.log.format) == ("error", "json")
    assert settings.address("query") == "127.0.0.1:1"
    assert settings.address("retrieval") == "127.0.0.1:3"
    assert settings.address("ingestion") == "127.0.0.1:50051"


def test_a_section_can_be_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_DEVELOPMENT", '{"subject": "alice", "roles": ["reader"]}')
    monkeypatch.setenv("GROUNDWIRE_DEVELOPMENT__GROUPS", '["hr"]')
    development = load(Settings).development
    assert (development.subject, development.roles, development.groups) == ("alice", ("reader",), ("hr",))
    assert development.tenant == "default"


def test_the_file_can_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(write(tmp_path, '[log]\nlevel = "debug"')))
    assert load(Settings).log.level == "debug"
    other = tmp_path / "other.toml"
    other.write_text('[log]\nlevel = "warning"')
    assert load(Settings, other).log.level == "warning"


def test_a_section_of_another_service_is_not_looked_at(tmp_path: Path) -> None:
    file = write(tmp_path, '[retrieval]\nwhatever = 1\n[store]\nvectors_url = "chroma+http://localhost:8000"')
    assert load(StoreSettings, file).store.vectors_url == "chroma+http://localhost:8000"
    load(Settings, file)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("GROUNDWIRE_LOG__LEVEL", "loud", "debug, info, warning or error"),
        ("GROUNDWIRE_DRAIN__GRACE", "-1", "a number from 0 to 600"),
        ("GROUNDWIRE_DRAIN__DELAY", "soon", "must be a number"),
        ("GROUNDWIRE_DRAIN__GRACE", "", "must be a number"),
        ("GROUNDWIRE_REFLECTION", "perhaps", "must be true or false"),
        ("GROUNDWIRE_STORE__VECTORS_URL", "http://x", "has none of the forms that are allowed"),
        ("GROUNDWIRE_LOG", "nonsense", "JSON"),
        ("GROUNDWIRE_DEVELOPMENT__ROLES", "admin,reader", "JSON"),
    ],
)
def test_a_bad_value_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as refused:
        load(StoreSettings)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{variable}: ")
    assert why in line


def test_all_problems_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, '[drain]\ndelay = "x"\n[log]\nlevel = "loud"\ncolour = 1')
    monkeypatch.setenv("GROUNDWIRE_DRAIN__GRACE", "-1")
    with pytest.raises(ConfigurationError) as refused:
        load(Settings, file)
    lines = sorted(str(refused.value).splitlines())
    assert len(lines) == 4
    assert lines[3].startswith("GROUNDWIRE_DRAIN__GRACE: ")
    assert [line.split(": ")[1] for line in lines[:3]] == ["drain.delay", "log.colour", "log.level"]
    assert all(line.startswith(f"{file}: ") for line in lines[:3])


@pytest.mark.parametrize(
    "variable",
    [
        "GROUNDWIRE_DATADIR",
        "GROUNDWIRE_LOGS__LEVEL",
        "GROUNDWIRE_",
        "GROUNDWIRE_LOG_LEVEL",
        "GROUNDWIRE_RETREIVAL__TOP_K",
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigurationError, match=rf"^{variable}: no such setting$"):
        load(Settings)


@pytest.mark.parametrize("variable", ["GROUNDWIRE_LOG__LEVELS", "GROUNDWIRE_ADDRESSES__STORES"])
def test_an_unknown_name_in_a_section_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigurationError, match=rf"^{variable}: "):
        load(Settings)


def test_a_name_below_a_value_that_has_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR__STORE", "/x")
    with pytest.raises(ConfigurationError, match=r"GROUNDWIRE_DATA_DIR"):
        load(Settings)


def test_an_unknown_section_of_the_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, '[secruity]\nissuer = "x"\n[drain]\ngrace = 1')
    with pytest.raises(ConfigurationError, match=r"groundwire.toml: secruity: no such setting$"):
        load(Settings, file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.toml: cannot be read: No such file"):
        load(Settings, tmp_path / "nowhere.toml")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load(Settings, write(tmp_path, "[log"))
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load(Settings, file)


def test_a_bad_value_is_not_repeated_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_DRAIN__GRACE", "hunter2")
    with pytest.raises(ConfigurationError) as refused:
        load(Settings)
    assert "hunter2" not in str(refused.value)


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.data_dir = Path("/x")  # type: ignore[misc] # that is the point
    with pytest.raises(ValidationError, match="frozen"):
        settings.log.level = "debug"  # type: ignore[misc] # that is the point
    changed = settings.replace(data_dir=Path("/x"))
    assert (changed.data_dir, settings.data_dir == Path("/x")) == (Path("/x"), False)


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.255.0.3:1", "localhost:1", "[::1]:1", "unix:/x", "unix:x"])
def test_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", ":1", "1.2.3.4:1", "localhost.example.org:1", "example.org:1", "", "127.0.0.1", "*:1"],
)
def test_anything_else_is_not_loopback(address: str) -> None:
    assert not is_loopback(address)


def test_a_socket_lives_in_the_data_directory_while_its_path_is_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert socket_path(tmp_path, "store") == tmp_path / "store.sock"
    assert socket_path(Path("relative"), "store") == Path.cwd() / "relative" / "store.sock"
    deep = tmp_path / ("x" * 100)
    path = socket_path(deep, "store")
    long_temporary = tmp_path / ("t" * 90)
    with monkeypatch.context() as there:
        there.setattr("tempfile.tempdir", str(long_temporary))
        assert len(os.fsencode(socket_path(deep, "store"))) < 108
    assert len(os.fsencode(path)) <= 100
    assert str(os.getuid()) in path.parent.name
    assert path == socket_path(deep, "store")
    assert path != socket_path(tmp_path / ("y" * 100), "store")
    assert path != socket_path(deep, "audit")
