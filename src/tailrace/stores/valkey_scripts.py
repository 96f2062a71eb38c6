"""What Valkey is asked to do: a few scripts, each of which checks the fencing token before all else, and how records
become their arguments.

A script runs alone and whole, and its effects reach the append-only file together: that makes a commit atomic. All
keys of a service share one hash tag, so that they live in one slot of a cluster. Under the prefix
``{tailrace:SERVICE}:`` there are

- ``owner`` (``TOKEN:ID``, with the lease as its time to live), ``fence`` (the last token), ``batch`` (the last commit
  of this token), ``meta`` (format, epoch, secret);
- ``sessions`` (by when they were touched), ``handles``, ``unfinished``, ``orphans``; and of each session
  ``s:`` its record, ``l:`` the last number of each stream, ``c:`` its calls, ``e:`` the events of one stream,
  ``z:`` the numbers of one stream and kind;
- ``kinds``, and of each kind of entry ``d:`` the data, ``x:`` when they expire, ``n:`` the keys in their order.

When they run, and what becomes of an error, is left to `valkey_writer`.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropSession,
    DropStream,
    EndCall,
    Kind,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    StoredCall,
    StoredEvent,
    StoredSession,
    TrimStream,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ACQUIRE",
    "CLEAR",
    "COMMIT",
    "COUNT",
    "ENTRIES",
    "ENTRY",
    "EPOCH",
    "EXPIRE",
    "FORMAT",
    "LOAD",
    "RELEASE",
    "RENEW",
    "SECRETS",
    "SESSIONS",
    "UNFINISHED",
    "Script",
    "encode",
    "stored_session",
]

FORMAT = 1  # of the keys; a store with a higher one was written by a newer version
_EXACT = 2**53  # scores are doubles: numbers up to here are told apart


class Script:
    """A Lua script and the name under which Valkey keeps it.

    Args:
        body: Reads ``P``, the prefix of the keys, and ``ARGV`` from 3 on.
        fenced: Begin with the check that the caller holds the lease.
    """

    def __init__(self, body: str, *, fenced: bool = True) -> None:
        self.text = _PREFIX + (_FENCE if fenced else "") + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_PREFIX = "local owner = KEYS[1] local P = string.sub(owner, 1, -6) local call = redis.call\n"

# A lease that ran out and that nobody took since is taken again: the token is still the last one. The first write of a
# script is one that is refused where memory has run out, so that a script is refused whole.
_FENCE = """
local held = call('GET', owner)
if held ~= ARGV[1] then
  if held or call('GET', P .. 'fence') ~= string.match(ARGV[1], '^%d+') then return {'gone'} end
  call('SET', owner, ARGV[1], 'PX', ARGV[2])
end
"""

_DROP = """
local function drop(s)
  for _, stream in ipairs(call('HKEYS', P .. 'l:' .. s)) do
    local id = s .. ':' .. stream
    call('DEL', P .. 'e:' .. id, P .. 'z:' .. id .. ':0', P .. 'z:' .. id .. ':1', P .. 'z:' .. id .. ':2')
  end
  local handle = call('HGET', P .. 's:' .. s, 'h')
  if handle and call('HGET', P .. 'handles', handle) == s then call('HDEL', P .. 'handles', handle) end
  call('DEL', P .. 's:' .. s, P .. 'l:' .. s, P .. 'c:' .. s)
  call('ZREM', P .. 'sessions', s)
  call('SREM', P .. 'unfinished', s)
  call('SREM', P .. 'orphans', s)
end
"""

ACQUIRE = Script(
    """
local held = call('GET', owner)
if held and string.match(held, ':(.*)$') ~= ARGV[1] then return {'held', call('PTTL', owner)} end
local format = call('HGET', P .. 'meta', 'format')
if format and tonumber(format) > tonumber(ARGV[3]) then return {'newer'} end
local token = call('INCR', P .. 'fence') .. ':' .. ARGV[1]
call('SET', owner, token, 'PX', ARGV[2])
call('SET', P .. 'batch', 0)
call('HSET', P .. 'meta', 'format', ARGV[3])
return {'ok', token}
""",
    fenced=False,
)
RENEW = Script("call('PEXPIRE', owner, ARGV[2]) return {'ok'}")
RELEASE = Script("call('DEL', owner) call('INCR', P .. 'fence') return {'ok'}")  # a late RENEW takes nothing back
CLEAR = Script(
    _DROP
    + """
for _, s in ipairs(call('SMEMBERS', P .. 'orphans')) do
  if not call('ZSCORE', P .. 'sessions', s) then drop(s) end
end
call('DEL', P .. 'orphans')
return {'ok'}
"""
)

# ARGV[3] numbers the commit: one that comes twice, or late out of a socket that was given up, has no effect.
COMMIT = Script(
    _DROP
    + """
local last = tonumber(call('GET', P .. 'batch') or '0')
if tonumber(ARGV[3]) <= last then return {'ok', last} end
call('SET', P .. 'batch', ARGV[3])
local known = {}
local function needs(s)
  if known[s] == nil then
    known[s] = call('ZSCORE', P .. 'sessions', s) and true
    if not known[s] then call('SADD', P .. 'orphans', s) end
  end
end
local i = 4
while ARGV[i] do
  local op, s = ARGV[i], ARGV[i + 1]
  if op == 'A' then
    local stream, seq, kind = ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    local id = s .. ':' .. stream
    needs(s)
    if call('HSETNX', P .. 'e:' .. id, kind .. ':' .. seq, ARGV[i + 5]) == 1 then
      call('ZADD', P .. 'z:' .. id .. ':' .. kind, seq, seq)
    end
    local top = call('HGET', P .. 'l:' .. s, stream)
    if not top or tonumber(top) < tonumber(seq) then call('HSET', P .. 'l:' .. s, stream, seq) end
    i = i + 6
  elseif op == 'T' then
    local id = s .. ':' .. ARGV[i + 2]
    local numbers = P .. 'z:' .. id .. ':' .. ARGV[i + 3]
    for _, seq in ipairs(call('ZRANGEBYSCORE', numbers, '-inf', ARGV[i + 4])) do
      call('HDEL', P .. 'e:' .. id, ARGV[i + 3] .. ':' .. seq)
    end
    call('ZREMRANGEBYSCORE', numbers, '-inf', ARGV[i + 4])
    i = i + 5
  elseif op == 'S' then
    local id = s .. ':' .. ARGV[i + 2]
    call('HDEL', P .. 'l:' .. s, ARGV[i + 2])
    call('DEL', P .. 'e:' .. id, P .. 'z:' .. id .. ':0', P .. 'z:' .. id .. ':1', P .. 'z:' .. id .. ':2')
    i = i + 3
  elseif op == 'P' then
    local old = call('HGET', P .. 's:' .. s, 'h')
    if old and old ~= ARGV[i + 2] and call('HGET', P .. 'handles', old) == s then
      call('HDEL', P .. 'handles', old)
    end
    call('HSET', P .. 's:' .. s, 'h', ARGV[i + 2], 'p', ARGV[i + 3], 'd', ARGV[i + 4], 't', ARGV[i + 5])
    call('HSET', P .. 'handles', ARGV[i + 2], s)
    call('ZADD', P .. 'sessions', ARGV[i + 5], s)
    call('SREM', P .. 'orphans', s)
    known[s] = true
    i = i + 6
  elseif op == 'D' then
    drop(s)
    known[s] = nil
    i = i + 2
  elseif op == 'C' then
    needs(s)
    call('HSET', P .. 'c:' .. s, ARGV[i + 2], ARGV[i + 3] .. ':' .. ARGV[i + 4])
    call('SADD', P .. 'unfinished', s)
    i = i + 5
  elseif op == 'E' then
    if call('HDEL', P .. 'c:' .. s, ARGV[i + 2]) == 1 and call('EXISTS', P .. 'c:' .. s) == 0 then
      call('SREM', P .. 'unfinished', s)
    end
    i = i + 3
  elseif op == 'N' then
    call('HSET', P .. 'd:' .. s, ARGV[i + 2], ARGV[i + 3])
    call('ZADD', P .. 'x:' .. s, ARGV[i + 4], ARGV[i + 2])
    call('ZADD', P .. 'n:' .. s, 0, ARGV[i + 2])
    call('SADD', P .. 'kinds', s)
    i = i + 5
  else
    call('HDEL', P .. 'd:' .. s, ARGV[i + 2])
    call('ZREM', P .. 'x:' .. s, ARGV[i + 2])
    call('ZREM', P .. 'n:' .. s, ARGV[i + 2])
    i = i + 3
  end
end
return {'ok', last}
"""
)

LOAD = Script(
    """
local s = ARGV[4]
if ARGV[3] == 'handle' then s = call('HGET', P .. 'handles', s) end
local found = s and call('HMGET', P .. 's:' .. s, 'h', 'p', 'd', 't')
if not found or not found[1] then return {'ok'} end
local last, events = call('HGETALL', P .. 'l:' .. s), {}
for i = 1, #last, 2 do events[#events + 1] = call('HGETALL', P .. 'e:' .. s .. ':' .. last[i]) end
return {'ok', s, found, last, call('HGETALL', P .. 'c:' .. s), events}
"""
)
SESSIONS = Script("return {'ok', call('ZRANGE', P .. 'sessions', 0, -1, 'WITHSCORES')}")
UNFINISHED = Script(
    """
local names = {}
for _, s in ipairs(call('SMEMBERS', P .. 'unfinished')) do
  if call('ZSCORE', P .. 'sessions', s) then names[#names + 1] = s end
end
return {'ok', names}
"""
)
ENTRY = Script(
    "return {'ok', call('HGET', P .. 'd:' .. ARGV[3], ARGV[4]), call('ZSCORE', P .. 'x:' .. ARGV[3], ARGV[4])}"
)
COUNT = Script("return {'ok', call('ZCOUNT', P .. 'x:' .. ARGV[3], '(' .. ARGV[4], '+inf')}")
ENTRIES = Script(
    """
local kind, after, most, now, page = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), {}
while #page < 3 * most do
  local keys = call('ZRANGEBYLEX', P .. 'n:' .. kind, '(' .. after, '+', 'LIMIT', 0, most)
  for _, key in ipairs(keys) do
    local expires = call('ZSCORE', P .. 'x:' .. kind, key)
    if #page < 3 * most and tonumber(expires) > now then
      page[#page + 1] = key
      page[#page + 1] = call('HGET', P .. 'd:' .. kind, key)
      page[#page + 1] = expires
    end
    after = key
  end
  if #keys < most then break end
end
return {'ok', page}
"""
)
EXPIRE = Script(
    """
local gone, most = 0, tonumber(ARGV[4])
for _, kind in ipairs(call('SMEMBERS', P .. 'kinds')) do
  for _, key in ipairs(call('ZRANGEBYSCORE', P .. 'x:' .. kind, '-inf', ARGV[3], 'LIMIT', 0, most - gone)) do
    call('HDEL', P .. 'd:' .. kind, key)
    call('ZREM', P .. 'x:' .. kind, key)
    call('ZREM', P .. 'n:' .. kind, key)
    gone = gone + 1
  end
  if call('EXISTS', P .. 'x:' .. kind) == 0 then call('SREM', P .. 'kinds', kind) end
end
return {'ok', gone}
"""
)
SECRETS = Script("call('HSETNX', P .. 'meta', 'secret', ARGV[3]) return {'ok', call('HGET', P .. 'meta', 'secret')}")
EPOCH = Script("return {'ok', call('HINCRBY', P .. 'meta', 'epoch', 1)}")


def encode(records: Sequence[Record]) -> list[Any]:
    """The records of one write as arguments of `COMMIT`.

    Raises:
        ValueError: One cannot be stored: text that is no Unicode, a kind or a number that is out of range.
    """
    arguments: list[Any] = []
    for record in records:
        match record:
            case AppendEvent(session, stream, seq, kind, payload):
                _check_numbers(kind, seq)
                arguments += (b"A", session.encode(), int(stream), int(seq), int(kind), payload)
            case TrimStream(session, stream, kind, upto):
                _check_numbers(kind, upto)
                arguments += (b"T", session.encode(), int(stream), int(kind), int(upto))
            case DropStream(session, stream):
                arguments += (b"S", session.encode(), int(stream))
            case PutSession(session, handle, principal, data, touched):
                arguments += (b"P", session.encode(), handle, principal.encode(), data, _number(touched))
            case DropSession(session):
                arguments += (b"D", session.encode())
            case PutCall(session, call, stream, data):
                arguments += (b"C", session.encode(), int(call), int(stream), data)
            case EndCall(session, call):
                arguments += (b"E", session.encode(), int(call))
            case PutEntry(kind, key, data, expires):
                arguments += (b"N", kind.encode(), key.encode(), data, _number(expires))
            case DropEntry(kind, key):
                arguments += (b"X", kind.encode(), key.encode())
    return arguments


def stored_session(answer: Sequence[Any]) -> StoredSession | None:
    """What `LOAD` has read."""
    if not answer:
        return None
    session, (handle, principal, data, touched), last, calls, events = answer
    streams = [int(stream) for stream in last[::2]]
    return StoredSession(
        session.decode(),
        handle,
        principal.decode(),
        data,
        float(touched),
        sorted(
            (
                _event(stream, name, payload)
                for stream, found in zip(streams, events, strict=True)
                for name, payload in zip(found[::2], found[1::2], strict=True)
            ),
            key=lambda event: (event.stream, event.seq),
        ),
        dict(sorted(zip(streams, map(int, last[1::2]), strict=True))),
        sorted(
            (_call(int(call), held) for call, held in zip(calls[::2], calls[1::2], strict=True)),
            key=lambda call: call.call,
        ),
    )


def _event(stream: int, name: bytes, payload: bytes) -> StoredEvent:
    kind, _, seq = name.partition(b":")
    return StoredEvent(stream, int(seq), int(kind), payload)


def _call(call: int, held: bytes) -> StoredCall:
    stream, _, data = held.partition(b":")
    return StoredCall(call, int(stream), data)


def _check_numbers(kind: int, seq: int) -> None:
    if kind not in (Kind.NOTIFICATION, Kind.ANSWER, Kind.REQUEST) or abs(seq) > _EXACT:
        raise ValueError(f"kind {kind} or number {seq} is out of range")


def _number(value: float) -> str:
    if math.isnan(value):
        raise ValueError("a time that is no number")
    return repr(float(value))
