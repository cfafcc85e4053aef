"""What runs inside Valkey. Every script's keys share one slot, so it works in a cluster."""

from __future__ import annotations

from app.valkey.client import Script

FORMAT = "5"  # of keys and values: a new one makes every old entry a miss
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

# A question's key is a hash: `v` the answer, `t` and `o` the token and the replica of who asks OpenAI just now, `b` the
# request's fingerprint, `j` = another replica waits, `d` = over without an answer to keep, `f` = what there is instead.
# It has one of `v` and `t`, or both. The second key is the text of a stream so far: CLAIM and KEEP get it for a stream.

CLAIM = Script(
    """
-- token, replica, milliseconds, fingerprint, '1' to ask although there is an answer
local found = redis.call('HMGET', KEYS[1], 'v', 't', 'o', 'b', 'd')
local busy = found[2] and not found[5]
if found[1] and (ARGV[5] ~= '1' or busy) then return {'answer', found[1], found[4] or ''} end
if busy then
  redis.call('HSET', KEYS[1], 'j', '1')
  return {'busy', found[2], found[3], found[4] or ''}
end
local lasts = -1
if found[1] or found[2] then
  redis.call('HDEL', KEYS[1], 'd', 'f', 'j')
  lasts = redis.call('PTTL', KEYS[1])
end
if KEYS[2] then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[1], 't', ARGV[1], 'o', ARGV[2], 'b', ARGV[4])
if lasts < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {'lead'}
"""
)

TAKE_OVER = Script(
    """
-- the dead one's token, token, replica, milliseconds
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 't', ARGV[2], 'o', ARGV[3])
redis.call('HDEL', KEYS[1], 'd', 'f')
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
)

KEEP = Script(
    """
-- token, answer, milliseconds, fingerprint: nothing when another asks by now
local token = redis.call('HGET', KEYS[1], 't')
if token and token ~= ARGV[1] then return 0 end
redis.call('DEL', unpack(KEYS))
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'b', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)

RELEASE = Script(
    """
-- token, what the others get instead of an answer to keep, milliseconds
local found = redis.call('HMGET', KEYS[1], 't', 'j', 'v')
if found[1] ~= ARGV[1] then return 0 end
if found[3] then
  redis.call('HDEL', KEYS[1], 't', 'o', 'j')
elseif found[2] then
  redis.call('HSET', KEYS[1], 'd', '1', 'f', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
else
  redis.call('DEL', KEYS[1], KEYS[2])
end
return 1
"""
)

PUBLISH = Script(
    """
-- token, text, milliseconds: -1 when another asks by now
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return -1 end
local size = redis.call('APPEND', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return size
"""
)

FOLLOW = Script(
    """
-- token, bytes already read
local found = redis.call('HMGET', KEYS[1], 'v', 't', 'o', 'd', 'f')
if found[1] then return {'answer', found[1]} end
if not found[2] then return {'gone'} end
if found[2] ~= ARGV[1] then return {'busy', found[2], found[3]} end
if found[4] then return {'over', found[5] or ''} end
return {'wait', redis.call('GETRANGE', KEYS[2], ARGV[2], -1)}
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
