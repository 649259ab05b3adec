"""Which of an issuer's tokens are access tokens.

A token of type ``at+jwt`` says so itself (RFC 9068 §2.1). Of an issuer whose access tokens are plain ``JWT`` or have no
type, an ID token, a refresh token or a logout token looks alike, and must not be taken for one (RFC 8725 §2.8, §3.12):
what these say and access tokens do not is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.security.refusal import Refusal, Refused

ACCESS_TOKEN = "at+jwt"  # noqa: S105 - the name of a type, not a secret
PLAIN = "JWT"
UNTYPED = "none"
ID_TOKEN = "id_token"  # noqa: S105 - the name of a type, not a secret
CONFIGURABLE = (PLAIN, UNTYPED, ID_TOKEN)
"""What an issuer's setting ``token_types`` may name; ``id_token`` stands for ID tokens, whatever their type."""

# The hashes of an access token, a code and a state, which ID tokens alone have (OpenID Connect Core §3.3.2.11, FAPI).
_OF_ID_TOKENS = frozenset({"at_hash", "c_hash", "s_hash"})
# What an issuer calls its tokens in a claim: `typ` of Keycloak's, `token_use` of Cognito's.
_ACCESS = {"typ": frozenset({"bearer", "jwt", "at+jwt"}), "token_use": frozenset({"access"})}


def check_type(token_type: str | None, claims: Mapping[str, Any], accepted: frozenset[str]) -> None:
    """Refused unless a token whose header says ``token_type`` is an access token, or of an ``accepted`` kind."""
    name = UNTYPED if token_type is None else token_type.lower().removeprefix("application/")
    if name == ACCESS_TOKEN:
        return
    known = {PLAIN.lower(): PLAIN, UNTYPED: UNTYPED}.get(name)
    wanted = accepted | {PLAIN, UNTYPED} if ID_TOKEN in accepted else accepted
    if known is None or (known is UNTYPED and token_type is not None):
        raise Refused(Refusal.TYPE, "the token's header says another `typ` than at+jwt and JWT")
    if known not in wanted:
        says = "has no `typ`" if token_type is None else "says `typ` JWT"
        raise Refused(
            Refusal.TYPE,
            f"the token's header {says} instead of at+jwt: if the issuer's access tokens are like that, add "
            f'"{known}" to its setting `token_types`, and make sure that `audience` is that of an API, not of a client',
        )
    if ID_TOKEN not in accepted and _says_otherwise(claims):
        raise Refused(
            Refusal.TYPE,
            "the token is an ID token, a refresh token or a logout token: clients have to send the access token",
        )


def _says_otherwise(claims: Mapping[str, Any]) -> bool:
    if "events" in claims or not _OF_ID_TOKENS.isdisjoint(claims):
        return True
    return any(
        name in claims and not (isinstance(claims[name], str) and claims[name].lower() in kinds)
        for name, kinds in _ACCESS.items()
    )
