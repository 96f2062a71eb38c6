"""A real authorization server (`oidc-provider`) guards a real server: the whole flow of our client, and bad tokens."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urljoin, urlsplit

import pyqwest
import pytest

from tailrace.auth import FileTokens, InvalidToken, JwtVerifier, OAuth
from tailrace.errors import TransportError
from tailrace.fetch import Fetch
from tailrace.mcp import Client
from tests.rigs.npm import NODE, npm_problem
from tests.rigs.ports import free_port
from tests.rigs.server import running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FOLDER = Path(__file__).parent / "node"
ORDERS = Path(__file__).parent / "orders.py"
REDIRECT = "http://127.0.0.1:8912/callback"


@dataclass
class Issuers:
    url: str
    other: str
    resource: str

    async def token(self, client: str, *, scope: str, resource: str | None = None, issuer: str | None = None) -> str:
        """A token for a program, as the authorization server makes it."""
        fetch = Fetch(loopback=True)
        secret = base64.b64encode(f"{client}:{client}-secret".encode()).decode()
        form = {"grant_type": "client_credentials", "scope": scope, "resource": resource or self.resource}
        found = await fetch.post_form((issuer or self.url) + "/token", form, {"authorization": f"Basic {secret}"})
        await fetch.aclose()
        assert found.status == 200, found.body
        return found.decode(dict[str, Any])["access_token"]


@pytest.fixture
def issuers(needs: Callable[[str, str], NoReturn], tmp_path: Path) -> Iterator[Issuers]:
    problem = npm_problem(FOLDER)
    if problem:
        needs("npm", problem)
    port, other, resource = free_port(), free_port(), free_port()
    made = Issuers(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}", f"http://127.0.0.1:{resource}/mcp")
    command = [str(NODE), str(FOLDER / "issuer.mjs"), str(port), str(other), made.resource]
    log = tmp_path / "issuer.log"
    with log.open("wb") as file:
        # In a group of its own: the `node` of the environment may be a script that starts the real one.
        process = subprocess.Popen(command, stderr=file, stdout=file, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while "ready\n" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, f"not ready: {log.read_text()}"
            time.sleep(0.05)
        yield made
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture
def orders(issuers: Issuers, tmp_path: Path) -> Iterator[Issuers]:
    """The service, guarded by flags."""
    port = int(issuers.resource.split(":")[2].split("/")[0])
    flags = ["--auth-issuer", issuers.url, "--auth-audience", issuers.resource, "--auth-scope", "orders:read"]
    with running(tailrace_command(ORDERS, *flags, port=port), tmp_path / "log") as server:
        yield issuers
        assert server.records() == [], server.stderr_tail()


class Browser:
    """The user's: follows redirects with cookies, and stops where the program listens."""

    def __init__(self) -> None:
        self.visits: list[str] = []

    async def __call__(self, url: str) -> str:
        transport = pyqwest.HTTPTransport(follow_redirects=False, enable_cookie_store=True)
        client = pyqwest.Client(transport)
        self.visits.append(url)
        for _ in range(12):
            async with client.stream("GET", url) as response:
                assert response.status in (302, 303), (url, response.status)
                url = urljoin(url, response.headers["location"])
            if url.startswith(REDIRECT):
                return url
        raise AssertionError(f"too many redirects: {url}")

    def scopes(self, visit: int) -> set[str]:
        return set(parse_qs(urlsplit(self.visits[visit]).query)["scope"][0].split())

    def oauth(self, **options: Any) -> OAuth:
        async def ask(url: str) -> str:
            return await self(url)

        return OAuth(redirect=ask, redirect_uri=REDIRECT, **options)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_the_whole_flow_and_a_step_up(orders: Issuers, era: Any, tmp_path: Path) -> None:
    browser = Browser()
    tokens = FileTokens(tmp_path / "tokens.json")
    async with Client(orders.resource, auth=browser.oauth(tokens=tokens), era=era) as c:
        assert (await c.call_tool("look")).data == "ann"
        assert len(browser.visits) == 1
        assert browser.scopes(0) == {"orders:read", "offline_access"}
        assert (await c.call_tool("place")).data.startswith("ann by ")
        assert browser.scopes(1) == {"orders:read", "orders:write", "offline_access"}
    async with Client(orders.resource, auth=browser.oauth(tokens=tokens), era=era) as c:
        assert (await c.call_tool("place")).data.startswith("ann by ")
    assert len(browser.visits) == 2, "the next run has the token of the last"


async def test_a_program_without_a_user(orders: Issuers) -> None:
    oauth = OAuth(grant="client_credentials", client_id="machine", client_secret="machine-secret")
    async with Client(orders.resource, auth=oauth) as c:
        assert (await c.call_tool("place")).data == "machine by machine"


async def asked(resource: str, token: str | None) -> tuple[int, str]:
    """What a call gets with this token: status and challenge."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "place", "arguments": {}, "_meta": meta},
    }
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "place",
    }
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    async with pyqwest.Client().stream("POST", resource, headers, json.dumps(call).encode()) as response:
        async for _ in response.content:
            pass
        return response.status, response.headers.get("www-authenticate") or ""


async def test_every_bad_token_gets_its_status_and_says_why(orders: Issuers) -> None:
    where = f'resource_metadata="{orders.resource.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")}"'
    read = 'scope="orders:read", '
    assert await asked(orders.resource, None) == (401, f"Bearer {read}{where}")

    def invalid(text: str) -> tuple[int, str]:
        return 401, f'Bearer error="invalid_token", error_description="{text}", {read}{where}'

    both = "orders:read orders:write"
    wrong_audience = await orders.token("machine", scope=both, resource="http://127.0.0.1:1/other")
    assert await asked(orders.resource, wrong_audience) == invalid("the token is for another server")
    wrong_issuer = await orders.token("machine", scope=both, issuer=orders.other)
    assert await asked(orders.resource, wrong_issuer) == invalid("the token is from another issuer")
    assert await asked(orders.resource, "nonsense") == invalid("the token is no JWT that can be read")
    good = await orders.token("machine", scope=both)
    forged = good.rpartition(".")[0] + "." + (await orders.token("machine", scope=both)).rpartition(".")[2]
    assert await asked(orders.resource, forged) == invalid("the token's signature is wrong")

    narrow = await orders.token("machine", scope="orders:write")
    status, challenge = await asked(orders.resource, narrow)
    assert (status, 'error="insufficient_scope"' in challenge, read in challenge) == (403, True, True)
    no_write = await orders.token("machine", scope="orders:read")
    expected = f'Bearer error="insufficient_scope", scope="orders:read orders:write", {where}'
    assert await asked(orders.resource, no_write) == (403, expected)
    assert await asked(orders.resource, good) == (200, "")


@pytest.fixture
async def introspecting(issuers: Issuers, tmp_path: Path) -> AsyncIterator[str]:
    """The service, guarded by introspection, and with no patience with expired tokens."""
    file = tmp_path / "guarded.py"
    file.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.authorization.orders import svc\n"
        "from tailrace.auth import Introspection, ResourceServer\n"
        f"auth = ResourceServer(Introspection({issuers.url + '/token/introspection'!r}, 'resource-server',\n"
        f"    'resource-server-secret', issuer={issuers.url!r},\n"
        f"    audience={issuers.resource + '/opaque'!r}, remember=0))\n"
        "svc.run('http', port=0, auth=auth, log_level='warning', target='guarded')\n"
    )
    with running([sys.executable, str(file)], tmp_path / "log2") as server:
        yield server.url + "/mcp"
        assert server.records() == [], server.stderr_tail()


async def test_tokens_that_only_the_issuer_can_read(issuers: Issuers, introspecting: str) -> None:
    both, opaque = "orders:read orders:write", issuers.resource + "/opaque"
    good = await issuers.token("machine", scope=both, resource=opaque)
    assert good.count(".") != 2
    assert await asked(introspecting, good) == (200, "")
    other = await issuers.token("machine", scope=both, resource="http://127.0.0.1:1/opaque")
    status, challenge = await asked(introspecting, other)
    assert (status, "the token is for another server" in challenge) == (401, True)
    short = await issuers.token("short", scope=both, resource=opaque)
    async with asyncio.timeout(60):
        while (await asked(introspecting, short))[0] == 200:
            await asyncio.sleep(0.2)
    status, challenge = await asked(introspecting, short)
    assert (status, 'error="invalid_token"' in challenge) == (401, True)


async def verdict(judge: JwtVerifier, token: str) -> str:
    try:
        await judge(token)
    except InvalidToken as error:
        return str(error)
    return "valid"


async def test_an_expired_jwt_is_refused(issuers: Issuers) -> None:
    judge = JwtVerifier(issuers.url, issuers.resource, leeway=0, remember=0)
    short = await issuers.token("short", scope="orders:read")
    async with asyncio.timeout(60):
        while await verdict(judge, short) == "valid":
            await asyncio.sleep(0.2)
    assert await verdict(judge, short) == "the token has expired"
    await judge.aclose()


async def test_without_a_user_who_consents_there_is_no_token(orders: Issuers) -> None:
    async def refuses(url: str) -> str:
        state = url.split("state=")[1].split("&")[0]
        return f"{REDIRECT}?error=access_denied&state={state}&iss={orders.url}"

    with pytest.raises(TransportError, match="access_denied"):
        async with Client(orders.resource, auth=OAuth(redirect=refuses, redirect_uri=REDIRECT)):
            pass
