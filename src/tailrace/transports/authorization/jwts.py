"""Tokens that are JWTs (RFC 9068): signed by an issuer that is trusted, for this server, and now.

The signature is PyJWT's business; which algorithms, issuers and audiences are accepted is decided here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tailrace.core.access import Access, InvalidToken, is_text
from tailrace.errors import DefinitionError
from tailrace.fetch import Fetch, is_loopback_url
from tailrace.transports.authorization.keys import Keys
from tailrace.transports.authorization.remembered import Remembered

if TYPE_CHECKING:
    import types

__all__ = ["JwtVerifier", "access_of"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})  # RFC 9068, 4; absent: older servers
_MAX_PRINCIPAL = 255


class JwtVerifier:
    """Judges JWTs by their issuer's published keys. Needs the extra ``auth``.

    Args:
        issuer: The authorization server, exactly as its tokens say it.
        audience: What tokens have to be for: this server's address, or what it is registered as; one of several.
        jwks_uri: Where the issuer's keys are; None: where its metadata says.
        algorithms: Of signatures; only of public keys.
        leeway: Seconds by which clocks may differ.
        remember: Seconds for which a verdict is kept; at most until the token ends.

    Raises:
        DefinitionError: An option cannot work, or PyJWT is not installed.
    """

    def __init__(
        self,
        issuer: str,
        audience: str | Sequence[str],
        *,
        jwks_uri: str | None = None,
        algorithms: Sequence[str] = ALGORITHMS,
        leeway: float = 30.0,
        remember: float = 60.0,
    ) -> None:
        self._jwt = _library()
        audiences = [audience] if isinstance(audience, str) else list(audience)
        if not issuer or not audiences or not all(audiences):
            raise DefinitionError(
                "JwtVerifier needs an issuer and an audience: else other servers' tokens are valid here"
            )
        if jwks_uri is None and not issuer.startswith(("https://", "http://")):
            raise DefinitionError(
                f"the issuer's keys are found by its address: {issuer!r} is none; give jwks_uri=, too"
            )
        if unknown := sorted(set(algorithms) - set(ALGORITHMS)):
            raise DefinitionError(f"algorithms of public keys are {', '.join(ALGORITHMS)}; not {', '.join(unknown)}")
        self.issuers = (issuer,)
        self._audiences = audiences
        self._algorithms = list(algorithms)
        self._leeway = leeway
        self._jwks_uri = jwks_uri
        self._remembered = Remembered(remember)
        self._fetch: Fetch | None = None
        self._keys: Keys | None = None

    async def __call__(self, token: str) -> Access | None:
        """What the token allows.

        Raises:
            InvalidToken: It is not valid, and why.
            TransportError: The issuer's keys cannot be had.
        """
        known = self._remembered.find(token)
        if known is not None:
            return known
        jwt = self._jwt
        try:
            head: dict[str, Any] = jwt.get_unverified_header(token)
            algorithm, kind = head.get("alg"), head.get("typ")
            if algorithm not in self._algorithms:
                raise InvalidToken("the token is signed in a way that is not accepted here")
            if kind is not None and not (isinstance(kind, str) and kind.lower() in _TYPES):
                raise InvalidToken("this is no access token")
            key = await self._opened().find(head.get("kid"))
            if key is None:
                raise InvalidToken("the token is signed by a key that is not the issuer's")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._audiences,
                issuer=self.issuers[0],
                leeway=self._leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(self._reason(error)) from None
        access = access_of(claims)
        self._remembered.keep(token, access)
        return access

    async def aclose(self) -> None:
        """Close connections. Idempotent; a later token opens them anew."""
        fetch, self._fetch, self._keys = self._fetch, None, None
        if fetch is not None:
            await fetch.aclose()

    def _opened(self) -> Keys:
        if self._keys is None:
            self._fetch = Fetch(loopback=is_loopback_url(self.issuers[0]), seconds=4.0)
            self._keys = Keys(self._fetch, self.issuers[0], self._jwks_uri)
        return self._keys

    def _reason(self, error: Exception) -> str:
        jwt = self._jwt
        reasons: Mapping[type[Exception], str] = {
            jwt.ExpiredSignatureError: "the token has expired",
            jwt.ImmatureSignatureError: "the token is not valid yet",
            jwt.InvalidIssuedAtError: "the token is from the future",
            jwt.InvalidAudienceError: "the token is for another server",
            jwt.InvalidIssuerError: "the token is from another issuer",
            jwt.InvalidSignatureError: "the token's signature is wrong",
        }
        found = next((text for kind, text in reasons.items() if isinstance(error, kind)), None)
        if found is None and isinstance(error, jwt.MissingRequiredClaimError):
            found = "the token does not say who gave it, for whom, or until when"
        return found or "the token is no JWT that can be read"


def access_of(claims: Mapping[str, Any]) -> Access:
    """What the claims of a token say of it.

    Raises:
        InvalidToken: They do not say whose it is.
    """
    client = claims.get("client_id", claims.get("azp"))
    subject = claims.get("sub") or client
    if not isinstance(subject, str) or not subject or not is_text(subject):
        raise InvalidToken("the token does not say whose it is")
    if len(subject) > _MAX_PRINCIPAL:
        subject = "sub-" + hashlib.sha256(subject.encode()).hexdigest()
    return Access(
        principal=subject,
        scopes=_scopes(claims.get("scope", claims.get("scp"))),
        claims=dict(claims),
        client_id=client if is_text(client) else None,
        expires_at=_seconds(claims.get("exp")),
    )


def _seconds(said: Any) -> float | None:
    """A time; one that no clock will show is none, for a whole number of JSON can be larger than any float."""
    try:
        return float(said) if isinstance(said, (int, float)) else None
    except OverflowError:
        return None


def _scopes(said: Any) -> frozenset[str]:
    """A string, or what some servers write: a list. Nothing said: good for nothing in particular."""
    parts: list[Any] = said.split() if isinstance(said, str) else list(said) if isinstance(said, list) else []  # pyright: ignore
    return frozenset(part for part in parts if is_text(part))


def _library() -> types.ModuleType:
    try:
        import jwt
        import jwt.algorithms
    except ImportError:
        raise DefinitionError("JwtVerifier needs the extra: pip install 'tailrace[auth]'") from None
    if not jwt.algorithms.has_crypto:
        raise DefinitionError("JwtVerifier needs cryptography: pip install 'tailrace[auth]'")
    return jwt
