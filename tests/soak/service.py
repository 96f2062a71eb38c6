"""The service under proof: its tools and hooks write down what they do, a line each, in the file of this process life.

A line is one `write` to a file opened with O_APPEND: what was written survives `kill -9`. Environment:
`TAILRACE_SOAK_LIFE` is the file; ``{pid}`` in it is the number of the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from tailrace import Context, Service, Session

LIFE = os.environ["TAILRACE_SOAK_LIFE"].replace("{pid}", str(os.getpid()))
SPARE = Counter({"/dev/null": 1, "/": 1})  # libuv holds one in reserve from the first `listen` to the loop's end
# Seconds that threads get to come to rest before they count as left behind. A member of several uses all of them, and a
# lifespan has 5 to end, on a busy machine as well.
SETTLING = 2.0
JOINING = 60.0  # seconds within which a member of several knows who it is
svc = Service("soak", version="1.0.0")


def note(*fields: object) -> None:
    """Append one line."""
    file = os.open(LIFE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(fields).encode() + b"\n")
    finally:
        os.close(file)


def descriptors() -> Counter[str]:
    """What is open, and how often; nothing where the system does not tell."""
    found = Counter[str]()
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in numbers:
        try:
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
        except OSError:
            continue  # the one that listed the folder
    return found


@svc.lifespan
async def life(_: Service) -> AsyncIterator[None]:
    """Note at the end what was not there at the beginning. The sessions have ended then, and nobody is served."""
    tasks, threads, files = asyncio.all_tasks(), set(threading.enumerate()), descriptors()
    note("begin", os.getpid())
    joining = asyncio.ensure_future(tell_member())
    try:
        yield
    finally:
        joining.cancel()
        await asyncio.wait([joining])
        is_member = not joining.cancelled() and joining.result()
        own = asyncio.current_task()
        limit = time.monotonic() + SETTLING
        while True:
            left = {
                "tasks": sorted(task.get_name() for task in asyncio.all_tasks() - tasks if task is not own),
                "threads": sorted(thread.name for thread in threading.enumerate() if thread not in threads),
                "descriptors": [
                    name
                    for name in sorted((descriptors() - files - SPARE).elements())
                    if not (is_member and name.startswith("socket:"))  # by which it still sees the others
                ],
            }
            if not any(left.values()) or time.monotonic() > limit:
                break
            await asyncio.sleep(0.01)
        note("finish", left)


async def tell_member() -> bool:
    """Note the name that this process has among several, as soon as there is a server that knows it; False where there
    are no others."""
    until = time.monotonic() + JOINING
    while "cluster" not in (numbers := svc.statistics()) and time.monotonic() < until:
        await asyncio.sleep(0.05)
    if "cluster" in numbers:
        note("member", numbers["cluster"]["member"])
    return "cluster" in numbers


@svc.on_register_session
async def registered(session: Session) -> None:
    note("register", session.id)


@svc.on_restore_session
async def restored(session: Session) -> None:
    note("restore", session.id)


@svc.on_unregister_session
def unregistered(session: Session) -> None:
    note("unregister", session.id)


@svc.tool
async def work(ctx: Context, key: str, ms: float = 0.0) -> str:
    """Take a while, with a notification before and after."""
    note("start", key)
    try:
        if ms:
            await ctx.progress(0, 1)
            await asyncio.sleep(ms / 1000)
    except asyncio.CancelledError:
        note("cancelled", key)
        raise
    note("end", key)
    return f"done {key}"


@svc.tool
def work_in_thread(key: str, ms: float = 0.0) -> str:
    """The same in a thread."""
    note("start", key)
    time.sleep(ms / 1000)
    note("end", key)
    return f"done {key}"


@svc.tool(read_only=True)
async def look(key: str, ms: float = 0.0) -> str:
    """Only reads, so it may run again after a crash, once."""
    note("start", key)
    await asyncio.sleep(ms / 1000)
    note("end", key)
    return f"done {key}"


@svc.tool
async def burst(ctx: Context, key: str, count: int = 90, size: int = 64, every: float = 0.0) -> int:
    """Send numbered log notifications."""
    note("start", key)
    for number in range(count):
        await ctx.log("info", {"of": key, "n": number, "pad": "x" * size})
        if every:
            await asyncio.sleep(every)
    note("end", key)
    return count


@svc.tool(once="key")
async def pay(key: str, ms: float = 0.0) -> str:
    """Runs once a key."""
    return await task(key, ms)


@svc.tool(task="required")
async def bake(key: str, ms: float = 0.0) -> str:
    """A task."""
    return await task(key, ms)


@svc.tool(task="required", once="key")
async def bake_once(key: str, ms: float = 0.0) -> str:
    """A task that is the same for a key."""
    return await task(key, ms)


async def task(key: str, ms: float) -> str:
    """What these have to do."""
    note("start", key)
    await asyncio.sleep(ms / 1000)
    note("end", key)
    return f"done {key}"


@svc.tool
async def order(ctx: Context, key: str, ms: float = 0.0) -> str:
    """Publish something, and leave something to be done afterwards."""
    note("start", key)
    await ctx.publish("soak", key, key=key)
    ctx.spawn(mail, key, ms)
    await asyncio.sleep(ms / 1000)
    note("end", key)
    return f"done {key}"


async def mail(key: str, ms: float) -> None:
    """Detached work: it ends, unless its process is killed."""
    note("spawned", key)
    await asyncio.sleep(ms / 1000)
    note("mailed", key)


@svc.tool(read_only=True)
def numbers() -> dict[str, Any]:
    """This process and what goes on in it."""
    return {"pid": os.getpid(), "statistics": svc.statistics()}


@svc.tool
async def leave(ctx: Context) -> str:
    """The service ends the session."""
    assert ctx.session is not None
    ctx.session.close("the service has had enough")
    return "left"
