"""A server process on a real Valkey: killed and started again, Valkey killed under it. Several: `test_workers`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plans import CALLS
from tests.e2e.test_restart import check_unknown, kill
from tests.e2e.witness import Witness
from tests.rigs.ports import free_port
from tests.rigs.rawmcp import HttpSse, call, text_of
from tests.rigs.server import running_async, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey(appendonly="yes", appendfsync="always") as server:
        yield server


def start(valkey: Valkey, tmp_path: Path, witness: Witness, port: int = 0, log: str = "log") -> Any:
    command = tailrace_command(CALLS, port=port, store=valkey.url)
    return running_async(command, tmp_path / log, env=witness.env)


async def test_a_session_survives_kill_9_of_its_server(witness: Witness, valkey: Valkey, tmp_path: Path) -> None:
    port = free_port()
    async with start(valkey, tmp_path, witness, port) as server:
        assert f" store={valkey.url} " in server.ready_line  # as it was given, to be given again
        client = await HttpSse(server.url).open()
        last = client.last_event_id
        for key in ("done", "running"):
            assert await client.post(call(key, "gate", {"key": key})) == 202
        await witness.sees("start done", "start running")
        witness.open("done")
        assert text_of(await client.answer("done")) == "done"
        await kill(server)
        killed = time.monotonic()
    client.close()
    async with start(valkey, tmp_path, witness, port) as server:
        print(f"ready {time.monotonic() - killed:.1f} s after the kill; the lease is 5 s")
        reply = await client.resume(last)
        assert reply.head.get("tailrace-resume") == "complete", f"{reply.head.headers}"
        assert text_of(await client.answer("done")) == "done"
        check_unknown(await client.answer("running"))
        assert await client.post(call("new", "add", {"terms": [1, 2]})) == 202  # no new handshake
        assert (await client.answer("new"))["result"]["structuredContent"]["total"] == 3
        client.close()
        assert server.records() == [], server.stderr_tail()
    assert witness.count("start running") == 1, "an interrupted call was run again"


async def test_no_call_is_lost_or_doubled_when_valkey_is_killed(
    witness: Witness, valkey: Valkey, tmp_path: Path
) -> None:
    async with start(valkey, tmp_path, witness) as server:
        client = await HttpSse(server.url).open()
        keys = [f"k{number}" for number in range(60)]
        for number, key in enumerate(keys):
            witness.open(key)
            if number in (15, 30, 45):
                valkey.kill()
                post = asyncio.ensure_future(client.post(call(key, "gate", {"key": key})))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(valkey.start)
                assert await post == 202
            else:
                assert await client.post(call(key, "gate", {"key": key})) == 202
        assert [text_of(await client.answer(key)) for key in keys] == keys
        client.close()
        assert server.records() == [], server.stderr_tail()
    runs = [witness.count(f"start {key}") for key in keys]
    print(f"calls {len(keys)}, kills of Valkey 3, lost {runs.count(0)}, doubled {sum(run > 1 for run in runs)}")
    assert runs == [1] * len(keys)
