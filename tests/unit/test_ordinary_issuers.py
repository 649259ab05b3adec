"""Tokens of well-known issuers are accepted with the settings that the guide shows.

Those that do not suit are refused with a reason that names the setting to look at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from services.corpus.errors import Unauthenticated
from services.runtime.authentication import TokenAuthentication
from services.runtime.options import AuthenticationOptions, IssuerOptions
from services.runtime.settings import Settings
from services.security.keysets import MIN_SECRET
from services.security.mesh_tokens import MeshTokens
from services.security.refusal import Explanation, Refusal, Signature
from tests.support.ordinary_issuers import (
    CALLERS,
    KEYCLOAK,
    OF_THE_PAGE,
    REFUSED,
    SHAPES,
    configured,
    key_set,
    token,
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set())
    return file


@pytest.fixture
def settings(keys: Path, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, authentication=configured(keys))


@pytest.fixture
async def told() -> list[Explanation]:
    return []


@pytest.fixture
async def gate(settings: Settings, told: list[Explanation]) -> AsyncIterator[TokenAuthentication]:
    started = await TokenAuthentication.start(settings, told.append)
    yield started
    await started.close()


def test_the_guide_configures_four_issuers(settings: Settings) -> None:
    assert [issuer.name for issuer in settings.authentication.issuers][: len(OF_THE_PAGE)] == list(OF_THE_PAGE)
    assert {issuer.name for issuer in settings.authentication.issuers} == set(SHAPES) == set(CALLERS)


@pytest.mark.parametrize("issuer", SHAPES)
async def test_its_token_proves_its_caller(issuer: str, gate: TokenAuthentication, told: list[Explanation]) -> None:
    verified = await gate.verify(token(issuer))
    tenant, principals = CALLERS[issuer]
    assert verified.caller.tenant == tenant
    assert verified.caller.principals == {"tenant:*", *principals}
    assert "documents:query" in verified.caller.permissions
    assert told == []


@pytest.mark.parametrize("issuer", SHAPES)
async def test_its_caller_is_the_same_behind_the_first_service(issuer: str, gate: TokenAuthentication) -> None:
    caller = await gate.verify(token(issuer))
    derived = MeshTokens(gate._mesh_secret, "query").on_behalf_of(caller.claims)
    further = await gate.verify(derived)
    assert further.caller.principals == caller.caller.principals
    assert further.caller.permissions == caller.caller.permissions


async def test_a_mapped_role_is_what_the_settings_say_and_no_other_counts(gate: TokenAuthentication) -> None:
    roles = (await gate.verify(token(KEYCLOAK))).claims.roles
    assert roles == {"reader", "writer", "operator"}
    own = {"roles": ["admin", "reader"]}
    assert (await gate.verify(token(KEYCLOAK, realm_access=own))).claims.roles == {"reader"}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_does_not_suit_is_refused_with_the_setting_to_look_at(
    name: str, gate: TokenAuthentication, told: list[Explanation]
) -> None:
    issuer, changes, reason, words = REFUSED[name]
    with pytest.raises(Unauthenticated):
        await gate.verify(token(issuer, **changes))
    (explanation,) = told
    assert explanation.reason is reason
    assert words in explanation.words
    # Of an issuer that is not configured nothing can be known.
    known = reason is not Refusal.ISSUER
    assert explanation.issuer == (issuer if known else "")
    assert explanation.signature is (Signature.VALID if known else Signature.UNKNOWN)


async def test_what_is_said_of_a_forged_token_says_that_it_is_forged(
    gate: TokenAuthentication, told: list[Explanation]
) -> None:
    made = token(KEYCLOAK, aud="account")
    body, _, signature = made.rpartition(".")
    with pytest.raises(Unauthenticated):
        await gate.verify(f"{body}.{signature[::-1].replace('=', '')[:-1]}A")
    with pytest.raises(Unauthenticated):
        await gate.verify(token(KEYCLOAK, header={"kid": "made-up"}, aud="account"))
    assert [(each.reason, each.signature) for each in told] == [
        (Refusal.AUDIENCE, Signature.INVALID),
        (Refusal.AUDIENCE, Signature.UNKNOWN),
    ]


@pytest.mark.parametrize("issuer", SHAPES)
async def test_with_the_defaults_of_an_issuer_its_token_is_refused_for_its_type(
    issuer: str, keys: Path, tmp_path: Path
) -> None:
    told: list[Explanation] = []
    strict = tuple(
        options.model_copy(update={"token_types": ()}) for options in configured(keys).issuers if options.name == issuer
    )
    settings = Settings(data_dir=tmp_path, authentication=AuthenticationOptions(issuers=strict))
    gate = await TokenAuthentication.start(settings, told.append)
    try:
        with pytest.raises(Unauthenticated):
            await gate.verify(token(issuer))
    finally:
        await gate.close()
    assert [each.reason for each in told] == [Refusal.TYPE]
    assert "`token_types`" in told[0].words


def test_a_secret_that_could_be_guessed_is_refused_with_the_settings() -> None:
    with pytest.raises(ValidationError, match="must have at least 32 bytes") as refused:
        IssuerOptions(name="a", algorithm="HS256", secret=SecretStr("short"))
    assert "'short'" not in str(refused.value)
    assert IssuerOptions(name="a", algorithm="HS256", secret=SecretStr("x" * MIN_SECRET)).secret is not None
