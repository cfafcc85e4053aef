"""The Lua side of the leases: what all replicas share of a limit, decided by the server and by its clock alone.

One hash holds one scope (a key, a tenant, a model, the fleet, OpenAI's own limit of a model):

    requests, tokens    what nobody holds: below zero while somebody owes
    at                  server milliseconds of the two numbers
    rpm, tpm, seen      the limits, and when OpenAI told them
    off, toff           how far the two numbers were corrected by what OpenAI said is left
    l:<replica>         a lease: what a replica holds, until when, and what it waits for, its place among those who wait

What is left of a limit at any moment is what nobody holds plus what the leases hold, and that sum never grows beyond
one minute's worth. So however the replicas share it, they grant together what one bucket would. A lease that is not
renewed in time is struck out: what it held counts as used, since a replica that died may have used it, and as used at
its end, since until then it may have been there.

A hash has no TTL: Valkey serverless evicts volatile keys first, and an evicted bucket would be a full one. SWEEP
removes full ones. Every number of time comes from the server; one that goes back refills nothing.
"""

from __future__ import annotations

from app.valkey.client import Script

KEY_PREFIX = "{limit:"
FIELDS = 26
"""Numbers that a replica sends for one scope. Six triples of requests, tokens and streams: its limits (0 = none, below
zero = those that OpenAI told some replica), what it still holds, what it gives back (below zero: what it owes; in place
of streams who waits: 0 nobody, 2 background work alone, 1 others), what its first waiter lacks, what all its waiters
lack, and what it would like to hold ahead of them. Then what OpenAI told it: a limit of requests, of tokens, how many
milliseconds ago (below zero = nothing); what is left at most of either (below zero = nothing known), milliseconds in
which nobody may call; and how far the count of either is corrected at least."""

LEASE = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, lease_ms, stride = 'l:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local names = {'requests', 'tokens'}
local answers = {}

local function load(key)
  local kind = redis.call('TYPE', key)['ok']
  local state, leases, struck = {}, {}, {0, 0, at = 0}
  if kind ~= 'hash' then
    -- Something that is no bucket is one that was emptied: full buckets are for scopes nobody has seen yet.
    if kind ~= 'none' then redis.call('DEL', key) end
    return state, leases, kind == 'none', struck
  end
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'l:' then
      local lease = {}
      for word in string.gmatch(all[i + 1], '%S+') do lease[#lease + 1] = tonumber(word) end
      if #lease == 11 and lease[4] > now then
        -- A clock that was put back must not keep a dead replica's lease for longer than any other.
        if lease[4] > now + lease_ms then
          lease[4] = now + lease_ms
          redis.call('HSET', key, all[i], table.concat(lease, ' '))
        end
        leases[all[i]] = lease
      else
        if #lease == 11 then
          struck[1], struck[2], struck.at = struck[1] + lease[1], struck[2] + lease[2], math.max(struck.at, lease[4])
        end
        redis.call('HDEL', key, all[i])
      end
    else
      state[all[i]] = tonumber(all[i + 1])
    end
  end
  return state, leases, false, struck
end

for k = 1, #KEYS do
  local base = 3 + (k - 1) * stride
  local function arg(group, d) return tonumber(ARGV[base + group * 3 + d]) end
  local state, leases, fresh, struck = load(KEYS[k])
  local mine = leases[me]
  -- Replicas that wait take turns in proportion to what they wait for: each turn moves the one that had it back.
  local since = mine and mine[11] > 0 and mine[11]
  if not since then
    for name, lease in pairs(leases) do
      if lease[11] > 0 and (not since or lease[11] < since) then since = lease[11] end
    end
    since = since or 1
  end
  local out, wanted, first, live = {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, 0
  for name, lease in pairs(leases) do
    if name ~= me then
      live = live + 1
      local earlier = lease[11] > 0 and (lease[11] < since or (lease[11] == since and name < me))
      for d = 1, 3 do
        out[d] = out[d] + lease[d]
        wanted[d] = wanted[d] + lease[4 + d]
        if earlier then first[d] = first[d] + lease[7 + d] end
      end
    end
  end

  local limits, steered = {arg(0, 1), arg(0, 2), arg(0, 3)}, arg(0, 1) < 0
  local known = {state.rpm or 0, state.tpm or 0}
  if steered then
    limits = {known[1], known[2], 0}
    if arg(6, 3) >= 0 and now - arg(6, 3) >= (state.seen or 0) then
      limits = {arg(6, 1), arg(6, 2), 0}
      state.seen = now - arg(6, 3)
    end
  end
  local offsets = {state.off or 0, state.toff or 0}
  local at = state.at or now
  -- What refilled a bucket while a lease still held its part is less than what refills one without it.
  local before = math.max(0, math.min(struck.at, now) - at) / 60000
  local minutes = math.max(0, now - math.max(at, struck.at)) / 60000
  local level, granted, spare, fits = {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, true
  for d = 1, 3 do
    local limit, left = limits[d], arg(1, d)
    if limit > 0 then
      if d == 3 then
        level[d] = limit - out[d] - left
      else
        local have = state[names[d]]
        if have == nil then have = fresh and limit or 0 end
        if steered and known[d] == 0 then have = limit end
        local others = limit - out[d] - (mine and mine[d] or 0)
        have = math.min(others, math.min(others - struck[d], have + before * limit) + minutes * limit)
        have = math.min(limit - out[d] - left, have + arg(2, d))
        if steered then
          -- Only ever down: too low an estimate costs a burst, and no throughput, as the bucket refills all the same.
          local offset, most = arg(8, d), arg(7, d)
          if offset < offsets[d] then have, offsets[d] = have + offset - offsets[d], offset end
          if most >= 0 then have = math.min(have, most - out[d] - left) end
          if arg(7, 3) > 0 then have = math.min(have, -limit * arg(7, 3) / 60000) end
        end
        level[d] = math.max(-limit, have)
      end
      -- Background work leaves a twentieth, so that others find something at once.
      spare[d] = first[d] + ((arg(2, 3) == 2 and d < 3) and limit / 20 or 0)
      if level[d] - spare[d] < arg(3, d) then fits = false end
    end
  end

  local waiting = arg(2, 3) > 0
  local served = fits
  if waiting and fits then
    for d = 1, 3 do
      if limits[d] > 0 then
        local free, need = level[d] - spare[d], arg(4, d)
        local share = need > 0 and math.floor(free * need / (need + wanted[d])) or 0
        granted[d] = math.min(need, math.max(arg(3, d), share))
        if granted[d] < need then served = false end
      end
    end
  end
  -- Ahead of any need only what is plenty: a quarter of the rest by its pace, a little where one just began.
  if served and wanted[1] == 0 then
    for d = 1, 3 do
      if limits[d] > 0 then
        local rest = math.max(0, level[d] - granted[d])
        local ahead = math.min(arg(5, d), rest / 4)
        if waiting then ahead = math.max(ahead, math.min(rest / 64, limits[d] / 64)) end
        granted[d] = granted[d] + math.floor(ahead)
      end
    end
  end

  local lease, kept = {}, false
  for d = 1, 3 do
    level[d] = level[d] - granted[d]
    lease[d] = arg(1, d) + granted[d]
    if lease[d] ~= 0 then kept = true end
  end
  lease[4] = now + lease_ms
  for d = 1, 3 do
    lease[4 + d] = math.max(0, arg(4, d) - granted[d])
    lease[7 + d] = math.min(arg(3, d), lease[4 + d])
  end
  if not waiting or served then
    for i = 5, 11 do lease[i] = 0 end
  else
    local moved = 0
    for d = 1, 2 do
      if arg(4, d) > 0 and limits[d] > 0 then moved = math.max(moved, granted[d] / arg(4, d)) end
    end
    lease[11] = since + moved
    kept = true
  end
  if kept then
    redis.call('HSET', KEYS[k], me, table.concat(lease, ' '))
  elseif mine then
    redis.call('HDEL', KEYS[k], me)
  end
  redis.call('HSET', KEYS[k], 'requests', string.format('%.3f', level[1]), 'tokens', string.format('%.3f', level[2]),
    'at', string.format('%d', now), 'rpm', limits[1], 'tpm', limits[2])
  if steered then
    redis.call('HSET', KEYS[k], 'seen', string.format('%d', state.seen or 0), 'off', string.format('%.3f', offsets[1]),
      'toff', string.format('%.3f', offsets[2]))
  end
  answers[k] = table.concat({granted[1], granted[2], granted[3], string.format('%.3f', level[1]),
    string.format('%.3f', level[2]), string.format('%.3f', level[3]), out[1], out[2], first[1], first[2], first[3],
    wanted[1], wanted[2], wanted[3], live, limits[1], limits[2], offsets[1], offsets[2]}, ' ')
end
return answers
"""
)

ANSWERS = 19
"""Numbers that come back for one scope: triples of what was granted and of what nobody holds, what the others hold
(requests, tokens), triples of what goes to those who waited for longer and of what the others wait for, how many
others there are, the limits in force and the corrections (requests, tokens)."""

SWEEP = Script(
    """
if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' then return redis.call('DEL', KEYS[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local state, struck = {}, 0
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 2) == 'l:' then
    local words = {}
    for word in string.gmatch(all[i + 1], '%S+') do words[#words + 1] = tonumber(word) end
    if (words[4] or 0) > now then return 0 end
    struck = math.max(struck, words[4] or 0)
  else
    state[all[i]] = tonumber(all[i + 1])
  end
end
local minutes = math.max(0, now - math.max(state.at or now, struck)) / 60000
for name, limit in pairs({requests = state.rpm or 0, tokens = state.tpm or 0}) do
  if limit > 0 and (state[name] or limit) + minutes * limit < limit then return 0 end
end
return redis.call('DEL', KEYS[1])
"""
)

SCRIPTS = (LEASE, SWEEP)
