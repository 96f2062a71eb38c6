"""The certificate that a server shows, and its key."""

from __future__ import annotations

import ssl

from tailrace.errors import DefinitionError

__all__ = ["tls_context"]


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file in (cert, key):
        try:
            open(file, "rb").close()  # what ssl raises does not say which of them it is
        except OSError as error:
            raise DefinitionError(f"cannot read {file}: {error.strerror}") from None
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise DefinitionError(f"the certificate {cert} and the key {key} cannot be used: {error}") from None
    return context


def _no_password() -> str:
    """Instead of the question on the terminal, which nobody may be there to answer."""
    raise DefinitionError("the TLS key is encrypted, and a server cannot be asked for its passphrase; decrypt it first")
