"""Where a service's store is unless it is told: one SQLite file in the user's state folder for each service."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from tailrace.errors import DefinitionError

if TYPE_CHECKING:
    from tailrace.service import Service

__all__ = ["default_store", "is_shared", "store_of_program"]


def default_store(file: Path, name: str) -> Path:
    """The store of the service that is called `name` in `file` (resolved)."""
    digest = hashlib.sha256(f"{file}:{name}".encode()).hexdigest()[:8]
    return platformdirs.user_state_path("tailrace") / f"{file.stem}-{digest}.sqlite"


def is_shared(store: str) -> bool:
    """Can processes share the store that is called so?"""
    return not store.startswith(("memory", "sqlite"))


def store_of_program(service: Service) -> str:
    """``sqlite:PATH`` for a service that its own program runs: the file that `tailrace run` would take.

    Raises:
        DefinitionError: The program is no file.
    """
    main = sys.modules.get("__main__")
    file: str | None = getattr(main, "__file__", None)
    if main is None or file is None:
        raise DefinitionError("there is no program whose store this could be: give sqlite:PATH")
    names: dict[str, Any] = vars(main)
    name = next((name for name, value in names.items() if value is service), service.name)
    path = default_store(Path(file).resolve(), name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"sqlite:{path}"
