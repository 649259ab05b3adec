"""Authentication of one process: whose tokens are accepted, and what its own calls carry.

Between services the caller's identity travels on in short-lived tokens of the mesh, with the chain of services that
act for them. They are signed with a secret that the processes of one data directory share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from interceptors import current
from interceptors._shapes import Call
from interceptors.client import Credentials
from services.corpus.errors import CredentialsRefused, Unauthenticated, Unavailable
from services.corpus.principal import Caller
from services.runtime import development
from services.runtime.options import ClaimOptions, IssuerOptions
from services.runtime.settings import Settings
from services.security.claims import ClaimNames, Claims, Issuer
from services.security.jwks import RefreshingKeys
from services.security.key_files import shared_secret_file
from services.security.keysets import Algorithm, KeySource, StaticKeys, shared_secret
from services.security.mesh_identity import MeshPeers, speaks_for
from services.security.mesh_tokens import MESH_TENANT, MeshTokens, mesh_issuer
from services.security.permissions import role_table
from services.security.refusal import WORDS, Explanation, Refusal
from services.security.refusal_log import RefusalLog
from services.security.revocation_feed import RevocationFeed
from services.security.revocation_sqlite import SqliteRevocationStore
from services.security.tokens import TokenVerifier, VerifiedToken

_log = structlog.get_logger(__name__)


class TokenAuthentication:
    """Verifies callers' tokens and makes those that go on to other services. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        accepted: Sequence[IssuerOptions],
        mesh_secret: bytes,
        on_refusal: Callable[[Explanation], None] | None = None,
    ) -> None:
        """``on_refusal`` is told why a token was refused in the log's place."""
        self._mesh_secret = mesh_secret
        self._log = RefusalLog(_log.warning, _log.debug)
        self._roles = role_table(settings.authorization.roles)
        self._feed = RevocationFeed(SqliteRevocationStore(settings.keys_dir / "revocations.sqlite3"))
        self._refreshing: list[RefreshingKeys] = []
        issuers = [self._issuer(options) for options in accepted]
        self._verifier = TokenVerifier(
            [*issuers, mesh_issuer([mesh_secret])],
            self._feed,
            roles=self._roles,
            on_refusal=on_refusal or self._log.refused,
            on_remark=self._log.remark,
        )
        # Where certificates tell who calls, the secret of the mesh alone makes nobody a service.
        self._peers = MeshPeers(settings.tls.allowed_peers) if settings.tls.certificate is not None else None

    @classmethod
    async def start(
        cls, settings: Settings, on_refusal: Callable[[Explanation], None] | None = None
    ) -> TokenAuthentication:
        """Read revocations and key sets; Unavailable or FailedPrecondition if nobody could be let in."""
        secret = await asyncio.to_thread(shared_secret_file, settings.keys_dir / "mesh.key")
        accepted = settings.authentication.issuers or [await asyncio.to_thread(development.issuer, settings)]
        started = cls(settings, accepted, secret, on_refusal)
        await started._feed.start()
        for keys in started._refreshing:
            await keys.start()
        return started

    async def identify(self, call: Call) -> Caller:
        """The caller behind ``call``; Unauthenticated unless its token is acceptable."""
        values = call.metadata("authorization")
        verified = self._verifier.remembered(values) or await self._verifier.authenticate(values)
        if self._peers is not None and verified.claims.actors:
            self._check_peer(self._peers, call, verified.claims.actors[0])
        current.credential.set(verified.claims)
        call.proof = verified.claims
        return verified.caller

    async def confirm(self, call: Call, error: Exception | None = None) -> None:
        """Raise Unauthenticated if the caller of ``call`` would not be let in any more.

        With ``error``, what the call failed with: nothing is looked at unless that may be why.
        """
        if not isinstance(call.proof, Claims) or not (error is None or isinstance(error, Unavailable)):
            return
        if isinstance(error, CredentialsRefused):
            # The other service knew of a revocation before this one.
            await self._feed.refresh()
        await self._verifier.confirm(call.metadata("authorization"), call.proof)

    async def verify(self, token: str) -> VerifiedToken:
        """The caller that ``token`` proves; Unauthenticated."""
        return await self._verifier.verify(token)

    def credentials(self, service: str) -> Credentials:
        """What ``service`` sends with its calls: for its caller while it serves one, else for itself."""
        tokens = MeshTokens(self._mesh_secret, service)

        async def authorization() -> list[tuple[str, str]]:
            claims = current.credential.get()
            token = (
                tokens.on_behalf_of(claims)
                if isinstance(claims, Claims)
                else tokens.for_subject(tenant=MESH_TENANT, subject=f"service-{service}")
            )
            return [("authorization", f"Bearer {token}")]

        return authorization

    async def close(self) -> None:
        """Stop refreshing."""
        for keys in self._refreshing:
            await keys.stop()
        await self._feed.stop()
        self._log.close()

    def _issuer(self, options: IssuerOptions) -> Issuer:
        return Issuer(
            name=options.name,
            audiences=frozenset(options.audiences),
            algorithm=Algorithm(options.algorithm),
            keys=self._keys(options),
            token_types=frozenset(options.token_types),
            tenant=options.tenant or "",
            tenants=frozenset(options.tenants),
            claims=_claim_names(options.claims),
            role_names=self._role_names(options),
            max_lifetime=options.max_lifetime,
            leeway=options.leeway,
        )

    def _role_names(self, options: IssuerOptions) -> Mapping[str, tuple[str, ...]]:
        if options.roles or not (options.claims.roles or options.claims.scopes):
            return options.roles
        # Claims that are not ours hold all kinds of names: those that mean nothing here need not travel on.
        return {role: (role,) for role in self._roles}

    def _check_peer(self, peers: MeshPeers, call: Call, actor: str) -> None:
        # A unix socket has no certificates: its mode, and its directory's, say that this very user calls.
        if call.context.peer().startswith("unix:"):
            return
        try:
            speaks = speaks_for(peers.admit(call.context.auth_context()), actor)
        except Unauthenticated:
            speaks = False
        if not speaks:
            self._log.refused(Explanation(Refusal.PEER, WORDS[Refusal.PEER]))
            raise Unauthenticated

    def _keys(self, options: IssuerOptions) -> KeySource:
        if options.secret is not None:
            return StaticKeys([shared_secret(options.secret.get_secret_value().encode())])
        # Its HTTP client takes long to import, and a secret needs none.
        from services.security.jwks_fetch import FILE_POLICY, FileFetcher, HttpsFetcher  # noqa: PLC0415

        algorithm = Algorithm(options.algorithm)
        keys = (
            RefreshingKeys(FileFetcher(options.jwks_file), algorithm, FILE_POLICY)
            if options.jwks_file is not None
            else RefreshingKeys(HttpsFetcher(options.jwks_url or ""), algorithm)
        )
        self._refreshing.append(keys)
        return keys


async def token_claims(
    settings: Settings, token: str, on_refusal: Callable[[Explanation], None] | None = None
) -> Claims:
    """What a token says that would be accepted now; Unauthenticated, after ``on_refusal`` was told why, if it would not."""
    started = await TokenAuthentication.start(settings, on_refusal)
    try:
        return (await started.verify(token)).claims
    finally:
        await started.close()


def _claim_names(options: ClaimOptions) -> ClaimNames:
    return ClaimNames(
        user=options.user,
        tenant=options.tenant,
        audience=options.audience,
        groups=options.groups,
        roles=options.roles,
        scopes=options.scopes,
    )
