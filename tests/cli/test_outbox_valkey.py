"""`tailrace outbox` over Valkey: read without an owner, changed by the owner, or in its place where there is none."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tailrace.core.context import Context
from tailrace.core.ports import PutEntry
from tailrace.publish.encoding import make_message
from tailrace.publish.outbox import DEAD, NEVER, WAITING, DeadLetter, encode, place_of
from tailrace.stores.valkey_membership import ValkeyMembership
from tests.rigs.server import running, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SERVICE = 'from tailrace import Service\nsvc = Service("shop")\n'


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """With a partition that nobody owns: messages 1 to 4 were refused, 5 and 6 wait."""
    with Valkey() as server:
        asyncio.run(fill(server.url))
        yield server


async def fill(url: str) -> None:
    membership = ValkeyMembership(url, service="shop", lease=60.0)
    await membership.join()
    store = await membership.take(new=True)
    epoch = await store.next_epoch()
    for number in range(1, 7):
        message = make_message(Context.background(), "orders", {"n": number}, None)
        dead = number <= 4
        data = encode(DeadLetter(message, 10, "too large")) if dead else encode(message)
        store.write([PutEntry(DEAD if dead else WAITING, place_of(epoch, number), data, NEVER)])
    await store.flush()
    await store.close()
    await membership.leave()


def outbox(valkey: Valkey, *words: str, service: str = "shop") -> Result:
    command, *rest = words
    return CliRunner().invoke(main, ["outbox", command, "--store", valkey.url, "--service", service, *rest])


def listed(valkey: Valkey, *flags: str) -> dict[int, tuple[str, bool]]:
    """By number: the id of a message, and whether it was refused."""
    lines = [json.loads(line) for line in outbox(valkey, "ls", "--json", *flags).stdout.splitlines()]
    return {json.loads(line["value"])["n"]: (line["message_id"], line["dead"]) for line in lines}


def test_where_no_server_runs_messages_are_read_and_changed(valkey: Valkey) -> None:
    found = listed(valkey)
    assert [number for number, (_, dead) in found.items() if dead] == [1, 2, 3, 4]
    assert json.loads(outbox(valkey, "show", found[2][0]).output)["error"] == "too large"
    assert outbox(valkey, "show", "nobody").exit_code == 1
    assert outbox(valkey, "retry", found[1][0]).output == "put back: 1\n"
    assert outbox(valkey, "drop", found[5][0], found[2][0]).output == "dropped: 2\n"
    assert {number: dead for number, (_, dead) in listed(valkey).items()} == {3: True, 4: True, 6: False, 1: False}
    missing = outbox(valkey, "retry", found[2][0])
    assert (missing.exit_code, "1 of the messages are not there" in missing.output) == (1, True)


def test_whose_messages_they_are_has_to_be_said(valkey: Valkey) -> None:
    unsaid = CliRunner().invoke(main, ["outbox", "ls", "--store", valkey.url])
    assert (unsaid.exit_code, "--service NAME" in unsaid.output) == (2, True)
    unknown = outbox(valkey, "ls", service="shoe")
    assert (unknown.exit_code, "nothing is stored of a service 'shoe'" in unknown.output) == (1, True)


def test_a_server_that_runs_is_asked_and_delivers_what_is_put_back(valkey: Valkey, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SERVICE)
    found = listed(valkey)
    command = tailrace_command(tmp_path / "shop.py", store=valkey.url)
    with running(command, tmp_path / "silent") as server:  # it owns the messages, and publishes nothing
        refused = outbox(valkey, "drop", found[5][0])
        assert (refused.exit_code, "only messages that were refused can be dropped" in refused.output) == (1, True)
        assert outbox(valkey, "retry", found[1][0]).output == "put back: 1\n"
        assert listed(valkey)[1] == (found[1][0], False)
        assert server.stop() == 0
    watched = [*command, "--publish", "log:", "--admin", "127.0.0.1:0", "--admin-token", "admin"]
    with running(watched, tmp_path / "log") as server:
        until_gone(valkey, {1, 5, 6})
        assert dead(server.stderr()) == 3
        assert outbox(valkey, "retry", found[2][0]).output == "put back: 1\n"
        until_gone(valkey, {2})
        limit = time.monotonic() + 60
        while found[2][0] not in server.stderr():  # it is delivered; a thread copies what was said of it
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert listed(valkey).keys() == {3, 4}
        assert dead(server.stderr()) == 2
        assert outbox(valkey, "drop", "--all").output == "dropped: 2\n"
        assert outbox(valkey, "ls").output == "nothing waits\n"
        assert dead(server.stderr()) == 0
        assert server.stop() == 0


def dead(said: str) -> float:
    """What a server's metrics say of refused messages; `said`: its ready line."""
    admin = re.search(r" admin=(http://127\.0\.0\.1:\d+)", said)
    assert admin is not None, said
    asked = urllib.request.Request(f"{admin[1]}/metrics", headers={"Authorization": "Bearer admin"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        text = answer.read().decode()
    gauge = re.search(r"^tailrace_outbox_dead ([\d.]+)$", text, re.MULTILINE)
    assert gauge is not None, text
    return float(gauge[1])


def until_gone(valkey: Valkey, numbers: set[int]) -> None:
    limit = time.monotonic() + 60
    while numbers & listed(valkey).keys():
        assert time.monotonic() < limit, "they were not delivered"
        time.sleep(0.05)
