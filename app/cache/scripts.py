"""What runs inside Valkey. Every script's keys share one slot, so it works in a cluster."""

from __future__ import annotations

from app.valkey.client import Script

FORMAT = "6"  # of keys and values: a new one makes every old entry a miss
EPOCHS = "cache:{epochs}:values"
"""A field for each tag that was invalidated; the field without a name stands for every other."""
EVENTS = "cache:{epochs}:events"
REPLICAS = "cache:{epochs}:replicas"
SHARED_KEYS = (EPOCHS, EVENTS, REPLICAS)
EVENTS_KEPT = 10_000
MOST_TAGS = 100_000
"""Invalidated tags that are remembered, of all tenants. One more begins a new generation: every answer is a miss."""
INBOX_SECONDS = 60


_FRESH_ID = """
local function fresh()
  return redis.call('XADD', KEYS[2], 'MAXLEN', '~', EVENTS_KEPT, '*', 'field', ARGV[1])
end
local function generation()
  local id = redis.call('HGET', KEYS[1], '')
  if not id then
    redis.call('DEL', KEYS[1])
    id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', EVENTS_KEPT, '*', 'all', '1')
    redis.call('HSET', KEYS[1], '', id)
  end
  return id
end
-- Since when it is known who the replicas are, and whether that is so short that some may not have come back yet.
local function known()
  local now = redis.call('TIME')
  local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('HSETNX', KEYS[3], '', milliseconds)
  return milliseconds - redis.call('HGET', KEYS[3], '') < 2000
end
local function last()
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1] or '0-0'
end
""".replace("EVENTS_KEPT", str(EVENTS_KEPT))

# Keys of the next four: EPOCHS, EVENTS, REPLICAS.

JOIN = Script(
    _FRESH_ID
    + """
-- replica, '1' when it has seen events that this server has not: what they said is lost, so nothing kept is trusted
if ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
local current = generation()
local seen = last()
known()
redis.call('HSET', KEYS[3], ARGV[1], seen .. ' 0')
return {seen, current}
"""
)

SYNC = Script(
    """
-- replica, the last event it has applied
local function before(one, other)
  local a, b = one:match('(%d+)-'), other:match('(%d+)-')
  if tonumber(a) ~= tonumber(b) then return tonumber(a) < tonumber(b) end
  return tonumber(one:match('-(%d+)')) < tonumber(other:match('-(%d+)'))
end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if not newest[1] or before(newest[1][1], ARGV[2]) then return {'lost'} end
local known = redis.call('HGET', KEYS[3], ARGV[1])
if not known then return {'unknown'} end
local beat = tonumber(known:match(' (%d+)')) + 1
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. beat)
local events = redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', 501)
-- What came after an event that is forgotten may be forgotten as well.
if not events[1] or events[1][1] ~= ARGV[2] then return {'unknown'} end
table.remove(events, 1)
return {'ok', events, redis.call('HGETALL', KEYS[3])}
"""
)

BUMP = Script(
    _FRESH_ID
    + """
-- field; answers the id of the event, what each replica has seen, and whether there may be more of them
if redis.call('HLEN', KEYS[1]) > MOST_TAGS then redis.call('DEL', KEYS[1]) end
generation()
local id = fresh()
redis.call('HSET', KEYS[1], ARGV[1], id)
local more = known()
return {id, redis.call('HGETALL', KEYS[3]), more and 1 or 0}
""".replace("MOST_TAGS", str(MOST_TAGS))
)

LOAD = Script(
    _FRESH_ID
    + """
-- fields: the epoch of each
local current = generation()
local found = redis.call('HMGET', KEYS[1], unpack(ARGV))
for i = 1, #ARGV do found[i] = found[i] or current end
return found
"""
)

FORGET = Script(
    """
-- replica and what it was seen to say: gone, unless it has said something since
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""
)

# Keys of the next six: a question's, that of a claim beside its answer, that of an asker's text.
# The first holds the answer (app/cache/entry.py), or the claim of the replica that asks OpenAI for it: CLAIMED, 1 when
# another replica waits and else 0, token, replica and the request's fingerprint with spaces between. The second holds
# such a claim while there is an answer already; the third, which names a token, what that one's stream has said so far,
# or what those who waited for it are given although it is not kept.

CLAIMED = "C"
HEAD_BYTES = 256
"""Of a value that is worth nothing, by which it is known again."""
_ASKER = f"""
local function asker(value)  -- the token in a claim
  return value and value:match('^{CLAIMED}.(%S+) ')
end
"""

CLAIM = Script(
    f"""
-- claim, milliseconds, '1' to ask although there is an answer, a value that is worth nothing (how it begins)
-- Answers as a native SET with NX and GET does: what was there, or nil for the right to ask.
local found = redis.pcall('GETRANGE', KEYS[1], 0, {HEAD_BYTES - 1})
if type(found) == 'table' or found == ARGV[4] then
  redis.call('DEL', KEYS[1])
  found = ''
end
if found:sub(1, 1) == '{CLAIMED}' then
  redis.call('SETRANGE', KEYS[1], 1, '1')
elseif found == '' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return false
elseif ARGV[3] == '1' and redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return false
end
return redis.call('GET', KEYS[1])
"""
)

TAKE_OVER = Script(
    _ASKER
    + """
-- the dead one's token, claim, milliseconds
if asker(redis.call('GET', KEYS[1])) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
return 1
"""
)

KEEP = Script(
    _ASKER
    + """
-- token, answer, milliseconds: nothing when another asks by now
local token = asker(redis.call('GET', KEYS[1])) or asker(redis.call('GET', KEYS[2]))
if token and token ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3])
return 1
"""
)

RELEASE = Script(
    _ASKER
    + """
-- token, what the others get instead of an answer to keep, milliseconds
if asker(redis.call('GET', KEYS[2])) == ARGV[1] then return redis.call('DEL', KEYS[2]) end
local claim = redis.call('GET', KEYS[1])
if asker(claim) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[3])
if claim:sub(2, 2) == '1' and ARGV[2] ~= '' then redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
)

PUBLISH = Script(
    _ASKER
    + """
-- token, text, bytes before it: 0 when another asks by now, or what came before is gone
if asker(redis.call('GET', KEYS[1])) ~= ARGV[1] then return 0 end
if redis.call('STRLEN', KEYS[3]) ~= tonumber(ARGV[3]) then return 0 end
redis.call('APPEND', KEYS[3], ARGV[2])
return redis.call('PEXPIRE', KEYS[3], redis.call('PTTL', KEYS[1]))
"""
)

FOLLOW = Script(
    _ASKER
    + """
-- token, bytes of its text already read: what the question's key holds, and what is new of the text or was left
local found = redis.call('GET', KEYS[1])
local read = asker(found) == ARGV[1] and ARGV[2] or 0
return {found, redis.call('GETRANGE', KEYS[3], read, -1)}
"""
)

TELL = Script(
    """
-- a question's key, the token of who asks it
redis.call('XADD', KEYS[1], 'MAXLEN', '~', '1000', '*', 'key', ARGV[1], 'token', ARGV[2])
return redis.call('EXPIRE', KEYS[1], INBOX_SECONDS)
""".replace("INBOX_SECONDS", str(INBOX_SECONDS))
)

SCRIPTS = (JOIN, SYNC, BUMP, LOAD, FORGET, CLAIM, TAKE_OVER, KEEP, RELEASE, PUBLISH, FOLLOW, TELL)


def inbox(replica: str) -> str:
    """The stream in which a replica is told that another one waits for what it is asking."""
    return f"cache:{{epochs}}:inbox:{replica}"
