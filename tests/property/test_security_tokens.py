"""Over all that can happen: no altered token verifies, no revoked one is accepted, no issuer is asked too often."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.corpus.errors import InvalidField, Unauthenticated
from services.security.jwks import Fetched, KeyFetchError, RefreshingKeys
from services.security.keysets import Algorithm, MalformedKeySetError, parse_jwks
from services.security.mesh_identity import SpiffeId, certificate_identity
from services.security.mesh_tokens import MeshTokens
from services.security.revocation import SubjectRevoked, TokenRevoked
from services.security.tokens import VerifiedToken
from tests.support.token_forge import HS, MESH_SECRET, NOW, Clock, Gate, asymmetric, claims, craft, mesh
from tests.unit.test_security_keysets import jwk

TOKENS = {
    "HS256": craft(),
    "RS256": asymmetric(Algorithm.RS256),
    "PS256": asymmetric(Algorithm.PS256),
    "ES256": asymmetric(Algorithm.ES256),
    "EdDSA": asymmetric(Algorithm.EDDSA),
    "mesh": mesh(),
}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def verify(gate: Gate, *values: str) -> VerifiedToken | None:
    """The verifier's answer, None for a refusal; these tests have no event loop of their own."""
    try:
        return asyncio.run(gate.verifier.authenticate(values))
    except Unauthenticated:
        return None


@pytest.mark.parametrize("kind", TOKENS)
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_changing_any_character_voids_a_token(kind: str, data: st.DataObject) -> None:
    token = TOKENS[kind]
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.one_of(st.sampled_from(ALPHABET), st.characters()).filter(lambda char: char != token[at]))
    gate = Gate()
    assert verify(gate, f"Bearer {token}") is not None
    assert verify(gate, f"Bearer {token[:at]}{other}{token[at + 1 :]}") is None
    assert verify(Gate(), f"Bearer {token[:at]}{other}{token[at + 1 :]}") is None


@pytest.mark.parametrize("kind", TOKENS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_cutting_out_or_doubling_any_part_voids_a_token(kind: str, data: st.DataObject) -> None:
    token = TOKENS[kind]
    start = data.draw(st.integers(0, len(token) - 1))
    end = data.draw(st.integers(start + 1, len(token)))
    assert verify(Gate(), f"Bearer {token[:start]}{token[end:]}") is None
    assert verify(Gate(), f"Bearer {token[:end]}{token[start:]}") is None


@given(st.lists(st.text(max_size=60), max_size=3))
@settings(deadline=None, max_examples=300)
def test_no_text_is_a_token(values: list[str]) -> None:
    assert verify(Gate(), *values) is None
    assert verify(Gate(), *(f"Bearer {value}" for value in values)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["iss", "aud", "sub", "tenant", "groups", "roles", "iat", "exp", "nbf", "jti", "act", "origin"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4), st.sampled_from(["user", "mesh"]))
@settings(deadline=None, max_examples=400)
def test_signed_nonsense_proves_a_well_formed_caller_or_nobody(changes: dict[str, Any], kind: str) -> None:
    token = craft(body=claims(**changes)) if kind == "user" else mesh(**changes)
    gate = Gate()
    verified = verify(gate, f"Bearer {token}")
    assert (verified is None) == (len(gate.refusals) == 1)
    assert "unexpected" not in gate.refusals
    if verified is not None:
        named = [verified.caller.tenant, *verified.caller.principals, *verified.claims.roles]
        assert all(name.isascii() and name.isprintable() and name for name in named)
        assert NOW - 86_400 <= verified.claims.issued_at <= NOW + 30
        assert (verified.caller.acting_service != "") == (kind == "mesh")


class Acceptance(RuleBasedStateMachine):
    """A verifier with a small cache, over time, while tokens and subjects are revoked: compared with the rules."""

    @initialize()
    def begin(self) -> None:
        """Nothing is minted or revoked."""
        self.loop = asyncio.new_event_loop()
        self.gate = Gate(cache_size=3)
        self.mesh = MeshTokens(MESH_SECRET, "query", clock=self.gate.clock)
        # Each token with its own expiry, and the id, subject and time of the user's token that it began with.
        self.tokens: list[tuple[str, int, str, str, int]] = []
        self.revoked: set[str] = set()
        self.epochs: dict[str, int] = {}

    @rule(subject=st.sampled_from(["alice", "bob"]), lifetime=st.sampled_from([5, 60, 600]))
    def mint(self, subject: str, lifetime: int) -> None:
        """A user logs in."""
        now, token_id = int(self.gate.clock.now), f"token-{len(self.tokens)}"
        body = claims(sub=subject, iat=now, exp=now + lifetime, jti=token_id)
        self.tokens.append((craft(body=body), now + lifetime + 10, token_id, subject, now))

    @rule(data=st.data())
    def derive(self, data: st.DataObject) -> None:
        """A service calls on, for a user whose token is still accepted."""
        if self.tokens:
            token, _, *origin = data.draw(st.sampled_from(self.tokens))
            verified = self.verify(token)
            if verified is not None and len(verified.claims.actors) < 3:
                derived = self.verify(self.mesh.on_behalf_of(verified.claims))
                assert derived is not None
                entry = (self.mesh.on_behalf_of(verified.claims), derived.claims.valid_until, *origin)
                self.tokens.append(entry)  # type: ignore[arg-type] # the star hides the types

    @rule(data=st.data())
    def revoke_token(self, data: st.DataObject) -> None:
        """Somebody loses a device."""
        if self.tokens:
            token_id = data.draw(st.sampled_from(self.tokens))[2]
            self.revoked.add(token_id)
            self.gate.revocations.apply(TokenRevoked.at(self.gate.clock.now, HS, token_id))

    @rule(subject=st.sampled_from(["alice", "bob"]))
    def revoke_subject(self, subject: str) -> None:
        """Somebody leaves."""
        revocation = SubjectRevoked.at(self.gate.clock.now, "acme", subject, skew=0)
        self.epochs[subject] = revocation.epoch
        self.gate.revocations.apply(revocation)

    @rule(seconds=st.sampled_from([0.3, 1, 7, 30, 200]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.gate.clock.now += seconds

    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        """Somebody calls with a token that was given out once."""
        if self.tokens:
            token, valid_until, token_id, subject, issued_at = data.draw(st.sampled_from(self.tokens))
            good = self.gate.clock.now < valid_until and token_id not in self.revoked
            good = good and issued_at >= self.epochs.get(subject, 0)
            assert (self.verify(token) is not None) == good

    @invariant()
    def nothing_void_is_remembered_as_good(self) -> None:
        """Every token, at every moment."""
        for token, valid_until, token_id, subject, issued_at in getattr(self, "tokens", []):
            void = token_id in self.revoked or issued_at < self.epochs.get(subject, 0)
            if void or self.gate.clock.now >= valid_until:
                assert self.verify(token) is None

    def verify(self, token: str) -> VerifiedToken | None:
        """On this machine's loop."""
        try:
            return self.loop.run_until_complete(self.gate.verifier.verify(token))
        except Unauthenticated:
            return None

    def teardown(self) -> None:
        """Close the loop."""
        if hasattr(self, "loop"):
            self.loop.close()


TestAcceptance = Acceptance.TestCase
TestAcceptance.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)

DOCUMENTS = {
    name: json.dumps({"keys": [jwk(Algorithm.ES256, kid=kid) for kid in name.split()]}).encode()
    for name in ("a", "b", "a b")
}


class Refreshing(RuleBasedStateMachine):
    """Fetched keys over time: an issuer that rotates, fails and recovers, and callers who ask for any name."""

    @initialize()
    def begin(self) -> None:
        """Nothing is fetched yet."""
        self.loop = asyncio.new_event_loop()
        self.clock = Clock(10_000.0)
        self.published = "a"
        self.down: KeyFetchError | None = None
        self.attempts: list[float] = []
        self.last_good = float("-inf")
        self.known: set[str] = set()
        self.keys = RefreshingKeys(self, Algorithm.ES256, clock=self.clock)

    async def fetch(self, known: object) -> Fetched | None:
        """The issuer's answer."""
        self.attempts.append(self.clock.now)
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        self.last_good, self.known = self.clock.now, set(self.published.split())
        return None if known == self.published else Fetched(DOCUMENTS[self.published], self.published)

    async def close(self) -> None:
        """Nothing is held."""

    @rule(names=st.sampled_from(sorted(DOCUMENTS)))
    def rotate(self, names: str) -> None:
        """The issuer publishes other keys."""
        self.published = names

    @rule(down=st.booleans())
    def fail_or_recover(self, down: bool) -> None:
        """The issuer goes down or comes back."""
        self.down = KeyFetchError("down") if down else None

    @rule(seconds=st.sampled_from([0.5, 5, 29.5, 30, 300, 1800, 3600.5]))
    def wait(self, seconds: float) -> None:
        """Time passes, the background asleep."""
        self.clock.now += seconds

    @rule(callers=st.integers(1, 5), kid=st.sampled_from(["a", "b", "made-up"]))
    def ask(self, callers: int, kid: str) -> None:
        """Several calls at once present a token of a key that they did not find."""
        before = list(self.attempts)

        async def all_at_once() -> list[object]:
            return await asyncio.gather(*(self.keys.look_again(kid) for _ in range(callers)))

        found = self.loop.run_until_complete(all_at_once())
        expected = kid in self.known and self.clock.now - self.last_good <= 3600
        assert all((key is not None) == expected for key in found)
        assert len(self.attempts) - len(before) == (not before or self.clock.now - before[-1] >= 30)

    @rule()
    def background(self) -> None:
        """The background's turn, if it is due."""
        if self.keys.due_in() == 0:
            self.loop.run_until_complete(self.keys.refresh())

    @invariant()
    def never_more_than_one_fetch_in_thirty_seconds(self) -> None:
        """Not even together with the background's."""
        attempts = getattr(self, "attempts", [])
        assert all(later - earlier >= 30 for earlier, later in pairwise(attempts))

    @invariant()
    def keys_serve_while_they_are_fresh_enough_and_no_longer(self) -> None:
        """An hour."""
        if hasattr(self, "keys"):
            usable = self.clock.now - self.last_good <= 3600
            for kid in ("a", "b", "made-up"):
                assert (self.keys.find(kid) is not None) == (usable and kid in self.known)

    def teardown(self) -> None:
        """Close the loop."""
        if hasattr(self, "loop"):
            self.loop.close()


TestRefreshing = Refreshing.TestCase
TestRefreshing.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps({"keys": value}).encode()))
@settings(deadline=None, max_examples=200)
def test_no_document_makes_reading_keys_fail_otherwise(document: bytes) -> None:
    try:
        assert parse_jwks(document, Algorithm.RS256).keys == {}
    except MalformedKeySetError as error:
        message = str(error)
    else:
        return
    assert message in {"not a JWK Set of a reasonable size", "two keys share a name"}


@given(st.dictionaries(st.sampled_from(["kty", "n", "e", "x", "y", "crv", "kid", "alg", "use"]), JSON))
@settings(deadline=None, max_examples=200)
@pytest.mark.parametrize("algorithm", [Algorithm.RS256, Algorithm.PS256, Algorithm.ES256, Algorithm.EDDSA])
def test_no_member_of_a_key_makes_reading_it_fail(algorithm: Algorithm, changes: dict[str, Any]) -> None:
    document = json.dumps({"keys": [jwk(algorithm, **changes), jwk(algorithm, kid="good-one")]}).encode()
    try:
        assert "good-one" in parse_jwks(document, algorithm).keys
    except MalformedKeySetError:
        assert "NaN" in document.decode() or "Infinity" in document.decode()


@given(st.text(max_size=40) | st.from_regex(r"spiffe://[a-z.]{1,5}(/[a-z.%]{1,4}){0,3}", fullmatch=True))
@settings(deadline=None, max_examples=300)
def test_an_id_reads_back_as_it_was_written_or_not_at_all(text: str) -> None:
    try:
        identity = SpiffeId.parse(text)
    except InvalidField:
        return
    assert str(identity) == text
    assert not {"", ".", ".."} & set(identity.path.split("/")[1:])


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_no_bytes_make_reading_a_certificate_fail(pem: bytes) -> None:
    assert certificate_identity(pem) is None
    assert certificate_identity(b"-----BEGIN CERTIFICATE-----\n" + pem + b"\n-----END CERTIFICATE-----\n") is None
