"""What is wrong with settings: where each was set, what is allowed, and none of the libraries' own words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.services import NAMES, settings_class
from services.generation.settings import GenerationSettings
from services.runtime.settings import ConfigurationError, Settings, load

# What pydantic, its settings and Python would say.
_LIBRARY = re.compile(
    r"value error|assertion|input should|valid (integer|number|string|tuple|dict|bool)|instance of|pydantic|field required"
    r"|extra inputs|unable to parse|codec|errors? parsing|Options\b|EnvSettings",
    re.IGNORECASE,
)


def problems_of(settings: type[Settings] = Settings, file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        load(settings, file)
    lines = str(refused.value).splitlines()
    assert [line for line in lines if _LIBRARY.search(line)] == []
    return lines


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("LOG__LEVEL", "loud", "must be debug, info, warning or error"),
        ("LOG__LEVLE", "info", "no such setting; did you mean level?"),
        ("FAILOVER__ATTEMPTS", "2.5", "must be a whole number from 1 to 10"),
        ("FAILOVER__ATTEMPTS", "many", "must be a whole number from 1 to 10"),
        ("DRAIN__GRACE", "nan", "must be a number from 0 to 600"),
        ("CONNECTIONS__HANDSHAKE", "0", "must be a number, above 0 and at most 600"),
        ("ADMISSION__INITIAL_LIMIT", "0", "must be a whole number from 1 to 100000"),
        ("ADMISSION__QUOTA__REQUEST_BURST", "-1", "must be a number, at least 0"),
        ("ADMISSION__ENABLED", "maybe", "must be true or false"),
        ("REFLECTION", "maybe", "must be true or false"),
        ("ZONE", "z" * 64, "must be a text of at most 63 characters"),
        ("LOG", '"x"', "must be a section with settings of its own"),
        ("LOG", "[1]", "must be a section with settings of its own"),
        ("DEVELOPMENT__ROLES", '{"a": 1}', "must be a list"),
        ("DEVELOPMENT__ROLES", "[1]", "[0]: must be a text"),
        ("ENCRYPTION__MASTER_KEY", "x", "has none of the forms that are allowed: file: (a generated one"),
        ("ADMISSION__TENANTS", '{"a": {"weight": 0}}', "a.weight: must be a number, above 0 and at most 1000"),
        ("ADMISSION__TENANTS", '{"a": {"size": 0}}', "a.size: no such setting"),
        ("AUTHORIZATION__ROLES", '{"x y": []}', "'x y' cannot name a role"),
        ("AUTHENTICATION__ISSUERS", '[{"name": "x", "algorithm": "none"}]', "[0].algorithm: must be HS256, RS256,"),
        ("AUTHENTICATION__ISSUERS", '[{"algorithm": "RS256"}]', "[0].name: is missing: it must be a text that is not"),
        ("AUTHENTICATION__ISSUERS", '[{"name": "x", "algorithm": "RS256"}]', "[0]: HS256 takes a secret, the other"),
        ("DEVELOPMENT__ROLES", "admin", "a section or a list in the environment is written as JSON, such as"),
        ("ENDPOINTS__QUERY__PRIMARY", '["http://h:1"]', "'http://h:1' is not HOST:PORT"),
        ("DATA_DIR", "", "is empty; it must be the path of a directory"),
        (
            "AUTHENTICATION__ISSUERS",
            '[{"name": "x", "algorithm": "RS256", "jwks_url": "gopher://x"}]',
            "[0].jwks_url: has none of the forms that are allowed: Where its key set is: https://HOST/PATH, or http://",
        ),
    ],
)
def test_a_variable_is_named_with_what_is_allowed(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GROUNDWIRE_{variable}", value)
    (line,) = problems_of()
    assert line.startswith(f"GROUNDWIRE_{variable}: {told}")


def test_a_variable_is_named_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("groundwire_log__level", "loud")
    assert problems_of() == ["groundwire_log__level: must be debug, info, warning or error"]


def test_the_place_is_that_of_the_value_and_not_of_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "groundwire.toml"
    file.write_text('[log]\nlevel = "loud"\n')
    monkeypatch.setenv("GROUNDWIRE_LOG", '{"format": "json"}')
    monkeypatch.setenv("GROUNDWIRE_DRAIN", '{"grace": -1}')
    assert problems_of(file=file) == [
        f"{file}: log.level: must be debug, info, warning or error",
        "GROUNDWIRE_DRAIN: grace: must be a number from 0 to 600",
    ]


def test_what_two_settings_do_to_each_other_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "groundwire.toml"
    file.write_text("[admission]\nmax_limit = 3\n")
    monkeypatch.setenv("GROUNDWIRE_ADMISSION__MIN_LIMIT", "4")
    assert problems_of(file=file) == [
        f"GROUNDWIRE_ADMISSION__MIN_LIMIT, {file}: admission: min_limit must not be above max_limit"
    ]
    file.write_text("[log]\nlevel = 'info'\n")
    monkeypatch.setenv("GROUNDWIRE_ADMISSION__MIN_LIMIT", "600")
    assert problems_of(file=file) == ["GROUNDWIRE_ADMISSION__MIN_LIMIT: min_limit must not be above max_limit"]


def test_a_files_problems_are_named_by_their_dotted_names(tmp_path: Path) -> None:
    file = tmp_path / "groundwire.toml"
    file.write_text('data_dir = 5\n[generation]\nllm_endpoints = [{name = "a"}, 5]\n')
    told = problems_of(GenerationSettings, file)
    assert f"{file}: data_dir: must be a path" in told
    assert any(line.startswith(f"{file}: generation.llm_endpoints[1]: must be ") for line in told)


def test_a_file_that_is_no_text_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "groundwire.toml"
    file.write_bytes(b"a = '\xff'")
    assert problems_of(file=file) == [f"{file}: is not valid TOML: byte 5 is not UTF-8"]


def test_a_user_without_a_home_has_to_name_the_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("GROUNDWIRE_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "home", none)
    (line,) = problems_of()
    assert line.startswith("GROUNDWIRE_DATA_DIR: is not set, and this user has no home directory")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('[{"name": "b", "url": "gopher://h"}]', "[0].url: has none of the forms that are allowed: extractive: quotes"),
        ('[{"name": "B", "url": "extractive:"}]', "[0].name: has none of the forms that are allowed: What answers and"),
        ("[]", "must be a list of at least 1 entry"),
        (
            '[{"name": "b", "url": "http://h/v1", "model": "m", "omit_parameters": ["a b"]}]',
            "[0].omit_parameters[0]: has none of the forms that are allowed: 1 to 64 of",
        ),
        (
            '[{"name": "b", "url": "http://h/v1", "model": "m", "extra_parameters": {"a b": 1}}]',
            "[0].extra_parameters.a b.[key]: has none of the forms that are allowed",
        ),
    ],
)
def test_a_wrong_entry_of_a_list_is_told_once_and_without_an_expression(
    value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUNDWIRE_GENERATION__LLM_ENDPOINTS", value)
    (line,) = problems_of(GenerationSettings)
    assert line.startswith(f"GROUNDWIRE_GENERATION__LLM_ENDPOINTS: {told}")


def test_what_must_have_a_form_says_which() -> None:
    for settings in map(settings_class, NAMES):
        for model in settings.model_json_schema().get("$defs", {}).values():
            for name, field in model.get("properties", {}).items():
                variants = [field, *field.get("anyOf", []), field.get("items", {}), field.get("propertyNames", {})]
                if any("pattern" in variant for variant in variants):
                    assert all(variant.get("description") for variant in variants if "pattern" in variant) or field.get(
                        "description"
                    ), name


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000], ids=["long number", "deep list"])
def test_what_the_reader_of_toml_fails_on_is_a_wrong_file(tmp_path: Path, value: str) -> None:
    path = tmp_path / "groundwire.toml"
    path.write_text(f"[drain]\ngrace = {value}\n")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load(Settings, path)
