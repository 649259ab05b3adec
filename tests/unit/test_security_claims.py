"""Where issuers put what, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.corpus.errors import FailedPrecondition, InvalidField, Unauthenticated
from services.security.claim_paths import MISSING, find, parse_claim_path
from services.security.claims import ClaimNames, Issuer
from services.security.keysets import Algorithm, StaticKeys, shared_secret
from services.security.mesh_tokens import MeshTokens
from services.security.refusal import Refusal
from services.security.tokens import VerifiedToken
from tests.support.token_forge import MESH_SECRET, SECRET, Gate, claims, craft, header

IDP = "https://idp.example"

# The document and the pointers of RFC 6901 §5.
EXAMPLE = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
    "https://example.com/roles": 9,
    "nested": {"one": {"two": [{"three": 10}]}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("a/b", 1),
        ("m~n", 8),
        ("https://example.com/roles", 9),
        ("/https:~1~1example.com~1roles", 9),
        ("/nested/one/two/0/three", 10),
        ("/foo/2", MISSING),
        ("/foo/-", MISSING),
        ("/foo/00", MISSING),
        ("/foo/bar", MISSING),
        ("/foo/0/b", MISSING),
        ("/nested/two", MISSING),
        ("nested/one", MISSING),
        ("/~01", MISSING),
    ],
)
def test_a_claim_is_found_by_its_name_or_by_a_pointer(text: str, value: Any) -> None:
    assert find(EXAMPLE, parse_claim_path(text)) == value


@pytest.mark.parametrize("text", ["", "/a~", "/a~2b", "/~/a", "x" * 513, "/a" * 17])
def test_what_is_neither_is_said(text: str) -> None:
    with pytest.raises(InvalidField):
        parse_claim_path(text)
    with pytest.raises(FailedPrecondition):
        ClaimNames(user=text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": "iss"},
        {"user": "/exp"},
        {"tenant": "sub"},
        {"groups": ("aud",)},
        {"roles": ("sub",)},
        {"scopes": ("jti",)},
    ],
)
def test_claims_with_a_meaning_of_their_own_name_nothing_else(wrong: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition):
        ClaimNames(**wrong)


def gate(names: ClaimNames | None = None, **options: Any) -> Gate:
    keys = StaticKeys([shared_secret(SECRET, "h1")])
    return Gate(
        Issuer(
            name=IDP,
            audiences=frozenset({"groundwire"}),
            algorithm=Algorithm.HS256,
            keys=keys,
            claims=names or ClaimNames(),
            **options,
        )
    )


async def verified(at: Gate, type_: object = "at+jwt", /, **changes: Any) -> VerifiedToken:
    return await at.verifier.verify(craft(header(typ=type_), claims(iss=IDP, **changes)))


async def refused(at: Gate, type_: object = "at+jwt", /, **changes: Any) -> Refusal:
    with pytest.raises(Unauthenticated):
        await verified(at, type_, **changes)
    return at.refusals[-1]


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        (["reader", "writer"], {"reader", "writer"}),
        (["reader", "offline_access", "HR Manager", 7, None, ""], {"reader", "offline_access"}),
        ("reader", {"reader"}),
        ("reader writer", {"reader", "writer"}),
        ("", set()),
        ([], set()),
        (None, set()),
        (..., set()),
    ],
)
async def test_roles_that_the_settings_place_are_a_list_or_a_text(said: Any, counted: set[str]) -> None:
    names = ClaimNames(roles=("/realm_access/roles",))
    body = {} if said is ... else {"realm_access": {"roles": said}}
    assert (await verified(gate(names), roles=..., **body)).claims.roles == counted


async def test_a_text_is_divided_only_if_each_of_its_words_counts() -> None:
    known = {"reader": ("reader",), "admin": ("admin",), "HR Staff": ("writer",)}
    at = gate(ClaimNames(roles=("role",)), role_names=known)
    for said, counted in (
        ("reader admin", {"reader", "admin"}),
        ("Backup admin", set()),
        ("HR Staff", {"writer"}),
        (["Backup admin", "reader admin"], set()),
    ):
        assert (await verified(at, role=said)).claims.roles == counted


async def test_scopes_count_as_roles_beside_them() -> None:
    at = gate(
        ClaimNames(scopes=("scope", "scp")), role_names={"gw:read": ("reader",), "gw:all": ("writer", "operator")}
    )
    for body, counted in (
        ({"scope": "openid gw:read"}, {"reader"}),
        ({"scp": ["gw:all", "email"]}, {"writer", "operator"}),
        ({"scope": "gw:read", "scp": "gw:all"}, {"reader", "writer", "operator"}),
        ({}, set()),
        # With names for roles, no other name is one.
        ({"roles": ["admin", "HR Manager"]}, set()),
    ):
        assert (await verified(at, **{"roles": ..., **body})).claims.roles == counted


async def test_roles_of_several_places_add_up() -> None:
    names = ClaimNames(roles=("/realm_access/roles", "/resource_access/groundwire/roles"))
    body = {"realm_access": {"roles": ["reader"]}, "resource_access": {"groundwire": {"roles": ["operator"]}}}
    assert (await verified(gate(names), **body)).claims.roles == {"reader", "operator"}


@pytest.mark.parametrize("said", [{"hr": True}, 7, True])
@pytest.mark.parametrize("where", ["groups", "roles", "scopes"])
async def test_a_claim_of_another_shape_is_refused(where: str, said: Any) -> None:
    names = {"groups": (), "roles": (), "scopes": (), where: ("/x/y",)}
    at = gate(ClaimNames(groups=names["groups"], roles=names["roles"], scopes=names["scopes"]))
    assert await refused(at, x={"y": said}) is Refusal.MEMBERSHIP


async def test_a_role_that_cannot_be_one_is_left_out_and_a_list_of_nothing_else_is_refused() -> None:
    at = gate()
    assert (await verified(at, roles=["reader", "HR Manager", "/x"])).claims.roles == {"reader"}
    assert await refused(at, roles=["HR Manager"]) is Refusal.MEMBERSHIP


async def test_groups_may_have_any_name_and_those_that_cannot_be_written_are_left_out() -> None:
    remarks: list[tuple[str, str]] = []
    at = gate()
    at.verifier._on_remark = lambda issuer, words: remarks.append((issuer, words))
    names = ["/hr", "Human Resources", "Büro", "app:hr", "CN=HR,OU=Groups,DC=corp", "日本 支社", "a%20b", "*", "-x"]
    caller = (await verified(at, groups=[*names, "", "line\nfeed", "x" * 257, "\ud800"])).caller
    assert caller.groups == set(names)
    assert "group:Human%20Resources" in caller.principals
    ((issuer, words),) = remarks
    assert issuer == IDP
    assert words.startswith("4 groups")


async def test_one_text_is_one_group() -> None:
    at = gate(ClaimNames(groups=("group",)))
    assert (await verified(at, groups=["other"], group="Human Resources")).caller.groups == {"Human Resources"}
    assert await refused(at, group=["hr", "user:root"]) is Refusal.MEMBERSHIP


async def test_a_token_that_permits_nothing_is_remarked_upon() -> None:
    remarks: list[str] = []
    at = gate(ClaimNames(roles=("role",)))
    at.verifier._on_remark = lambda _issuer, words: remarks.append(words)
    for _ in range(2):
        await verified(at, role=["emperor"], jti=...)
    assert len(remarks) == 1, "once while the token is remembered"
    assert "`claims.roles`" in remarks[0]


@pytest.mark.parametrize(
    "name",
    ["auth0|5f7c", "google-oauth2|123", "alice@example.com", "Alice Smith", "_HKZpfa", "CN=Alice,OU=HR", "a/b", "{1}"],
)
async def test_users_may_have_any_name_in_ascii(name: str) -> None:
    caller = (await verified(gate(), sub=name)).caller
    assert caller.subject == name
    assert caller.user.startswith("user:")


async def test_another_claim_may_name_the_user_and_then_in_any_script() -> None:
    at = gate(ClaimNames(user="/profile/upn"))
    assert (await verified(at, profile={"upn": "jürgen"})).caller.user == "user:j%C3%BCrgen"
    assert await refused(at, sub="alice") is Refusal.SUBJECT
    assert await refused(gate(), sub="jürgen") is Refusal.SUBJECT


async def test_a_fixed_tenant_is_that_of_every_token() -> None:
    at = gate(tenant="acme")
    for said in ("globex", ..., 7):
        assert (await verified(at, tenant=said)).caller.tenant == "acme"


async def test_another_claim_may_name_the_audience() -> None:
    at = gate(ClaimNames(audience="client_id"))
    assert (await verified(at, aud=..., client_id="groundwire")).caller.subject == "alice"
    assert await refused(at, client_id="other") is Refusal.AUDIENCE
    assert await refused(at) is Refusal.AUDIENCE


ACCEPTED: dict[tuple[str, ...], set[object]] = {
    (): {"at+jwt", "application/at+jwt"},
    ("JWT",): {"at+jwt", "application/at+jwt", "JWT", "jwt", "application/jwt"},
    ("none",): {"at+jwt", "application/at+jwt", ...},
    ("JWT", "none"): {"at+jwt", "application/at+jwt", "JWT", "jwt", "application/jwt", ...},
    ("id_token",): {"at+jwt", "application/at+jwt", "JWT", "jwt", "application/jwt", ...},
}


@pytest.mark.parametrize("types", ACCEPTED)
async def test_the_types_that_are_accepted_are_those_of_the_settings(types: tuple[str, ...]) -> None:
    for typ in (
        "at+jwt",
        "application/at+jwt",
        "JWT",
        "jwt",
        "application/jwt",
        ...,
        "none",
        "id_token",
        "",
        "dpop+jwt",
    ):
        at = gate(token_types=frozenset(types))
        if typ in ACCEPTED[types]:
            assert (await verified(at, typ)).caller.subject == "alice"
        else:
            assert await refused(at, typ) is Refusal.TYPE


@pytest.mark.parametrize(
    "says",
    [
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": "Offline"},
        {"typ": "Logout"},
        {"typ": ["Bearer"]},
        {"token_use": "id"},
        {"token_use": None},
        {"at_hash": "x"},
        {"c_hash": "x"},
        {"events": {}},
    ],
)
async def test_what_says_that_it_is_no_access_token_is_refused_where_types_do_not_tell(says: dict[str, Any]) -> None:
    assert await refused(gate(token_types=frozenset({"JWT"})), "JWT", **says) is Refusal.TYPE
    await verified(gate(token_types=frozenset({"id_token"})), "JWT", **says)


async def test_names_of_any_script_travel_between_services_without_growing() -> None:
    at = gate()
    groups = [f"支社 {n} " + "部" * 12 for n in range(70)]
    body = json.dumps(claims(iss=IDP, groups=groups), ensure_ascii=False).encode()
    caller = await at.verifier.verify(craft(body=body))
    derived = MeshTokens(MESH_SECRET, "query", clock=at.clock).on_behalf_of(caller.claims)
    assert (await at.verifier.verify(derived)).caller.principals == caller.caller.principals
