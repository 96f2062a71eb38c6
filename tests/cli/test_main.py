"""The command line as a whole: quick to start, and plain about its use."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

import tailrace
from tailrace.cli import main


def test_version_is_printed() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"tailrace {tailrace.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["ls", "--help"], ["call", "--help"]])
def test_help_is_there(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_an_unknown_command_is_wrong_use() -> None:
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert "No such command 'serve'" in result.stderr


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "tailrace", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"tailrace {tailrace.__version__}\n")


def test_help_imports_neither_server_nor_client_nor_rich() -> None:
    code = (
        "import sys; from tailrace.cli import main; main(['run', '--help'], standalone_mode=False);"
        "unwanted = {'asyncio', 'msgspec', 'rich', 'uvicorn', 'tailrace.server'};"
        "print('imported:', *sorted(unwanted & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: " in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"
