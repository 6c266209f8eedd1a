-- The call: KEYS[1] is the bucket, ARGV[1] what is asked.

local TAKE, PEEK, GIVE_BACK, RESET = 0, 1, 2, 3
local ADMITTED, DENIED, NEVER, DONE = 0, 1, 2, 3

-- A clock that is not written down for longer than this, because nothing was charged, is written down by a denial: so much
-- of a jump back may go unseen.
local CLOCK_UNSEEN = 1000000
-- How much longer than it counts the state of a test is kept: the test's clock stands still while the server's goes on.
local TEST_SLACK = 3600000

local bucket, request = KEYS[1], ARGV[1]
local action, limits, has_time, has_backoff, now, initial, longest, cost, max_wait, from =
  unpack_bytes('<BBBBI7I7I7I4I7', request)
local tested = has_time == 1
if not tested then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

if action == RESET then
  redis.call('DEL', bucket)
  return pack('<BI7', DONE, now)
end
if action == GIVE_BACK and cost == 0 then return pack('<BI7', DONE, now) end

local rules = {}
for position = 1, limits do
  local kind, capacity, a, b, c, d
  kind, capacity, a, b, c, d, from = unpack_bytes('<BI4I4I7I7I7', request, from)
  if kind == TOKEN then
    rules[position] = { kind = kind, capacity = capacity, burst = a, units = b, permit = c, step = d }
  else
    rules[position] = { kind = kind, capacity = capacity, group = a, per = b }
  end
end
local backoff = has_backoff == 1 and { initial = initial, max = longest } or nil

local stored = redis.call('GET', bucket)
if stored then read_record(stored) end
local seen = clock
advance(rules, backoff, now)

-- Keeps the record until all of it is as if nobody had called, in one command: no key is ever without an expiry.
local function keep()
  local fresh = newest
  for position, rule in ipairs(rules) do fresh = max(fresh, fresh_at(rule, states[position])) end
  if offences > 0 then fresh = max(fresh, min(offended + backoff.max, FAR)) end
  if fresh <= now then
    if stored then redis.call('DEL', bucket) end
  elseif tested then
    redis.call('SET', bucket, write_record(), 'PX', ceil((fresh - now) / 1000) + TEST_SLACK)
  else
    redis.call('SET', bucket, write_record(), 'PXAT', ceil(fresh / 1000))
  end
end

-- Nothing was charged: only the clock may have to be kept.
local function keep_clock()
  if stored and (now < seen or now - seen > CLOCK_UNSEEN) then keep() end
end

local function admitted(at, admission, undo)
  admission = max(admission, newest)
  local limit, left = tightest(rules, admission)
  local fresh = fresh_at(rules[limit + 1], states[limit + 1])
  return pack('<BI7I7I4BI4I7', ADMITTED, now, at, sequence, limit, left, fresh) .. (undo or '')
end

local function denied(limit, at)
  local left = newest <= now and remaining(rules[limit + 1], states[limit + 1], now) or 0
  return pack('<BI7BI4I7', at and DENIED or NEVER, now, limit, left, at or 0)
end

if action == GIVE_BACK then
  local at, taken, has_undo
  at, taken, has_undo, from = unpack_bytes('<I7I4B', request, from)
  if has_undo == 1 and taken == sequence and at == newest then
    undo_charge(rules, cost, request, from)
  elseif at <= now then
    refund(rules, now, at, cost)
  end
  keep()
  return pack('<BI7', DONE, now)
end

local at, limit = find(rules, cost, now)
if not at then
  if action == TAKE then keep_clock() end
  return denied(limit, nil)
end
if at - now > max_wait then
  if action == TAKE then
    if backoff then
      deny(backoff, now)
      at = max(at, blocked)
      keep()
    else
      keep_clock()
    end
  end
  return denied(limit, at)
end
if action == PEEK then return admitted(at, at, nil) end
if cost == 0 then
  keep_clock()
  return admitted(now, now, nil)
end
local undo = charge(rules, at, now, cost)
keep()
return admitted(at, at, undo)
