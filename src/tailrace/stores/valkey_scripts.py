"""What Valkey is asked to do: a few scripts, each of which checks the fencing token before all else.

A script runs alone and whole, and its effects reach the append-only file together: that makes a commit atomic. All
keys of a service share one hash tag, so that they live in one slot of a cluster. Those of a partition stand under the
prefix ``{tailrace:SERVICE}:p:TAG:``, ``P`` in the scripts (of a store that is not partitioned ``{tailrace:SERVICE}:``)

- ``owner`` (``TOKEN:ID``, with the lease as its time to live), ``fence`` (the last token), ``batch`` (the last commit
  of this token, and which of its claims were refused), ``meta`` (epoch);
- ``sessions`` (by when they were touched), ``handles``, ``unfinished``, ``orphans``; and of each session
  ``s:`` its record, ``l:`` the last number of each stream, ``c:`` its calls, ``e:`` the events of one stream,
  ``z:`` the numbers of one stream and kind;
- ``kinds``, and of each kind of entry ``d:`` the data, ``x:`` when they expire, ``n:`` the keys in their order, ``f:``
  those that were left free.

What all partitions share stands under ``{tailrace:SERVICE}:``, ``S``: ``meta`` (format, secret), ``partitions`` (their
tags), and ``kinds`` and its like for the kinds of `SHARED_KINDS`.

How records become arguments is `valkey_records`'; when the scripts run, and what becomes of an error,
`valkey_writer`'s; who owns which partition, `valkey_membership`'s.
"""

from __future__ import annotations

import hashlib

from tailrace.core.ports import SHARED_KINDS

__all__ = [
    "ACQUIRE",
    "CLEAR",
    "COMMIT",
    "COUNT",
    "DROP",
    "ENTRIES",
    "ENTRY",
    "EPOCH",
    "EXPIRE",
    "FORMAT",
    "LOAD",
    "PARTITIONS",
    "READ_ENTRIES",
    "RELEASE",
    "RENEW",
    "SECRETS",
    "SESSIONS",
    "UNFINISHED",
    "Script",
]

FORMAT = 2  # of the keys; a store with a higher one was written by a newer version


class Script:
    """A Lua script and the name under which Valkey keeps it.

    Args:
        body: Reads ``P`` and ``S``, the prefixes of the keys, and ``ARGV`` from 3 on.
        fenced: Begin with the check that the caller holds the lease.
    """

    def __init__(self, body: str, *, fenced: bool = True) -> None:
        self.text = _PREFIX + (_FENCE if fenced else "") + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_PREFIX = """
local owner = KEYS[1] local P = string.sub(owner, 1, -6) local S = string.match(owner, '^{.-}:') local call = redis.call
"""

# A lease that ran out and that nobody took since is taken again: the token is still the last one. The first write of a
# script is one that is refused where memory has run out, so that a script is refused whole.
_FENCE = """
local held = call('GET', owner)
if held ~= ARGV[1] then
  if held or call('GET', P .. 'fence') ~= string.match(ARGV[1], '^%d+') then return {'gone'} end
  call('SET', owner, ARGV[1], 'PX', ARGV[2])
end
"""

DROP = """
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

# The prefix of a kind of entries, and whether any of them was left free.
_KINDS = f"""
local shared, free = {{ {", ".join(f"['{kind}'] = S" for kind in sorted(SHARED_KINDS))} }}, {{}}
local function of(kind) return shared[kind] or P end
local function frees(kind)
  if free[kind] == nil then free[kind] = call('EXISTS', of(kind) .. 'f:' .. kind) == 1 end
  return free[kind]
end
"""

ACQUIRE = Script(
    """
local tag, new = ARGV[4], tonumber(ARGV[5])
if tag ~= '' and call('SISMEMBER', S .. 'partitions', tag) == new then return {'missing'} end
local held = call('GET', owner)
if held and string.match(held, ':(.*)$') ~= ARGV[1] then return {'held', call('PTTL', owner)} end
local format = call('HGET', S .. 'meta', 'format')
if format and tonumber(format) > tonumber(ARGV[3]) then return {'newer'} end
if tag ~= '' and new == 1 then call('SADD', S .. 'partitions', tag) end
local token = call('INCR', P .. 'fence') .. ':' .. ARGV[1]
call('SET', owner, token, 'PX', ARGV[2])
call('SET', P .. 'batch', 0)
call('HSET', S .. 'meta', 'format', ARGV[3])
return {'ok', token}
""",
    fenced=False,
)
RENEW = Script("call('PEXPIRE', owner, ARGV[2]) return {'ok'}")
RELEASE = Script("call('DEL', owner) call('INCR', P .. 'fence') return {'ok'}")  # a late RENEW takes nothing back
CLEAR = Script(
    DROP
    + """
for _, s in ipairs(call('SMEMBERS', P .. 'orphans')) do
  if not call('ZSCORE', P .. 'sessions', s) then drop(s) end
end
call('DEL', P .. 'orphans')
return {'ok'}
"""
)

# ARGV[3] numbers the commit: one that comes twice, or late out of a socket that was given up, has no effect. It answers
# with the number of the commit before it, and the tickets of the writes whose claims were refused.
COMMIT = Script(
    DROP
    + _KINDS
    + """
local batch = call('GET', P .. 'batch') or '0'
local last = tonumber(string.match(batch, '^%d+'))
if tonumber(ARGV[3]) <= last then return {'ok', last, string.match(batch, ':(.*)$') or ''} end
call('SET', P .. 'batch', ARGV[3])
local known, kinds, refused = {}, {}, {}
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
  elseif op == 'N' or op == 'F' then
    local E, key = of(s), ARGV[i + 2]
    call('HSET', E .. 'd:' .. s, key, ARGV[i + 3])
    call('ZADD', E .. 'x:' .. s, ARGV[i + 4], key)
    call('ZADD', E .. 'n:' .. s, 0, key)
    if not kinds[s] then
      call('SADD', E .. 'kinds', s)
      kinds[s] = true
    end
    if op == 'F' then
      call('SADD', E .. 'f:' .. s, key)
      free[s] = true
    elseif frees(s) then
      call('SREM', E .. 'f:' .. s, key)
    end
    i = i + 5
  elseif op == 'X' then
    local E, key = of(s), ARGV[i + 2]
    call('HDEL', E .. 'd:' .. s, key)
    call('ZREM', E .. 'x:' .. s, key)
    call('ZREM', E .. 'n:' .. s, key)
    if frees(s) then call('SREM', E .. 'f:' .. s, key) end
    i = i + 3
  else  -- the claims of one write: where one is refused, what follows of the write is skipped
    local now, following = tonumber(ARGV[i + 2]), i + 5 + 2 * tonumber(ARGV[i + 3])
    for j = i + 5, following - 1, 2 do
      local kind, key = ARGV[j], ARGV[j + 1]
      local expires = call('ZSCORE', of(kind) .. 'x:' .. kind, key)
      if expires and tonumber(expires) > now
          and not (frees(kind) and call('SISMEMBER', of(kind) .. 'f:' .. kind, key) == 1) then
        refused[#refused + 1] = s
        following = following + tonumber(ARGV[i + 4])
        break
      end
    end
    i = following
  end
end
refused = table.concat(refused, ',')
if refused ~= '' then call('SET', P .. 'batch', ARGV[3] .. ':' .. refused) end
return {'ok', last, refused}
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
    _KINDS
    + """
local kind, E = ARGV[3], of(ARGV[3])
return {'ok', call('HGET', E .. 'd:' .. kind, ARGV[4]), call('ZSCORE', E .. 'x:' .. kind, ARGV[4])}
"""
)
COUNT = Script(_KINDS + "return {'ok', call('ZCOUNT', of(ARGV[3]) .. 'x:' .. ARGV[3], '(' .. ARGV[4], '+inf')}")
_ENTRIES = (
    _KINDS
    + """
local kind, after, most, now, page = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), {}
local E = of(kind)
while #page < 3 * most do
  local keys = call('ZRANGEBYLEX', E .. 'n:' .. kind, '(' .. after, '+', 'LIMIT', 0, most)
  for _, key in ipairs(keys) do
    local expires = call('ZSCORE', E .. 'x:' .. kind, key)
    if #page < 3 * most and tonumber(expires) > now then
      page[#page + 1] = key
      page[#page + 1] = call('HGET', E .. 'd:' .. kind, key)
      page[#page + 1] = expires
    end
    after = key
  end
  if #keys < most then break end
end
return {'ok', page}
"""
)
ENTRIES = Script(_ENTRIES)
READ_ENTRIES = Script(_ENTRIES, fenced=False)  # for who only looks: the first two arguments are not read
EXPIRE = Script(
    """
local gone, most = 0, tonumber(ARGV[4])
for _, E in ipairs(P == S and {P} or {P, S}) do
  for _, kind in ipairs(call('SMEMBERS', E .. 'kinds')) do
    for _, key in ipairs(call('ZRANGEBYSCORE', E .. 'x:' .. kind, '-inf', ARGV[3], 'LIMIT', 0, most - gone)) do
      call('HDEL', E .. 'd:' .. kind, key)
      call('ZREM', E .. 'x:' .. kind, key)
      call('ZREM', E .. 'n:' .. kind, key)
      call('SREM', E .. 'f:' .. kind, key)
      gone = gone + 1
    end
    if call('EXISTS', E .. 'x:' .. kind) == 0 then call('SREM', E .. 'kinds', kind) end
  end
end
return {'ok', gone}
"""
)
SECRETS = Script("call('HSETNX', S .. 'meta', 'secret', ARGV[3]) return {'ok', call('HGET', S .. 'meta', 'secret')}")
EPOCH = Script("return {'ok', call('HINCRBY', P .. 'meta', 'epoch', 1)}")
# All of the service's, each with who holds it, or nothing.
PARTITIONS = Script(
    """
local found = {}
for _, tag in ipairs(call('SMEMBERS', S .. 'partitions')) do
  found[#found + 1] = tag
  found[#found + 1] = string.match(call('GET', S .. 'p:' .. tag .. ':owner') or ':', ':(.*)$')
end
return {'ok', found}
""",
    fenced=False,
)
