"""Nobody gets in with a token that is forged, malformed, expired, meant for another or revoked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import TracebackType

import pytest

from services.corpus.errors import FailedPrecondition, Unauthenticated
from services.security.claims import ClaimNames, Issuer
from services.security.compact import MAX_OUTSIDE_TOKEN
from services.security.keysets import Algorithm, StaticKeys, shared_secret
from services.security.refusal import Refusal
from services.security.revocation import SubjectRevoked, TokenRevoked
from services.security.tokens import TokenVerifier, bearer_token
from tests.support.bad_tokens import METADATA, REVOKED, TOKENS, nested_act
from tests.support.token_forge import (
    HS,
    NOW,
    RS,
    SECRET,
    Gate,
    KnownRevocations,
    asymmetric,
    claims,
    craft,
    header,
    issuers,
    mesh,
)

MESSAGE = "valid credentials are required"


def everything_reachable(error: BaseException) -> Iterator[str]:
    """Whatever of an error could be written somewhere: its texts, causes, contexts, and our frames' locals."""
    yield from (str(error), repr(error), *map(repr, error.args), *map(repr, vars(error).values()))
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        if "/services/" in traceback.tb_frame.f_code.co_filename:
            yield from map(repr, traceback.tb_frame.f_locals.values())
        traceback = traceback.tb_next
    for linked in (error.__cause__, error.__context__):
        if linked is not None:
            yield from everything_reachable(linked)


async def refused(gate: Gate, values: list[str], caplog: pytest.LogCaptureFixture) -> Refusal:
    """Have ``values`` refused, prove that nothing of them shows, and return why."""
    before = len(gate.refusals)
    assert gate.verifier.remembered(values) is None
    assert len(gate.refusals) == before, "whoever asks goes on to authenticate, which tells why"
    with pytest.raises(Unauthenticated) as caught:
        await gate.verifier.authenticate(values)
    error = caught.value
    assert str(error) == MESSAGE
    assert error.args == (MESSAGE,)
    assert error.metadata == {}
    assert error.__cause__ is None
    assert error.__context__ is None
    pieces = {piece for value in values for piece in value.replace(" ", ".").split(".") if len(piece) > 7}
    shown = [*everything_reachable(error), caplog.text]
    assert not [piece for piece in pieces for text in shown if piece in text]
    (reason,) = gate.refusals[before:]
    return reason


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.revocations.apply(*REVOKED)
    return gate


def test_there_are_more_than_sixty_bad_tokens() -> None:
    assert len(TOKENS) + len(METADATA) >= 60
    bad = {name: make() for name, (_, make) in TOKENS.items()}
    assert len(set(bad.values())) == len(bad)


@pytest.mark.parametrize("name", TOKENS)
async def test_a_bad_token_is_refused(name: str, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reason, make = TOKENS[name]
    values = [f"Bearer {make()}"]
    assert await refused(gate, values, caplog) is reason
    assert await refused(gate, values, caplog) is reason, "a second time"


@pytest.mark.parametrize("name", METADATA)
async def test_bad_metadata_is_refused(name: str, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    reason, make = METADATA[name]
    assert await refused(gate, make(), caplog) is reason
    with pytest.raises(Unauthenticated) as caught:
        bearer_token(make())
    assert (str(caught.value), caught.value.__context__) == (MESSAGE, None)


GOOD: dict[str, Callable[[], str]] = {
    "HS256": craft,
    "RS256": lambda: asymmetric(Algorithm.RS256),
    "PS256": lambda: asymmetric(Algorithm.PS256),
    "ES256": lambda: asymmetric(Algorithm.ES256),
    "EdDSA": lambda: asymmetric(Algorithm.EDDSA),
    "typ in full and in capitals": lambda: craft(header(typ="application/AT+JWT")),
    "no kid where there is one key": lambda: craft(header(kid=...)),
    "unknown header parameters": lambda: craft(header(x5t="abc", other=1)),
    "several audiences": lambda: craft(body=claims(aud=["billing", "groundwire"])),
    "within the leeway": lambda: craft(body=claims(iat=NOW - 60, exp=NOW - 9, nbf=NOW + 10)),
    "issued with a clock ahead": lambda: craft(body=claims(iat=NOW + 10, exp=NOW + 20)),
    "the longest lifetime": lambda: craft(body=claims(iat=NOW, exp=NOW + 3600)),
    "an unknown claim, with a fraction": lambda: craft(body=claims(amr=["pwd"], score=0.5)),
    "no jti": lambda: craft(body=claims(jti=...)),
    "the largest": lambda: craft(body=claims(pad="x" * 4100)),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_token_proves_its_caller(name: str, gate: Gate) -> None:
    token = GOOD[name]()
    assert len(token) <= MAX_OUTSIDE_TOKEN
    verified = await gate.verifier.verify(token)
    caller = verified.caller
    assert (caller.tenant, caller.subject, caller.groups) == ("acme", "alice", frozenset({"hr"}))
    assert "documents:query" in caller.permissions
    assert caller.acting_service == ""
    assert verified.claims.actors == ()
    assert gate.refusals == []
    assert await gate.verifier.authenticate([f"bEARER {token}"]) == verified


async def test_groups_and_roles_may_be_missing_and_unknown_roles_permit_nothing(gate: Gate) -> None:
    bare = await gate.verifier.verify(craft(body=claims(groups=..., roles=...)))
    assert (bare.caller.groups, bare.caller.permissions) == (frozenset(), frozenset())
    strange = await gate.verifier.verify(craft(body=claims(roles=["emperor"])))
    assert strange.caller.permissions == frozenset()


async def test_the_role_table_is_the_one_that_was_given() -> None:
    verifier = TokenVerifier(
        issuers(), KnownRevocations(), roles={"reader": frozenset({"books:read"})}, clock=lambda: NOW
    )
    assert (await verifier.verify(craft())).caller.permissions == {"books:read"}


async def test_the_mesh_names_who_acts_for_whom(gate: Gate) -> None:
    act = {"sub": "spiffe://mesh.example/ns/rag/retrieval", "act": {"sub": "query"}}
    verified = await gate.verifier.verify(mesh(act=act))
    assert verified.caller.acting_service == "spiffe://mesh.example/ns/rag/retrieval"
    assert verified.claims.actors == ("spiffe://mesh.example/ns/rag/retrieval", "query")
    assert (verified.claims.origin.issuer, verified.claims.origin.token_id) == (HS, "token-1")
    assert len((await gate.verifier.verify(mesh(act=nested_act(8)))).claims.actors) == 8


async def test_what_was_accepted_is_remembered_and_nothing_else(gate: Gate) -> None:
    token, other = craft(), craft(body=claims(jti="token-2"))
    verified = await gate.verifier.verify(token)
    assert gate.verifier.remembered([f"Bearer {token}"]) is verified
    assert not [
        values
        for values in (
            [],
            [f"Bearer {other}"],
            [f"bearer {token}"],
            [f"Bearer {token} "],
            [f"Bearer {token}"] * 2,
            [f"Bearer {token}", f"Bearer {other}"],
        )
        if gate.verifier.remembered(values) is not None
    ]


async def test_a_remembered_token_expires_with_its_leeway(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    token = craft()
    await gate.verifier.verify(token)
    gate.clock.now = NOW + 609.9
    await gate.verifier.verify(token)
    gate.clock.now = NOW + 610
    assert await refused(gate, [f"Bearer {token}"], caplog) is Refusal.EXPIRED


async def test_a_remembered_token_is_refused_once_revoked(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    token, other = craft(), craft(body=claims(jti="token-2"))
    await gate.verifier.verify(token)
    await gate.verifier.verify(other)
    gate.revocations.apply(TokenRevoked.at(NOW, HS, "token-1"))
    assert await refused(gate, [f"Bearer {token}"], caplog) is Refusal.REVOKED
    await gate.verifier.verify(other)
    gate.revocations.apply(SubjectRevoked.at(NOW, "acme", "alice"))
    assert await refused(gate, [f"Bearer {other}"], caplog) is Refusal.REVOKED


async def test_an_id_is_revoked_for_its_issuer_alone(gate: Gate) -> None:
    gate.revocations.apply(TokenRevoked.at(NOW, RS, "token-1"), SubjectRevoked.at(NOW, "globex", "alice"))
    await gate.verifier.verify(craft())


async def test_a_token_without_id_is_revoked_with_its_subject_only(gate: Gate) -> None:
    gate.revocations.apply(TokenRevoked.at(NOW, HS, "anything"))
    token = craft(body=claims(jti=...))
    await gate.verifier.verify(token)
    gate.revocations.apply(SubjectRevoked.at(NOW, "acme", "alice"))
    with pytest.raises(Unauthenticated):
        await gate.verifier.verify(token)


async def test_new_tokens_of_a_revoked_subject_are_accepted_after_the_skew(gate: Gate) -> None:
    gate.revocations.apply(SubjectRevoked.at(NOW, "acme", "alice", skew=10))
    gate.clock.now = NOW + 11
    for issued_at, accepted in ((NOW + 10, False), (NOW + 11, True)):
        token = craft(body=claims(iat=issued_at))
        if accepted:
            await gate.verifier.verify(token)
        else:
            with pytest.raises(Unauthenticated):
                await gate.verifier.verify(token)


async def test_while_revocations_are_not_known_nobody_gets_in(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    token = craft()
    await gate.verifier.verify(token)
    gate.revocations.current = False
    assert await refused(gate, [f"Bearer {token}"], caplog) is Refusal.REVOCATIONS_UNKNOWN
    gate.revocations.catches_up = True
    await gate.verifier.verify(token)


async def test_an_unforeseen_error_refuses_and_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(StaticKeys):
        def find(self, key_id: str | None) -> None:
            raise RuntimeError(f"cannot handle {craft()}")

    name = "https://broken.example"
    gate = Gate(
        Issuer(
            name=name,
            audiences=frozenset({"groundwire"}),
            algorithm=Algorithm.HS256,
            keys=Broken([shared_secret(SECRET)]),
        )
    )
    assert await refused(gate, [f"Bearer {craft(body=claims(iss=name))}"], caplog) is Refusal.UNEXPECTED


async def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    gate = Gate(cache_size=2)
    first, second, third = (craft(body=claims(jti=f"token-{n}")) for n in range(3))
    verified = {token: await gate.verifier.verify(token) for token in (first, second)}
    assert await gate.verifier.verify(first) is verified[first]
    await gate.verifier.verify(third)
    assert await gate.verifier.verify(first) is verified[first]
    assert await gate.verifier.verify(second) is not verified[second]
    assert len(gate.verifier._accepted) == 2


async def test_refused_tokens_are_not_remembered(gate: Gate) -> None:
    for name in ("signature of another secret", "expired", "revoked by its id"):
        with pytest.raises(Unauthenticated):
            await gate.verifier.verify(TOKENS[name][1]())
    assert len(gate.verifier._accepted) == 0


def issuer(**changes: object) -> Issuer:
    options: dict[str, object] = {
        "name": HS,
        "audiences": frozenset({"groundwire"}),
        "algorithm": Algorithm.HS256,
        "keys": StaticKeys([shared_secret(SECRET)]),
    }
    return Issuer(**{**options, **changes})  # type: ignore[arg-type] # wrong types are the point


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"audiences": frozenset()},
        {"audiences": frozenset({""})},
        {"leeway": 31},
        {"leeway": -1},
        {"max_lifetime": 0},
        {"max_lifetime": 86_401},
        {"name": "groundwire-mesh"},
        {"mesh": True},
        {"token_types": frozenset({"at+jwt"})},
        {"tenant": "a b"},
        {"tenant": "acme", "tenants": frozenset({"acme", "globex"})},
        {"role_names": {"HR": ("a b",)}},
    ],
)
def test_an_issuer_with_limits_too_wide_cannot_be_configured(changes: dict[str, object]) -> None:
    with pytest.raises(FailedPrecondition):
        issuer(**changes)


def test_an_issuer_can_be_configured_once() -> None:
    with pytest.raises(FailedPrecondition):
        TokenVerifier([issuer(), issuer()], KnownRevocations())


async def test_claims_may_have_other_names() -> None:
    gate = Gate(
        issuer(
            name="https://idp.example",
            claims=ClaimNames(tenant="https://example.com/org", groups=("memberships",), roles=("entitlements",)),
        )
    )
    body = {
        **claims(iss="https://idp.example", tenant=..., groups=..., roles=...),
        "https://example.com/org": "acme",
        "memberships": ["hr"],
        "entitlements": ["admin"],
    }
    caller = (await gate.verifier.verify(craft(header(kid=...), body))).caller
    assert (caller.tenant, caller.groups, caller.permissions) == ("acme", frozenset({"hr"}), frozenset({"admin:*"}))
