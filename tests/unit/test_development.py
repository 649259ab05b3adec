"""The development issuer: a secret of the data directory, for its owner alone, on this machine alone."""

from __future__ import annotations

import asyncio
import io
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from cli.caller import CallerToken
from cli.doctor import callers
from cli.errors import CliError
from cli.token import mint, revoke
from services.corpus.errors import FailedPrecondition, Unauthenticated
from services.runtime import development
from services.runtime.authentication import TokenAuthentication, token_claims
from services.runtime.options import AuthenticationOptions, AuthorizationOptions, DevelopmentOptions, IssuerOptions
from services.runtime.settings import Settings
from services.security.minting import TokenMinter
from services.security.permissions import permits

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", development=DevelopmentOptions(groups=("staff",)))


def configured(settings: Settings) -> Settings:
    issuer = IssuerOptions(
        name="https://login.example", audience="groundwire", algorithm="HS256", secret=SecretStr(SECRET), jwks_url=None,
        max_lifetime=3600, leeway=10,
    )  # fmt: skip
    return settings.replace(authentication=AuthenticationOptions(issuers=(issuer,)))


def minted(settings: Settings, **changes: object) -> str:
    wanted: dict[str, object] = {
        "subject": "bob", "tenant": "default", "groups": (), "roles": ("reader",), "lifetime": 60, "issuer": None,
        "warn": [].append, **changes,
    }  # fmt: skip
    return mint(settings, **wanted)  # type: ignore[arg-type] # as given


def test_a_token_that_would_be_refused_is_not_made(settings: Settings) -> None:
    guarded = configured(settings)
    (issuer,) = guarded.authentication.issuers
    short = issuer.model_copy(update={"max_lifetime": 900, "tenants": ("acme",)})
    limited = settings.replace(authentication=AuthenticationOptions(issuers=(short,)))
    for given, changes, told in (
        (settings, {"lifetime": 3601}, "tokens of the data directory live at most 3600 seconds"),
        (
            limited,
            {"tenant": "acme", "lifetime": 901},
            "setting max_lifetime of the issuer https://login.example is 900",
        ),
        (limited, {"tenant": "rival"}, "--tenant 'rival' is none of those that the issuer https://login.example may"),
        (guarded, {"groups": ("user:root",)}, "groups: 'user:root' must be a bare name, without user: or group:"),
        (guarded, {"subject": "group:hr"}, "subject: must be a bare name, without user: or group:"),
        (guarded, {"groups": tuple(map(str, range(257)))}, "groups: must be at most 256"),
    ):
        with pytest.raises(CliError) as refused:
            minted(given, **changes)
        assert told in refused.value.message
    # Without a wish it lives as long as it may.
    assert asyncio.run(token_claims(limited, minted(limited, tenant="acme", lifetime=None))).tenant == "acme"


def test_what_may_be_a_mistake_is_said_of_a_new_token(settings: Settings) -> None:
    told: list[str] = []
    minted(settings, roles=("readr", "reader", "chief"), warn=told.append)
    assert told[0].startswith(f"note: nothing was started yet with the data directory {settings.data_dir}, which has")
    assert told[1].startswith("note: readr, chief permits nothing: there are no such roles in the settings, which have")
    told.clear()
    own = settings.replace(authorization=AuthorizationOptions(roles={"chief": ("documents:*",)}))
    minted(own, roles=("reader", "chief"), warn=told.append)
    assert told == []


def test_a_revocation_where_no_service_would_learn_of_it_is_a_mistake(settings: Settings) -> None:
    with pytest.raises(
        CliError, match=r"there is no data directory .*set GROUNDWIRE_DATA_DIR to the one that they use"
    ):
        revoke(settings, token_id=None, issuer=None, subject="bob", tenant=None)
    assert not settings.data_dir.exists()


async def caller_of(settings: Settings, token: str) -> object:
    authentication = await TokenAuthentication.start(settings)
    try:
        return (await authentication.verify(token)).caller
    finally:
        await authentication.close()


async def test_before_the_first_start_there_is_no_token_and_no_secret_is_made(settings: Settings) -> None:
    assert development.mint(settings) is None
    assert not settings.data_dir.exists()


async def test_the_developer_is_who_the_settings_say(settings: Settings) -> None:
    development.issuer(settings)
    token = development.mint(settings)
    assert token is not None
    claims = await token_claims(settings, token)
    assert (claims.tenant, claims.subject, claims.groups, claims.roles) == (
        "default",
        "developer",
        frozenset({"staff"}),
        frozenset({"admin"}),
    )


async def test_every_process_makes_the_same_secret(settings: Settings) -> None:
    options = await asyncio.gather(*(asyncio.to_thread(development.issuer, settings) for _ in range(16)))
    assert len({option.secret for option in options}) == 1
    path = development.key_path(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["development.key"]


async def test_a_secret_that_others_can_read_is_not_used(settings: Settings) -> None:
    development.issuer(settings)
    development.key_path(settings).chmod(0o644)
    with pytest.raises(FailedPrecondition):
        development.mint(settings)
    with pytest.raises(FailedPrecondition):
        await TokenAuthentication.start(settings)
    with pytest.raises(CliError, match=r"development\.key"):
        minted(settings)


async def test_once_an_issuer_is_configured_the_secret_is_void(settings: Settings) -> None:
    development.issuer(settings)
    token = development.mint(settings)
    assert token is not None
    with pytest.raises(Unauthenticated):
        await caller_of(configured(settings), token)
    assert await caller_of(configured(settings), minted(configured(settings)))
    assert settings.development_secrets
    assert not configured(settings).development_secrets


async def test_a_secret_of_another_directory_lets_nobody_in(settings: Settings, tmp_path: Path) -> None:
    other = settings.replace(data_dir=tmp_path / "other")
    with pytest.raises(Unauthenticated):
        await caller_of(settings, minted(other))


def test_issuers_that_nobody_would_ask_are_a_mistake(settings: Settings) -> None:
    issuers = configured(settings).authentication.issuers
    with pytest.raises(ValidationError, match="nobody would look"):
        AuthenticationOptions(issuers=issuers, required=False)


async def test_roles_of_the_settings_permit_what_they_say(settings: Settings) -> None:
    own = settings.replace(authorization=AuthorizationOptions(roles={"librarian": ("documents:*",), "reader": ()}))
    caller = await caller_of(own, minted(own, roles=("librarian", "reader")))
    held = getattr(caller, "permissions")  # noqa: B009 - typed as object on purpose
    assert permits(held, "documents:ingest")
    assert not permits(held, "collections:read")
    assert not permits(held, "admin:*")


@pytest.mark.parametrize(
    "permission", ["documents", "documents:", ":read", "*:*", "*", "documents:re*", "A:b", "a:b:c"]
)
def test_a_permission_that_means_nothing_is_refused(permission: str) -> None:
    with pytest.raises(ValidationError, match="librarian"):
        AuthorizationOptions(roles={"librarian": (permission,)})


async def test_commands_send_the_developers_token_to_this_machine_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(settings.data_dir))
    monkeypatch.delenv("GROUNDWIRE_TOKEN", raising=False)
    development.issuer(settings)
    ((name, value),) = await CallerToken("127.0.0.1:50050").metadata()
    assert name == "authorization"
    assert (await token_claims(settings, value.removeprefix("Bearer "))).subject == "developer"
    assert await CallerToken("rag.example.com:443").metadata() == []
    monkeypatch.setenv("GROUNDWIRE_TOKEN", "abc")
    assert await CallerToken("rag.example.com:443").metadata() == [("authorization", "Bearer abc")]


def test_the_doctor_says_who_is_let_in(settings: Settings) -> None:
    assert (callers(settings).state, "data directory" in callers(settings).found) == ("OK", True)
    assert "https://login.example" in callers(configured(settings)).found
    open_to_all = settings.replace(authentication=AuthenticationOptions(required=False))
    assert callers(open_to_all).state == "WARN"
    assert callers(open_to_all).remedy


def test_what_is_revoked_is_refused_and_nothing_else(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def works(token: str) -> bool:
        try:
            return bool(asyncio.run(caller_of(settings, token)))
        except Unauthenticated:
            return False

    none = {"token_id": None, "issuer": None, "subject": None, "tenant": None}
    first, second, other = minted(settings), minted(settings), minted(settings, subject="carol")
    assert all(map(works, (first, second, other)))
    token_id = asyncio.run(token_claims(settings, first)).token_id
    revoke(settings, **{**none, "token_id": token_id, "issuer": development.ISSUER})
    assert [works(token) for token in (first, second, other)] == [False, True, True]
    revoke(settings, **{**none, "subject": "bob"})
    assert [works(token) for token in (first, second, other)] == [False, False, True]

    class Piped:
        def isatty(self) -> bool:
            return False

        def read(self) -> str:
            return f"{other}\n"

    monkeypatch.setattr("sys.stdin", Piped())
    assert "token" in revoke(settings, **none)
    assert not works(other)


@pytest.mark.parametrize(
    "given",
    [
        {"token_id": "x"},
        {"token_id": "x y", "issuer": "i"},
        {"token_id": "x", "issuer": "i", "subject": "bob"},
        {"subject": "two\nlines"},
        {"subject": "user:bob"},
        {"subject": "bob", "tenant": "no/tenant"},
    ],
)
def test_a_revocation_that_says_nothing_clear_is_a_mistake(settings: Settings, given: dict[str, str]) -> None:
    none = {"token_id": None, "issuer": None, "subject": None, "tenant": None}
    with pytest.raises(CliError):
        revoke(settings, **{**none, **given})
    assert not settings.keys_dir.exists()


def test_what_is_no_token_is_not_revoked_and_the_command_says_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    long = configured(settings)
    long.data_dir.mkdir()
    minter = TokenMinter(SECRET.encode(), issuer="https://login.example", audience="groundwire")
    token = minter.mint(tenant="default", subject="bob", lifetime=7200)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{token}\n"))
    with pytest.raises(CliError) as refused:
        revoke(long, token_id=None, issuer=None, subject=None, tenant=None)
    assert "`max_lifetime` is 3600" in "".join(refused.value.details)
    # In the error alone: a command's log is not where its user looks.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "other",
    [
        {"claims": {"roles": "/realm_access/roles"}},
        {"roles": {"HR": "reader"}},
        {"tenant": "acme"},
    ],
)
def test_no_token_is_minted_that_its_issuers_settings_would_misread(settings: Settings, other: dict[str, Any]) -> None:
    issuer = IssuerOptions.model_validate(
        {"name": "https://login.example", "algorithm": "HS256", "secret": SECRET, **other}
    )
    with pytest.raises(CliError, match=r"https://login\.example: its settings"):
        minted(settings.replace(authentication=AuthenticationOptions(issuers=(issuer,))))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"claims": {"user": "/a~"}}, "RFC 6901"),
        ({"claims": {"groups": ["ok", ""]}}, "1 to 512"),
        ({"claims": {"rolls": "/roles"}}, "rolls"),
        ({"audience": ""}, "must not be empty"),
        ({"audience": ["groundwire", ""]}, "must not be empty"),
        ({"roles": {"HR Manager": "a b"}}, "cannot name a role"),
        ({"tenant": "acme", "tenants": ["acme"]}, "leave out"),
        ({"tenant": "acme", "claims": {"tenant": "tid"}}, "leave out"),
        ({"token_types": ["jwt+at"]}, "JWT"),
    ],
)
def test_settings_of_an_issuer_that_mean_nothing_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        IssuerOptions.model_validate({"name": "i", "algorithm": "HS256", "secret": SECRET, **wrong})


@pytest.mark.parametrize("who", [{"subject": ""}, {"subject": "a\nb"}, {"groups": ("user:root",)}])
def test_a_developer_who_cannot_be_a_principal_is_a_mistake(who: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="cannot name"):
        DevelopmentOptions(**who)
