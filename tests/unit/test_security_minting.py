"""Tokens that are minted here: for development, and from service to service."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest

from services.corpus.errors import FailedPrecondition, InvalidRequest, Unauthenticated
from services.security.claims import MAX_ACTORS, Issuer
from services.security.compact import MAX_OUTSIDE_TOKEN, MAX_TOKEN
from services.security.keysets import Algorithm, StaticKeys, shared_secret
from services.security.mesh_tokens import MeshTokens, mesh_issuer
from services.security.minting import TokenMinter
from services.security.revocation import SubjectRevoked, TokenRevoked
from services.security.tokens import TokenVerifier
from tests.support.token_forge import (
    AUDIENCE,
    HS,
    MESH_SECRET,
    NOW,
    SECRET,
    Clock,
    Gate,
    KnownRevocations,
    claims,
    craft,
)

DEVELOPMENT = "groundwire-development"


@pytest.fixture
def gate() -> Gate:
    return Gate(
        Issuer(
            name=DEVELOPMENT,
            audiences=frozenset({AUDIENCE}),
            algorithm=Algorithm.HS256,
            keys=StaticKeys([shared_secret(SECRET), shared_secret(MESH_SECRET)]),
        )
    )


def minter(gate: Gate) -> TokenMinter:
    return TokenMinter(SECRET, issuer=DEVELOPMENT, audience=AUDIENCE, clock=gate.clock)


async def test_a_minted_token_is_accepted_and_says_what_was_asked_for(gate: Gate) -> None:
    mint = minter(gate).mint
    token = mint(tenant="acme", subject="alice", groups=["hr", "hr"], roles=["writer"], lifetime=600)
    verified = await gate.verifier.verify(token)
    assert (verified.caller.tenant, verified.caller.subject) == ("acme", "alice")
    assert (verified.claims.groups, verified.claims.roles) == (frozenset({"hr"}), frozenset({"writer"}))
    assert (verified.claims.issued_at, verified.claims.expires_at) == (NOW, NOW + 600)
    other = await gate.verifier.verify(mint(tenant="acme", subject="alice"))
    assert len(verified.claims.token_id) == 32
    assert other.claims.token_id != verified.claims.token_id
    named = await gate.verifier.verify(mint(tenant="acme", subject="alice", token_id="mine"))
    assert named.claims.token_id == "mine"


def test_a_minter_names_its_key(gate: Gate) -> None:
    head = jwt.get_unverified_header(minter(gate).mint(tenant="acme", subject="alice"))
    assert head == {"alg": "HS256", "typ": "at+jwt", "kid": head["kid"]}
    assert len(head["kid"]) == 16


def test_what_would_be_refused_is_not_minted(gate: Gate) -> None:
    with pytest.raises(InvalidRequest) as caught:
        minter(gate).mint(tenant="a/b", subject="", groups=["x\ny"], roles=[""], lifetime=86_401, token_id="")
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["tenant", "subject", "groups", "roles", "lifetime", "token_id"]


def test_a_weak_secret_mints_nothing() -> None:
    with pytest.raises(FailedPrecondition):
        TokenMinter(b"secret", issuer=HS, audience=AUDIENCE)
    with pytest.raises(FailedPrecondition):
        MeshTokens(b"secret", "query")
    with pytest.raises(FailedPrecondition):
        MeshTokens(MESH_SECRET, "Query Service")


def service(gate: Gate, name: str, **options: Any) -> MeshTokens:
    return MeshTokens(MESH_SECRET, name, clock=gate.clock, **options)


async def test_the_last_service_knows_for_whom_it_works_and_through_whom(gate: Gate) -> None:
    user = await gate.verifier.verify(craft())
    at_retrieval = await gate.verifier.verify(service(gate, "query").on_behalf_of(user.claims))
    at_store = await gate.verifier.verify(service(gate, "retrieval").on_behalf_of(at_retrieval.claims))
    assert at_store.caller.acting_service == "retrieval"
    assert at_store.claims.actors == ("retrieval", "query")
    for name in ("tenant", "subject", "groups", "permissions"):
        assert getattr(at_store.caller, name) == getattr(user.caller, name)
    assert at_store.claims.origin == user.claims.origin


@pytest.mark.parametrize(
    "revocation",
    [TokenRevoked.at(NOW, HS, "token-1"), SubjectRevoked.at(NOW - 61, "acme", "alice", skew=2)],
    ids=["token", "subject"],
)
async def test_revoking_the_users_token_voids_what_was_derived_from_it(
    gate: Gate, revocation: TokenRevoked | SubjectRevoked
) -> None:
    user = await gate.verifier.verify(craft())
    derived = service(gate, "query").on_behalf_of(user.claims)
    verified = await gate.verifier.verify(derived)
    again = service(gate, "retrieval").on_behalf_of(verified.claims)
    job = service(gate, "ingestion").for_subject(tenant="acme", subject="alice")
    gate.revocations.apply(revocation)
    for token in (derived, again, service(gate, "query").on_behalf_of(user.claims)):
        with pytest.raises(Unauthenticated):
            await gate.verifier.verify(token)
    # Begun by a service later than that: not derived from anything that was revoked.
    assert (await gate.verifier.verify(job)).caller.acting_service == "ingestion"


async def test_a_derived_token_is_used_again_until_half_of_its_life_is_over(gate: Gate) -> None:
    user = await gate.verifier.verify(craft())
    tokens = service(gate, "query")
    first = tokens.on_behalf_of(user.claims)
    gate.clock.now = NOW + 29.9
    assert tokens.on_behalf_of(user.claims) == first
    gate.clock.now = NOW + 30
    second = tokens.on_behalf_of(user.claims)
    assert second != first
    gate.clock.now = NOW + 59
    await gate.verifier.verify(first)


async def test_a_derived_token_does_not_outlive_the_users(gate: Gate) -> None:
    user = await gate.verifier.verify(craft())  # until NOW + 600 and 10 seconds of leeway
    tokens = service(gate, "query")
    gate.clock.now = NOW + 590
    derived = await gate.verifier.verify(tokens.on_behalf_of(user.claims))
    assert derived.claims.expires_at == NOW + 610
    gate.clock.now = NOW + 609.5
    await gate.verifier.verify(tokens.on_behalf_of(user.claims))
    gate.clock.now = NOW + 610
    with pytest.raises(Unauthenticated):
        tokens.on_behalf_of(user.claims)


async def test_each_caller_gets_a_token_of_its_own(gate: Gate) -> None:
    tokens = service(gate, "query")
    bodies = [
        claims(),
        claims(sub="bob"),
        claims(tenant="globex"),
        claims(groups=[]),
        claims(roles=[]),
        claims(jti="token-2"),
    ]
    minted = {tokens.on_behalf_of((await gate.verifier.verify(craft(body=body))).claims) for body in bodies}
    assert len(minted) == len(bodies)


async def test_the_cache_of_derived_tokens_is_bounded(gate: Gate) -> None:
    tokens = service(gate, "query", cache_size=2)
    first = tokens.for_subject(tenant="acme", subject="a")
    for subject in ("b", "a", "c"):
        tokens.for_subject(tenant="acme", subject=subject)
    assert len(tokens._minted) == 2
    assert tokens.for_subject(tenant="acme", subject="a") == first


async def test_a_call_passes_through_a_bounded_number_of_services(gate: Gate) -> None:
    verified = await gate.verifier.verify(craft())
    for _ in range(MAX_ACTORS):
        verified = await gate.verifier.verify(service(gate, "query").on_behalf_of(verified.claims))
    with pytest.raises(FailedPrecondition):
        service(gate, "query").on_behalf_of(verified.claims)


async def test_the_largest_token_from_outside_can_be_carried_through_the_longest_chain(gate: Gate) -> None:
    def with_groups(count: int) -> str:
        body = claims(groups=[f"group-{n:0>3}-with-a-name" for n in range(count)])
        return craft(body=json.dumps(body, separators=(",", ":")).encode())

    count = max(count for count in range(257) if len(with_groups(count)) <= MAX_OUTSIDE_TOKEN)
    verified = await gate.verifier.verify(with_groups(count))
    assert len(verified.claims.groups) == count > 150
    token = ""
    for n in range(MAX_ACTORS):
        name = f"spiffe://mesh.example/ns/groundwire/service-number-{n}"
        token = service(gate, name).on_behalf_of(verified.claims)
        verified = await gate.verifier.verify(token)
    assert MAX_OUTSIDE_TOKEN < len(token) <= MAX_TOKEN


async def test_the_mesh_accepts_the_secret_that_is_being_replaced() -> None:
    clock = Clock()
    verifier = TokenVerifier([mesh_issuer([SECRET, MESH_SECRET])], KnownRevocations(), clock=clock)
    for secret in (SECRET, MESH_SECRET):
        token = MeshTokens(secret, "query", clock=clock).for_subject(tenant="acme", subject="alice")
        await verifier.verify(token)
