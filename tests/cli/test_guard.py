"""`tailrace guard` reads what it stands before, and refuses what is no server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tailrace import Service
from tailrace.cli import main
from tailrace.cli.child import main as serve_object


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, dict[str, Any]]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_state_path", lambda name: tmp_path / "state" / name)
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)
    came: dict[str, Any] = {}
    monkeypatch.setattr("tailrace.server.run", lambda service, **flags: came.update(flags, service=service))

    def invoke(*words: str) -> tuple[Result, dict[str, Any]]:
        came.clear()
        return CliRunner().invoke(main, ["guard", *words]), came

    return invoke


def test_it_serves_with_the_flags_of_run_and_a_store_for_each_server_behind(run: Any) -> None:
    result, flags = run("http://127.0.0.1:9/mcp", "--port", "8100", "--drain", "3")
    assert result.exit_code == 0, result.output
    assert (flags["service"].name, flags["port"], flags["drain"], flags["transport"]) == (
        "127.0.0.1",
        8100,
        3.0,
        "http",
    )
    assert "reload" not in flags  # there is no code of ours to start again
    stores = {flags["store"]}
    for words in (["http://127.0.0.1:9/other"], ["--", "server", "--port", "1"], ["file.py:server"]):
        stores.add(run(*words)[1]["store"])
    assert len(stores) == 4
    assert all(store.startswith("sqlite:") for store in stores)


def test_what_stands_behind_the_dashes_is_the_program_whole(run: Any) -> None:
    result, flags = run("--store", "memory", "--", "my-server", "--port", "1")
    assert result.exit_code == 0, result.output
    assert (flags["service"].name, flags["target"], flags["port"]) == ("my-server", "my-server --port 1", 8000)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of a URL"),
        (["http://127.0.0.1:9", "--", "my-server"], "one of a URL"),
        (["server.py"], "no URL and no object"),
        (["my-server"], "no URL and no object"),
        (["a.py:b", "--upstream-token", "t"], "--upstream-token is for a URL"),
        (["http://127.0.0.1:9", "--tls-cert", __file__], "--tls-cert and --tls-key belong together"),
    ],
)
def test_what_cannot_be_is_refused_as_wrong_use(run: Any, words: list[str], said: str) -> None:
    result, _ = run(*words)
    assert result.exit_code == 2
    assert said in result.output


def test_an_object_serves_by_its_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "guarded_objects.py"
    file.write_text("ran = []\nclass Server:\n    def run(self):\n        ran.append(1)\nserver = Server()\nnone = 1\n")
    serve_object(f"{file}:server")
    assert sys.modules["guarded_objects"].ran == [1]
    for wrong, said in (
        (f"{file}:none", "no run"),
        (f"{file}:nothing", "there is no 'nothing'"),
        (str(file), "say which"),
    ):
        with pytest.raises(click.UsageError, match=said):
            serve_object(wrong)


def test_the_server_behind_has_time_to_start(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("tailrace.mcp.proxy", lambda *_, **options: given.append(options) or Service("behind"))
    for words in ([], ["--connect-timeout", "7"]):
        result, _ = run(*words, "--", "my-server")
        assert result.exit_code == 0, result.output
    assert [options["connect_timeout"] for options in given] == [30.0, 7.0]
