"""Makes the trials, one after the other, each within its time, on a server that answers before each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol, cast

from tailrace.cli.check.lab import Lab, Witness, unique
from tailrace.cli.check.model import Failed, Json, NotApplicable, Options, Result, Trial, Verdict, Way
from tailrace.cli.check.talk import shorten
from tailrace.cli.check.tools import ROLES, Tool, choose
from tailrace.cli.check.trials import TRIALS

if TYPE_CHECKING:
    from tailrace.cli.check.target import Target

__all__ = ["Plan", "Report", "Watcher", "known", "run"]

_TRACE = 3.0  # seconds until the tool in the role `effect` must have left its trace


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Args:
        options: Limits.
        seconds: For all of it; what is not tried by then has failed.
        ways: Only these; empty: all that the server answers in.
        only: Patterns of trials (`resume`, `resume/sse`, `sigterm-*`); empty: all.
        skip: Patterns of trials.
        names: The tool for each role.
        arguments: A role's arguments, where they cannot be found in the tool's schema.
        witness: What `effect` writes to.
    """

    options: Options
    seconds: float
    ways: tuple[Way, ...] = ()
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: Mapping[str, Json] = field(default_factory=dict[str, Json])
    witness: Witness | None = None

    def wants(self, trial: Trial, way: Way) -> bool:
        """Whether this trial is to be made this way."""
        if way not in trial.ways:
            return False
        names = (trial.name, f"{trial.name}/{way.value}")
        chosen = not self.only or any(fnmatchcase(name, one) for name in names for one in self.only)
        return chosen and not any(fnmatchcase(name, one) for name in names for one in self.skip)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it."""

    target: str
    ways: Mapping[Way, str]
    server: Mapping[Way, str]  # what it says that it is
    results: Sequence[Result]
    seconds: float

    def count(self, verdict: Verdict) -> int:
        """How many trials ended so."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def passed(self) -> bool:
        """No trial failed, and at least one was made."""
        return self.count(Verdict.FAIL) == 0 and self.count(Verdict.PASS) > 0


class Watcher(Protocol):
    """Hears how it goes."""

    def found(self, ways: Mapping[Way, str], trials: int) -> None:
        """The server answers, in these ways; so many trials will be made."""
        ...

    def begins(self, trial: Trial, way: Way) -> None:
        """A trial begins."""
        ...

    def ended(self, result: Result) -> None:
        """A trial ended."""
        ...


def known(pattern: str) -> bool:
    """Whether any trial has a name like that."""
    names = [name for trial in TRIALS for name in (trial.name, *(f"{trial.name}/{way.value}" for way in trial.ways))]
    return any(fnmatchcase(name, pattern) for name in names)


async def run(target: Target, plan: Plan, watcher: Watcher) -> Report:
    """Make all trials that were chosen.

    Raises:
        Failed: The server cannot be started or reached, or speaks none of the ways.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(plan.seconds):
            await target.start()
            await target.discover(plan.ways)
    except TimeoutError:
        raise Failed(f"the server did not answer within {plan.seconds:g} s") from None
    work = [(trial, way) for way in target.ways for trial in TRIALS if plan.wants(trial, way)]
    watcher.found(target.ways, len(work))
    session = _Session(target, plan, began + plan.seconds)
    for trial, way in work:
        watcher.begins(trial, way)
        result = await session.make(trial, way)
        watcher.ended(result)
    return Report(target.title, target.ways, session.servers, session.results, time.monotonic() - began)


class _Session:
    """The state between trials: which tools there are, and whether the server still answers."""

    def __init__(self, target: Target, plan: Plan, until: float) -> None:
        self.servers: dict[Way, str] = {}
        self.results: list[Result] = []
        self._target = target
        self._plan = plan
        self._until = until
        self._tools: dict[Way, dict[str, Tool | str]] = {}
        self._gone = ""  # why nothing more can be tried

    async def make(self, trial: Trial, way: Way) -> Result:
        """Make one trial, and leave a server that answers for the next."""
        began = time.monotonic()
        limit = min(self._plan.options.timeout, self._until - began)
        verdict, saw = Verdict.FAIL, self._gone or "not tried: the time for all trials was up (--seconds)"
        if not self._gone and limit > 0:
            verdict, saw = await self._judged(trial, way, limit)
            log = self._target.last_lines() if verdict is Verdict.FAIL else []
            after = await self._recover(trial, way, verdict)
            if after and verdict is not Verdict.FAIL:
                verdict, saw = Verdict.FAIL, f"{saw}; {after}"
        else:
            log = []
        result = Result(trial, way, verdict, saw, time.monotonic() - began, log)
        self.results.append(result)
        return result

    async def _judged(self, trial: Trial, way: Way, limit: float) -> tuple[Verdict, str]:
        try:
            async with asyncio.timeout(limit):
                if way not in self._tools:
                    self._tools[way] = await self._learn(way)
                lab = self._lab(way)
                if trial.process and not self._target.started_here:
                    raise NotApplicable("the server was not started here: give its command after --")
                for role in trial.needs:
                    lab.tool(role)
                try:
                    saw = await trial.run(lab)
                finally:
                    await lab.leave()
                return Verdict.PASS, saw
        except NotApplicable as reason:
            return Verdict.NOT_APPLICABLE, str(reason)
        except TimeoutError:
            return Verdict.FAIL, f"it was not over within {limit:g} s (--timeout)"
        except Failed as error:
            return Verdict.FAIL, self._with_end(trial, str(error))
        except Exception as error:  # a server may send anything: whatever this side stumbles over was sent
            return Verdict.FAIL, self._with_end(trial, f"what came was not understood: {type(error).__name__}: {error}")

    def _with_end(self, trial: Trial, saw: str) -> str:
        """What was seen, and that the process is gone if it should not be."""
        process = self._target.process
        if trial.ends or process is None or process.alive:
            return saw
        return f"{saw}; the server's process ended with {process.code}"

    def _lab(self, way: Way) -> Lab:
        options = replace(self._plan.options)
        return Lab(self._target, way, options, self._tools[way], self._plan.witness)

    async def _recover(self, trial: Trial, way: Way, verdict: Verdict) -> str:
        """See that the next trial finds a server that answers; returns what is wrong with the one that was left."""
        if way is Way.STDIO:  # each conversation has had a process of its own
            await self._target.stop()
            return ""
        try:
            if trial.ends and self._target.started_here and verdict is not Verdict.NOT_APPLICABLE:
                await self._target.restart()
                return ""
            if way not in self._tools:
                return ""
            lab = self._lab(way)
            try:
                await lab.answers("after this trial")
            finally:
                await lab.leave()
        except Failed as error:
            if not self._target.started_here:
                self._gone = f"not tried: since {trial.name}/{way.value} the server answers no more"
                return str(error)
            try:
                await self._target.restart()
            except Failed as again:
                self._gone = f"not tried: after {trial.name}/{way.value} the server could not be started again: {again}"
            return str(error)
        return ""

    # --- tools ------------------------------------------------------------------------------------

    async def _learn(self, way: Way) -> dict[str, Tool | str]:
        """The tools for the roles, as this way lists them."""
        client = self._target.conversation(way)
        try:
            await client.open()
            answer = await client.ask("tools/list")
            self.servers[way] = client.server
        finally:
            with suppress(Failed):
                await client.close()  # before the next begins: over stdio two processes may wait for one store
        listed = answer.get("result", {}).get("tools")
        if not isinstance(listed, list):
            raise Failed(f"tools/list was answered with {shorten(answer)}")
        tools: dict[str, Tool | str] = {}
        for role in ROLES:
            name = self._plan.names.get(role, role)
            tool, why = choose(role, name, cast("list[Any]", listed), self._plan.arguments.get(role))
            tools[role] = why if tool is None else tool
        if isinstance(tools["effect"], Tool):
            tools["effect"] = await self._traced(way, tools)
        return tools

    async def _traced(self, way: Way, tools: dict[str, Tool | str]) -> Tool | str:
        """The tool in the role `effect` if it leaves a trace that can be read."""
        witness = self._plan.witness
        if witness is None:
            return "nobody can see what ran: give --witness FILE, the file that the tool appends to"
        lab = Lab(self._target, way, self._plan.options, tools, witness)
        try:
            client, key = await lab.client(), unique("trace")
            await client.finish(await lab.sent(client, lab.call("effect", key=key, seconds=0)), _TRACE)
            if await lab.until(lambda: witness.count("end", key) == 1, _TRACE):
                return cast("Tool", tools["effect"])
        finally:
            await lab.leave()
        name = self._plan.names.get("effect", "effect")
        return f"the tool {name!r} does not append `start KEY` and `end KEY` to {witness.path} (TAILRACE_WITNESS)"
