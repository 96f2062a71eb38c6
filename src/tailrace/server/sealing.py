"""The secrets that event ids are sealed with, where the environment gives them.

Without them the store makes one and keeps it. `TAILRACE_SECRET` is for those who want to rotate: the new secret first,
then the one before, until the ids that it has sealed are no longer of use.
"""

from __future__ import annotations

import hashlib
import os

from tailrace.errors import DefinitionError

__all__ = ["VARIABLE", "secrets_of_environment"]

VARIABLE = "TAILRACE_SECRET"

_SHORTEST = 16  # characters


def secrets_of_environment() -> list[bytes]:
    """What `TAILRACE_SECRET` gives: one or two secrets, the newest first; nothing where it is not set.

    Raises:
        DefinitionError: There are more, or one is too short to be one.
    """
    given = os.environ.get(VARIABLE, "").split()
    if len(given) > 2 or any(len(secret) < _SHORTEST for secret in given):
        raise DefinitionError(
            f"TAILRACE_SECRET is one secret, or the new and the old one; each has {_SHORTEST} characters"
        )
    return [hashlib.sha256(secret.encode()).digest() for secret in given]
