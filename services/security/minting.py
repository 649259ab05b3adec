"""Makes access tokens (RFC 9068) under a shared secret, for development and as the base of the mesh's own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from json import JSONEncoder
from typing import Any

import jwt

from services.corpus.errors import Violations
from services.corpus.principal import name_problem
from services.security.claims import LONGEST_LIFETIME, is_group, is_subject, is_tenant, is_token_id
from services.security.keysets import shared_secret
from services.security.memberships import MAX_GROUPS, MAX_ROLES, is_role


class _Utf8(JSONEncoder):
    """Writes text as it is: a token that is derived from another must not grow by escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "ensure_ascii": False})


class TokenMinter:
    """Mints HS256 tokens of one issuer. FailedPrecondition from the constructor if the secret is weak."""

    def __init__(self, secret: bytes, *, issuer: str, audience: str, clock: Callable[[], float] = time.time) -> None:
        self._key = shared_secret(secret)
        self._issuer = issuer
        self._audience = audience
        self._clock = clock

    def mint(
        self,
        *,
        tenant: str,
        subject: str,
        groups: Collection[str] = (),
        roles: Collection[str] = (),
        lifetime: int = 3600,
        token_id: str | None = None,
    ) -> str:
        """A token that is valid from now for ``lifetime`` seconds (at most a day).

        Without ``token_id`` (its ``jti``, by which it can be revoked) it gets 128 random bits. Raises InvalidRequest
        naming every argument with which the token would be refused.
        """
        violations = Violations()
        violations.require(is_tenant(tenant), "tenant", "must be an identifier")
        problem = name_problem("user", subject) or "must be a name of 1 to 128 characters of ASCII"
        violations.require(is_subject(subject), "subject", problem)
        wrong = next((group for group in groups if not is_group(group)), None)
        if wrong is not None:
            violations.add("groups", f"{wrong!r} {name_problem('group', wrong)}")
        violations.require(len(set(groups)) <= MAX_GROUPS, "groups", f"must be at most {MAX_GROUPS}")
        violations.require(all(map(is_role, roles)), "roles", "must be names of roles")
        violations.require(len(set(roles)) <= MAX_ROLES, "roles", f"must be at most {MAX_ROLES}")
        violations.require(0 < lifetime <= LONGEST_LIFETIME, "lifetime", f"must be 1 to {LONGEST_LIFETIME} seconds")
        token_id = secrets.token_hex(16) if token_id is None else token_id
        violations.require(is_token_id(token_id), "token_id", "must be printable ASCII without spaces")
        violations.raise_if_any()
        now = int(self._clock())
        return self.sign(
            {
                "iat": now,
                "exp": now + lifetime,
                "jti": token_id,
                "sub": subject,
                "tenant": tenant,
                "groups": sorted(set(groups)),
                "roles": sorted(set(roles)),
            }
        )

    def sign(self, claims: Mapping[str, Any]) -> str:
        """``claims`` as they are, with this issuer's name and audience, as a token."""
        return jwt.encode(
            {"iss": self._issuer, "aud": self._audience, **claims},
            self._key.material,
            algorithm="HS256",
            headers={"typ": "at+jwt", "kid": self._key.key_id},
            json_encoder=_Utf8,
        )
