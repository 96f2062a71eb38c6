"""Who may ask, as OAuth has it: the server is a resource, and somebody else's authorization server gives tokens."""

from collections.abc import Sequence

from tailrace.transports.authorization.introspection import Introspection
from tailrace.transports.authorization.jwts import JwtVerifier
from tailrace.transports.authorization.resource import ResourceServer

__all__ = ["Introspection", "JwtVerifier", "ResourceServer", "guarded_by"]


def guarded_by(issuer: str, audience: str, scopes: Sequence[str] = ()) -> ResourceServer:
    """What the flags ``--auth-issuer``, ``--auth-audience`` and ``--auth-scope`` mean: JWTs of one issuer.

    Raises:
        DefinitionError: An option cannot work, or the extra ``auth`` is not installed.
    """
    resource = audience if "://" in audience else None
    return ResourceServer(JwtVerifier(issuer, audience), resource=resource, scopes=scopes)
