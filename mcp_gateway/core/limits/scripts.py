"""What Valkey does with limits, each script in one step. Decides by the same rule as `Limiter`; wording is left to it.

A subject has two keys. One holds its counts as five doubles: the minute they are of, requests, listings, tokens, and
requests of that minute's day. The other is a sorted set of the leases of what runs, by when they end in ms: a place
that is neither given back nor renewed comes back by itself. KEYS are the first of all subjects, then the second of all.

Time is ARGV[1] in ms, or Valkey's own where that is empty, so that all replicas have the same minute.
"""

from mcp_gateway.core.valkey.client import Script

_COUNTS = r"""
local n = #KEYS / 2
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local minute = math.floor(now / 60000)
local day = math.floor(minute / 1440)
local function read(key)
  local held = redis.call('GET', key)
  if not held then return 0, 0, 0, 0, false end
  local m, requests, listings, tokens, today = struct.unpack('>ddddd', held)
  if m ~= minute then
    requests, listings, tokens = 0, 0, 0
    if math.floor(m / 1440) ~= day then today = 0 end
  end
  return requests, listings, tokens, today, true
end
"""

ADMIT = Script(
    _COUNTS
    + r"""
local lease, ttl, forced = ARGV[2], ARGV[3], ARGV[4] == '1'
local requests, today, listings, tokens = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local known_minute = tonumber(ARGV[9])
if forced and lease ~= '' and redis.call('ZSCORE', KEYS[n + 1], lease) then
  requests, today = 0, 0
end
local fits, counts, lasts = 1, {}, {}
for i = 1, n do
  local r, l, t, d = read(KEYS[i])
  local rpm, rpd, tpm, cap, lpm, known_r, known_d, lasts_ms = struct.unpack('>dddddddd', ARGV[9 + i])
  if known_minute == minute then r = math.max(r, known_r) end
  if math.floor(known_minute / 1440) == day then d = math.max(d, known_d) end
  redis.call('ZREMRANGEBYSCORE', KEYS[n + i], '-inf', now)
  local running = redis.call('ZCARD', KEYS[n + i])
  if not forced and (
    (requests > 0 and (r >= rpm or d >= rpd or running >= cap))
    or (listings > 0 and l >= lpm) or (tokens > 0 and t + tokens > tpm)
  ) then fits = 0 end
  counts[i] = {r, l, t, d, running}
  lasts[i] = lasts_ms
end
if fits == 1 then
  for i = 1, n do
    local c = counts[i]
    c[1], c[2], c[3], c[4] = c[1] + requests, c[2] + listings, c[3] + tokens, c[4] + today
    local lasts_ms = lasts[i]
    if lasts_ms == 0 then lasts_ms = (day + 1) * 86400000 - now + 60000 end
    redis.call('SET', KEYS[i], struct.pack('>ddddd', minute, c[1], c[2], c[3], c[4]), 'PX', lasts_ms)
    if lease ~= '' then
      c[5] = c[5] + redis.call('ZADD', KEYS[n + i], now + ttl, lease)
      redis.call('PEXPIRE', KEYS[n + i], ttl)
    end
  end
end
local told = {fits, now}
for i = 1, n do
  for j = 1, 5 do told[#told + 1] = counts[i][j] end
end
return told
"""
)
"""Counts requests, listings or tokens of subjects where all of their limits leave room, and takes a place for a lease.

ARGV: time, lease or empty, its length in ms, 1 to count without asking (what was admitted while Valkey was away; once,
however often it comes), what to add to a minute's requests, a day's, listings and tokens, and the minute of the counts
that the asker knows; then for each subject eight doubles: the limits of requests a minute and a day, tokens, places and
listings, the requests of that minute and its day that the asker knows of, which count even if Valkey has forgotten
them, and for how long its counts are kept after the last, 0 for until the day is over.

Returns whether all of it was counted, the time in ms, and for each subject requests, listings, tokens, requests today
and places taken, as they are then.
"""

RELEASE = Script(
    _COUNTS
    + r"""
local lease, reserved, difference = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if lease ~= '' then
  local had = 0
  for i = 1, n do had = had + redis.call('ZREM', KEYS[n + i], lease) end
  if had == 0 then return 0 end
end
if difference > 0 or (difference < 0 and reserved == minute) then
  for i = 1, n do
    local r, l, t, d, is_held = read(KEYS[i])
    local counts = struct.pack('>ddddd', minute, r, l, math.max(0, t + difference), d)
    if is_held then
      redis.call('SET', KEYS[i], counts, 'KEEPTTL')
    else
      redis.call('SET', KEYS[i], counts, 'PX', 120000)
    end
  end
end
return 1
"""
)
"""Gives back a lease's places, once; and corrects the tokens of a reservation, which is of a minute that may be over.

ARGV: time, lease or empty for tokens alone, the minute that they were reserved in, and what they were too few by.
"""

RENEW = Script(
    r"""
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
for i = 1, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return redis.call('ZCARD', KEYS[1])
"""
)
"""Has a lease's places last on: KEYS are its sorted sets. Returns how many leases the first has."""

SCRIPTS = (ADMIT, RELEASE, RENEW)
