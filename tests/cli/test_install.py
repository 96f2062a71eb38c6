"""`tailrace install`: an entry in an application's file, and nothing else in there changes."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tailrace.cli.install import config_file
from tailrace.mcp import ClientGroup

HOME, USER = PurePosixPath("/home/me"), PureWindowsPath("C:/Users/me")
Install = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home


@pytest.fixture
def install(folder: Path, home: Path) -> Install:
    (folder / "shop.py").write_text(
        'import os\nfrom tailrace import Service\nsvc = Service("shop")\n'
        '@svc.tool\ndef greet(name: str) -> str:\n    return os.environ["HELLO"] + " " + name\n'
    )

    def invoke(client: str, *words: str, target: str = "shop.py") -> Result:
        return CliRunner().invoke(main, ["install", client, target, *words])

    return invoke


def entry_of(path: Path, key: str = "mcpServers", name: str = "shop") -> Any:
    return json.loads(path.read_text())[key][name]


@pytest.mark.parametrize(
    ("client", "platform", "path"),
    [
        ("claude", "darwin", HOME / "Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude", "linux", HOME / ".config/Claude/claude_desktop_config.json"),
        ("claude", "win32", PureWindowsPath("D:/Roaming/Claude/claude_desktop_config.json")),
        ("cursor", "darwin", HOME / ".cursor/mcp.json"),
        ("cursor", "linux", HOME / ".cursor/mcp.json"),
        ("cursor", "win32", USER / ".cursor/mcp.json"),
        ("vscode", "darwin", HOME / "Library/Application Support/Code/User/mcp.json"),
        ("vscode", "linux", HOME / ".config/Code/User/mcp.json"),
        ("vscode", "win32", PureWindowsPath("D:/Roaming/Code/User/mcp.json")),
    ],
)
def test_the_file_is_where_the_application_looks(client: str, platform: str, path: object) -> None:
    home = USER if platform == "win32" else HOME
    environ = {"APPDATA": "D:/Roaming"} if platform == "win32" else {}
    assert config_file(client, platform=platform, home=home, environ=environ) == path


def test_the_folder_for_settings_may_be_elsewhere_or_unsaid() -> None:
    path = config_file("vscode", platform="linux", home=HOME, environ={"XDG_CONFIG_HOME": "/etc/me"})
    assert path == PurePosixPath("/etc/me/Code/User/mcp.json")
    path = config_file("vscode", platform="win32", home=USER, environ={})
    assert path == USER / "AppData/Roaming/Code/User/mcp.json"


@pytest.mark.parametrize(
    ("client", "path", "key"),
    [
        ("claude", ".config/Claude/claude_desktop_config.json", "mcpServers"),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
        ("vscode", ".config/Code/User/mcp.json", "servers"),
    ],
)
def test_a_new_file_has_the_entry_and_is_its_users_alone(
    install: Install, folder: Path, home: Path, client: str, path: str, key: str
) -> None:
    done = install(client)
    assert done.exit_code == 0, done.output
    entry = entry_of(home / path, key)
    assert entry.pop("type", None) == ("stdio" if client == "vscode" else None)
    target = f"{(folder / 'shop.py').resolve()}:svc"
    assert entry == {"command": sys.executable, "args": ["-m", "tailrace", "run", target, "--stdio"]}
    assert Path(entry["command"]).is_absolute()
    assert stat.S_IMODE((home / path).stat().st_mode) == 0o600
    assert not list((home / path).parent.glob("*.bak"))


def test_what_else_is_in_the_file_stays_and_the_file_as_it_was_is_kept(install: Install, home: Path) -> None:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir()
    before = '{"theme": "dark", "mcpServers": {"other": {"command": "x"}, "shop": {"command": "old"}}}'
    path.write_text(before)
    path.chmod(0o640)
    done = install("cursor", "--env", "A=1", "--env", "B=x=y")
    assert done.exit_code == 0, done.output
    assert "replaced 'shop'" in done.stderr
    config = json.loads(path.read_text())
    assert config["theme"] == "dark"
    assert config["mcpServers"]["other"] == {"command": "x"}
    assert list(config["mcpServers"]) == ["other", "shop"]
    assert config["mcpServers"]["shop"]["env"] == {"A": "1", "B": "x=y"}
    backup = path.with_name("mcp.json.bak")
    assert backup.read_text() == before
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(backup.stat().st_mode) == 0o640


def test_what_is_as_it_should_be_is_not_written_again(install: Install, home: Path) -> None:
    install("cursor")
    done = install("cursor")
    assert "as it should be" in done.stderr
    assert not (home / ".cursor/mcp.json.bak").exists()


def test_it_has_the_name_that_was_given(install: Install, home: Path) -> None:
    install("cursor", "--name", "mine")
    assert entry_of(home / ".cursor/mcp.json", name="mine")


@pytest.mark.parametrize(
    "text", ['{"mcpServers": {}, // mine\n}', "[1]", '{"mcpServers": []}', "{", b"\xff\xfe{}", "[" * 100_000]
)
def test_a_file_that_is_not_understood_is_left_alone(install: Install, home: Path, text: str | bytes) -> None:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir()
    before = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(before)
    done = install("cursor")
    assert done.exit_code == 1
    assert "is left as it is" in done.output
    assert "--print" in done.output
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_and_a_byte_order_mark_are_understood(install: Install, home: Path) -> None:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir()
    for before in (b"", b"\xef\xbb\xbf{}"):
        path.write_bytes(before)
        assert install("cursor").exit_code == 0
        assert entry_of(path)


def test_a_link_to_a_file_stays_a_link(install: Install, home: Path) -> None:
    (home / "dotfiles").mkdir()
    (home / ".cursor").mkdir()
    (home / "dotfiles/mcp.json").write_text("{}")
    (home / ".cursor/mcp.json").symlink_to(home / "dotfiles/mcp.json")
    assert install("cursor").exit_code == 0
    assert (home / ".cursor/mcp.json").is_symlink()
    assert entry_of(home / "dotfiles/mcp.json")


def test_print_shows_the_entry_and_changes_nothing(install: Install, home: Path) -> None:
    done = install("vscode", "--print", "--env", "A=1")
    assert done.exit_code == 0
    shown = json.loads(done.stdout)["servers"]["shop"]
    assert shown["type"] == "stdio"
    assert shown["env"] == {"A": "1"}
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("word", ["A", "=1", "1A=2", "A B=2"])
def test_a_variable_has_a_name_and_a_value(install: Install, word: str) -> None:
    assert install("cursor", "--env", word).exit_code == 2


def test_a_target_that_cannot_be_served_is_not_installed(install: Install, home: Path) -> None:
    assert install("cursor", target="shap.py").exit_code == 2
    assert list(home.iterdir()) == []


@pytest.mark.timeout(120)
def test_what_is_installed_starts_and_answers(install: Install, folder: Path, home: Path) -> None:
    path = folder / "project.json"
    done = install("cursor", "--file", str(path), "--env", "HELLO=Hello,")
    assert done.exit_code == 0, done.output
    assert list(home.iterdir()) == []
    group = ClientGroup(path, connect_timeout=60)

    async def ask() -> object:
        async with group:
            (tool,) = await group.list_tools()
            return (await group.call_tool(tool.name, {"name": "Ann"})).data

    assert asyncio.run(ask()) == "Hello, Ann"
