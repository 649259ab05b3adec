"""The groups and roles in a token.

The claims ``groups`` and ``roles`` are lists of texts (RFC 9068 §2.2.3.1) unless the settings say where else an issuer
puts them. Then what issuers do is read, too: a single text in a list's place, null for none, items that are no texts.

A name that no principal can hold is left out, and so is a role that is none here: that only ever takes access away,
while refusing the token would lock its user out over the name of a group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from services.corpus.principal import is_name, is_principal
from services.security.claim_paths import MISSING, ClaimPath, find
from services.security.refusal import Refusal, Refused

MAX_GROUPS = 256
MAX_ROLES = 64
_MAX_ITEMS = 4096
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:\-]{0,127}")


def is_role(value: object) -> bool:
    """Whether ``value`` may name a role."""
    return isinstance(value, str) and _ROLE.fullmatch(value) is not None


def read_groups(claims: Mapping[str, Any], paths: Sequence[ClaimPath]) -> tuple[frozenset[str], int]:
    """The groups that stand at ``paths`` (none: in ``groups``), and how many were left out.

    Refused if there are more than 256, or one of them is itself a principal, such as ``user:root``.
    """
    texts = _loosely(claims, paths, _whole) if paths else _strictly(claims, "groups", MAX_GROUPS)
    if any(map(is_principal, texts)):
        raise Refused(Refusal.MEMBERSHIP, "a group is named like a principal (user:…, group:… or tenant:*)")
    groups = frozenset(text for text in texts if is_name("group", text))
    if len(groups) > MAX_GROUPS:
        raise Refused(Refusal.MEMBERSHIP, _too_many("groups", MAX_GROUPS))
    return groups, len(set(texts)) - len(groups)


def read_roles(
    claims: Mapping[str, Any],
    paths: Sequence[ClaimPath],
    scopes: Sequence[ClaimPath],
    names: Mapping[str, Sequence[str]],
) -> frozenset[str]:
    """The roles that stand at ``paths`` (none: in ``roles``) and, as scopes, at ``scopes``.

    ``names`` says which roles a name in a token stands for, and then no other name counts; empty: each for itself. A
    text in a list's place is several roles, divided by spaces, if each of its words counts, and else one role; scopes
    are always divided (RFC 6749 §3.3). Refused if there are more than 64, or a list without ``names`` has no item that
    could name a role.
    """

    def words(text: str) -> Sequence[str]:
        divided = text.split()
        return divided if all(word in names if names else is_role(word) for word in divided) else (text,)

    texts = _loosely(claims, paths, words) if paths else _strictly(claims, "roles", MAX_ROLES)
    if names:
        roles = frozenset(
            role for text in (*texts, *_loosely(claims, scopes, str.split)) for role in names.get(text, ())
        )
    else:
        if texts and not paths and not any(map(is_role, texts)):
            raise Refused(Refusal.MEMBERSHIP, "no item of the claim `roles` could name a role; `roles` can map names")
        roles = frozenset(filter(is_role, (*texts, *_loosely(claims, scopes, str.split))))
    if len(roles) > MAX_ROLES:
        raise Refused(Refusal.MEMBERSHIP, _too_many("roles", MAX_ROLES))
    return roles


def _strictly(claims: Mapping[str, Any], name: str, limit: int) -> list[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refused(
            Refusal.MEMBERSHIP,
            f"the claim `{name}` is no list of texts; if that is how the issuer writes it, "
            f'say claims.{name} = "{name}" in its settings',
        )
    if len(value) > limit:
        raise Refused(Refusal.MEMBERSHIP, _too_many(name, limit))
    return value


def _loosely(
    claims: Mapping[str, Any], paths: Sequence[ClaimPath], divide: Callable[[str], Sequence[str]]
) -> list[str]:
    found: list[str] = []
    for path in paths:
        value = find(claims, path)
        if isinstance(value, str):
            found += divide(value)
        elif isinstance(value, list) and len(value) <= _MAX_ITEMS:
            found += _texts(value)
        elif value is not MISSING and value is not None:
            raise Refused(Refusal.MEMBERSHIP, f"what stands at {_shown(path)} is neither a list nor a text")
    return found


def _texts(items: Iterable[object]) -> list[str]:
    return [item for item in items if isinstance(item, str)]


def _whole(text: str) -> Sequence[str]:
    return (text,)


def _shown(path: ClaimPath) -> str:
    return path[0] if len(path) == 1 else "/" + "/".join(path)


def _too_many(what: str, limit: int) -> str:
    return f"the token has more than {limit} {what}: have its issuer send only those that matter here"
