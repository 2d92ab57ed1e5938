"""What Valkey does with limits, each script in one step. Decides by the same rule as `Limiter`; wording is left to it.

A subject has two keys. One holds its counts as five doubles: the minute they are of, requests, listings, tokens, and
requests of that minute's day. The other is a sorted set of the leases of what runs, by when they end in ms: a place
that is neither given back nor renewed comes back by itself. KEYS are the first of all subjects, then the second of all.

What costs is each command that a script runs, each argument, value, table and function that it makes: so numbers come
and go packed, and what scripts have in common is text. And with the first that is counted of a subject in a minute is
done what then holds for that minute: for how long both keys are kept, and that leases which are over are taken out;
which is done besides where they would have somebody refused.
"""

from mcp_gateway.core.valkey.client import Script

_TIME = r"""
if ARGV[3] then
  now = tonumber(ARGV[3])
else
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
"""
"""In ms, by Valkey's own clock, so that all replicas have the same minute; by the third argument where there is one."""

_MINUTE = r"""
minute = (now - now % 60000) / 60000
day = (minute - minute % 1440) / 1440
"""

_HELD = r"""
  local m, r, l, t, d = -1, 0, 0, 0, 0
  local held = redis.call('GET', KEYS[i])
  if held then m, r, l, t, d = struct.unpack('>ddddd', held) end
"""
"""What a subject has used, and the minute of that."""

_TURNED = r"""
  if m ~= minute then
    r, l, t = 0, 0, 0
    if (m - m % 1440) / 1440 ~= day then d = 0 end
  end
"""
"""That of the present minute."""

_KEPT = r"""
    local counts = struct.pack('>ddddd', minute, r, l, t, d)
    if m == minute then
      redis.call('SETRANGE', KEYS[i], 0, counts)
    else
      if lasts_ms == 0 then lasts_ms = (day + 1) * 86400000 - now + 60000 end
      redis.call('SET', KEYS[i], counts, 'PX', lasts_ms)
      redis.call('PEXPIRE', KEYS[n + i], ttl + 60000)
    end
"""

ADMIT = Script(
    "local now, minute, day"
    + _TIME
    + _MINUTE
    + r"""
local n, lease, subjects = #KEYS / 2, ARGV[2], {false}
local ttl, forced, requests, today, listings, tokens, known_minute, at = struct.unpack('>ddddddd', ARGV[1])
local is_known, is_of_day = known_minute == minute, (known_minute - known_minute % 1440) / 1440 == day
if forced == 1 and lease ~= '' and redis.call('ZSCORE', KEYS[n + 1], lease) then
  requests, today = 0, 0
end
local fits = 1
for i = 1, n do
  local rpm, rpd, tpm, cap, lpm, lasts_ms, known_r, known_d
  rpm, rpd, tpm, cap, lpm, lasts_ms, known_r, known_d, at = struct.unpack('>dddddddd', ARGV[1], at)
"""
    + _HELD
    + _TURNED
    + r"""
  if is_known and known_r > r then r = known_r end
  if is_of_day and known_d > d then d = known_d end
  local running = redis.call('ZCARD', KEYS[n + i])
  if running > 0 and (m ~= minute or running >= cap) then
    running = running - redis.call('ZREMRANGEBYSCORE', KEYS[n + i], '-inf', now)
  end
  if forced ~= 1 and (
    (requests > 0 and (r >= rpm or d >= rpd or running >= cap))
    or (listings > 0 and l >= lpm) or (tokens > 0 and t + tokens > tpm)
  ) then fits = 0 end
  subjects[i] = {m, r, l, t, d, running, lasts_ms}
end
local told = struct.pack('>i8i8', fits, now)
for i = 1, n do
  local m, r, l, t, d, running, lasts_ms = unpack(subjects[i])
  if fits == 1 then
    r, l, t, d = r + requests, l + listings, t + tokens, d + today
    if lease ~= '' then
      running = running + redis.call('ZADD', KEYS[n + i], now + ttl, lease)
      if running == 1 then redis.call('PEXPIRE', KEYS[n + i], ttl + 60000) end
    end
"""
    + _KEPT
    + r"""
  end
  told = told .. struct.pack('>i8i8i8i8i8', r, l, t, d, running)
end
return told
"""
)
"""Counts requests, listings or tokens of subjects where all of their limits leave room, and takes a place for a lease.

ARGV: terms; lease or empty; time. Terms are seven doubles: for how long the lease is in ms, 1 to count without asking
(what was admitted while Valkey was away; once, however often it comes), what to add to a minute's requests, a day's,
listings and tokens, and the minute of the counts that the asker knows. Then for each subject eight: the limits of
requests a minute and a day, tokens, places and listings, for how long its counts are kept in ms, 0 for until the day is
over, and the requests of that minute and its day that the asker knows of, which count even if Valkey has forgotten
them.

Returns integers of eight bytes: whether all of it was counted, the time in ms, and for each subject requests, listings,
tokens, requests today and places taken, as they are then.
"""

RELEASE = Script(
    r"""
local n, lease, tokens = #KEYS / 2, ARGV[1], ARGV[2]
if lease ~= '' then
  local had = 0
  for i = 1, n do had = had + redis.call('ZREM', KEYS[n + i], lease) end
  if had == 0 then return 0 end
end
if tokens == '' then return 1 end
local difference, reserved, ended, lasts_ms, ttl = struct.unpack('>ddddd', tokens)
for i = 1, n do
"""
    + _HELD
    + r"""
  local now, minute, day = nil, m, nil
  if ended > m then
"""
    + _TIME
    + _MINUTE
    + r"""
  end
"""
    + _TURNED
    + r"""
  if difference > 0 or minute == reserved then
    t = t + difference
    if t < 0 then t = 0 end
"""
    + _KEPT
    + r"""
  end
end
return 1
"""
)
"""Gives back a lease's places, once; and corrects the tokens of a reservation, which is of a minute that may be over.

ARGV: lease or empty for tokens alone; tokens or empty; time. Tokens are five doubles: what they were too few by, the
minute that they were reserved in, the one that they ended in by what the asker knows of Valkey's clock, for how long
counts are kept, as in ADMIT, and for how long a lease is in ms. They count where they ended, or in the minute of the
counts where that is later; the clock is looked at where it is earlier.
"""

RENEW = Script(
    "local now"
    + _TIME
    + r"""
for i = 1, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[i], ARGV[2] + 60000)
end
return redis.call('ZCARD', KEYS[1])
"""
)
"""Has a lease's places last on: KEYS are its sorted sets. Returns how many leases the first has.

ARGV: lease; for how long it is in ms; time.
"""

SCRIPTS = (ADMIT, RELEASE, RENEW)
