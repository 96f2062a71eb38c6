"""The journal that `fixtures/calls.py` writes, as tests read it: what a call really did, whatever its client saw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.rigs.rawmcp import eventually


class Witness:
    """One folder with a journal and gates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def env(self) -> dict[str, str]:
        """What the service must find in its environment."""
        return {"TAILRACE_E2E_FOLDER": str(self.folder)}

    def lines(self) -> list[str]:
        """The journal, line by line."""
        journal = self.folder / "journal"
        return journal.read_text().splitlines() if journal.exists() else []

    def count(self, line: str) -> int:
        return self.lines().count(line)

    def open(self, key: str) -> None:
        """Open one gate, or `all`."""
        (self.folder / f"open-{key}").touch()

    async def sees(self, *wanted: str) -> None:
        """Wait until all these lines are there."""
        try:
            await eventually(lambda: set(wanted) <= set(self.lines()), "")
        except AssertionError:
            missing = [line for line in wanted if line not in self.lines()]
            raise AssertionError(f"the journal never said {missing}; it says {self.lines()[-30:]}") from None

    def check_hooks_paired(self) -> None:
        """Every session was begun once a process life (registered or restored) and unregistered once for each."""
        begun, ended = Counter[str](), Counter[str]()
        for line in self.lines():
            kind, _, who = line.partition(" ")
            if kind in ("register", "restore"):
                assert begun[who] == ended[who], f"{line!r} while the session was live; journal {self._hooks()}"
                begun[who] += 1
            elif kind == "unregister":
                ended[who] += 1
                assert ended[who] == begun[who], f"{line!r} without a session to end; journal {self._hooks()}"
        assert begun, f"no hook ran at all; the journal says {self.lines()[-10:]}"
        assert begun == ended, f"hooks not paired: begun {dict(begun)}, ended {dict(ended)}"

    def _hooks(self) -> list[str]:
        return [line for line in self.lines() if line.split(" ")[0] in ("register", "restore", "unregister")]
