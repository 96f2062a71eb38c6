"""Makes inputs of other inputs, and keeps those with which something new happened.

A target returns what happened as a small value (which error, how many events, ...); an input whose outcome was not
seen before is kept and mutated on. That is no coverage, but it is cheap, works on every Python, and gets from a table
of hand-made rows to what nobody wrote down. `guided` has the same targets under atheris, by coverage.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

__all__ = ["Result", "Target", "fuzz"]

KEPT = 3000  # inputs with a new outcome; from there on they replace others
LONGEST = 1500  # bytes an input grows to
ENOUGH = 20  # findings after which a run ends


class Target(ABC):
    """What is fuzzed.

    Attributes:
        seeds: Where it begins.
        tokens: Pieces that are put in.
    """

    seeds: Sequence[bytes]
    tokens: Sequence[bytes]

    @abstractmethod
    def run(self, data: bytes) -> Hashable:
        """Try one input; what happened. An exception is a finding."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what it holds."""


@dataclass
class Result:
    """What a run did; `findings` are inputs, made short, each with its exception."""

    seconds: float = 0.0
    executions: int = 0
    outcomes: int = 0
    kept: int = 0
    findings: list[tuple[bytes, str]] = field(default_factory=list[tuple[bytes, str]])


def fuzz(target: Target, seconds: float, seed: int) -> Result:
    """Run `target` for `seconds`; the same seed makes the same inputs."""
    chance = random.Random(seed)
    result = Result()
    inputs = list(target.seeds)
    seen: set[Hashable] = set()
    blamed: set[str] = set()
    started = time.monotonic()
    waiting = list(inputs)
    while True:
        result.seconds = time.monotonic() - started
        if result.seconds >= seconds and not waiting:
            break
        data = waiting.pop() if waiting else _mutate(chance, inputs, target.tokens)
        result.executions += 1
        try:
            outcome = target.run(data)
        except Exception as error:
            name = _name(error)
            if name not in blamed:  # one input for each kind of finding
                blamed.add(name)
                result.findings.append((_shorten(target, data, name), f"{type(error).__name__}: {str(error)[:500]}"))
            if len(result.findings) >= ENOUGH:
                break
            continue
        if outcome not in seen:
            seen.add(outcome)
            if len(inputs) < KEPT:
                inputs.append(data)
            else:
                inputs[chance.randrange(len(target.seeds), KEPT) if len(target.seeds) < KEPT else 0] = data
    result.outcomes, result.kept = len(seen), len(inputs)
    return result


def _mutate(chance: random.Random, inputs: list[bytes], tokens: Sequence[bytes]) -> bytes:
    data = bytearray(chance.choice(inputs))
    for _ in range(1 + int(chance.expovariate(0.7))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + 1 + int(chance.expovariate(0.2)))
        match chance.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at % len(data)] = chance.randrange(256)
            case 2:
                data[at:at] = chance.randbytes(1 + chance.randrange(4))
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * (1 + chance.randrange(4))
            case 5:
                other = chance.choice(inputs)
                begin = chance.randrange(len(other) + 1)
                data[at:end] = other[begin : begin + 1 + int(chance.expovariate(0.05))]
            case 6:
                other = chance.choice(inputs)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case 7 if tokens:
                data[at:end] = chance.choice(tokens)
            case _ if tokens:
                data[at:at] = chance.choice(tokens)
            case _:
                del data[at:]
    return bytes(data[:LONGEST])


def _shorten(target: Target, data: bytes, name: str) -> bytes:
    """Leave out what the finding does not need, within a thousand tries."""
    tries = 1000
    size = max(1, len(data) // 2)
    while size and tries:
        at = 0
        while at < len(data) and tries:
            tries -= 1
            shorter = data[:at] + data[at + size :]
            if _finds(target, shorter) == name:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _finds(target: Target, data: bytes) -> str:
    try:
        target.run(data)
    except Exception as error:
        return _name(error)
    return ""


def _name(error: Exception) -> str:
    """Where and what: the same fault found twice is one finding."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = trace.tb_lineno if trace is not None else 0
    return f"{type(error).__name__} {line}"
