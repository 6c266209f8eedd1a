-- The call, whatever it asks.

if action == RESET then
  call('DEL', bucket)
  return pack('<BI7', DONE, now)
end
if action == GIVE_BACK and cost == 0 then return pack('<BI7', DONE, now) end

local rules = {}
from = RULES_FROM
for position = 1, (asked - action) / 256 do
  kind, capacity, a, b, from = unpack_bytes(RULE, request, from)
  if kind == TOKEN then
    local permit, step
    permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
    rules[position] = { kind = TOKEN, capacity = capacity, burst = a, units = b, permit = permit, step = step }
  elseif kind == FIXED then
    rules[position] = { kind = FIXED, capacity = capacity, per = b }
  else
    rules[position] = { kind = SLIDING, layout = kind, capacity = capacity, group = a, per = b }
  end
end
local backoff, max_wait, lease, back_at = nil, 0, 0, 0
if action ~= TAKE_NOW or how == BACKOFF or how == WAITS then
  local initial, longest
  initial, longest, max_wait, from = unpack_bytes('<I7I7I7', request, from)
  if how == BACKOFF then backoff = { initial = initial, max = longest } end
  if leases then lease, back_at = initial, longest end
end
if action == TAKE_NOW then
  action = TAKE
elseif action == TAKE_RUN then
  action, cost = TAKE_RUNS, 1
end

stored = stored or call('GET', bucket) or ''
if stored ~= '' then read_record(stored) end
local seen = clock
advance(rules, backoff, now)

-- Keeps the record until all of it is as if nobody had called, in one command: no key is ever without an expiry.
local function keep()
  local fresh = newest
  for position, rule in ipairs(rules) do fresh = max(fresh, fresh_at(rule, states[position])) end
  if offences > 0 then fresh = max(fresh, min(offended + backoff.max, FAR)) end
  if fresh <= now then
    if stored ~= '' then call('DEL', bucket) end
    return
  end
  local kept = fresh + max(SLACK_LEAST, min(floor((fresh - now) / 2), SLACK_MOST))
  local record = plain(rules, kept) or full(rules)
  if tested == 0 then
    call('SET', bucket, record, 'PXAT', ceil(kept / 1000))
  else
    call('SET', bucket, record, 'PX', ceil((kept - now) / 1000) + TEST_SLACK)
  end
end

-- Nothing was charged: only the clock may have to be kept.
local function keep_clock()
  if stored ~= '' and (now < seen or now - seen > CLOCK_UNSEEN) then keep() end
end

local function admitted(at, admission, undo)
  admission = max(admission, newest)
  local limit, left = tightest(rules, admission)
  local fresh = fresh_at(rules[limit + 1], states[limit + 1])
  return pack(ADMISSION, ADMITTED, now, at, sequence, limit, left, fresh) .. (undo or '')
end

local function denied(limit, at)
  local left = (leases or newest <= now) and remaining(rules[limit + 1], states[limit + 1], now) or 0
  return pack(REFUSAL, at and DENIED or NEVER, now, limit, left, at or 0)
end

if action == GIVE_BACK then
  local at, taken, has_undo
  at, taken, has_undo, from = unpack_bytes('<I7I4B', request, from)
  if has_undo == 1 and taken == sequence and at == newest then
    undo_charge(rules, cost, request, from)
  elseif at <= now or leases then
    -- Where permits are leased, what is ahead is no longer only what bookings wait behind.
    refund(rules, now, at, cost)
  end
  keep()
  return pack('<BI7', DONE, now)
end

-- Many calls that came together, as runs of calls of one cost: each is decided as if it had come alone, one after the other
-- at the same time. Permits that fit are charged for a whole run at once, which leaves the same on record.
--
-- Those of a lease are charged as of the last moment at which they may be spent: so long after now as is asked, at most to
-- the end of a fixed window. What is left of the lease before, if anything, comes back first.
if action == TAKE_RUNS then
  local answers, changed, stamp = { pack('<BI7', RUNS, now) }, false, now
  if leases then
    local back_sequence, back
    back_sequence, back, from = unpack_bytes('<I4I4', request, from)
    -- One that is ahead of the record is of a record before it.
    if back > 0 and (sequence - back_sequence) % 4294967296 < 2147483648 then
      refund(rules, now, back_at, back)
      changed = true
    end
    local ends = now + lease
    for position, rule in ipairs(rules) do
      if rule.kind == FIXED then ends = min(ends, begin(states[position], now) + rule.per - 1) end
    end
    stamp = max(newest, ends)
    answers[1] = answers[1] .. pack('<I7I7', stamp, ends)
  end
  for _ = 1, cost do
    local each, calls
    each, calls, from = unpack_bytes('<I4I4', request, from)
    local at, limit = find(rules, each, now)
    local fit = 0
    if at == now then
      local _, room = tightest(rules, now)
      fit = min(calls, floor(room / each))
      charge(rules, stamp, stamp, fit * each)
      sequence, changed = (sequence + fit - 1) % 4294967296, true
      local tight, left = tightest(rules, now)
      local state = states[tight + 1]
      answers[#answers + 1] = pack(
        RUN_ADMITTED, fit, sequence, tight, left, fresh_at(rules[tight + 1], state), state.debt and state.last or 0,
        state.debt or 0
      )
    else
      answers[#answers + 1] = pack('<I4', 0)
    end
    -- Those that do not fit are all told the same, unless each makes it worse for the next.
    for _ = 1, backoff and calls - fit or min(1, calls - fit) do
      at, limit = find(rules, each, now)
      local left = (leases or newest <= now) and remaining(rules[limit + 1], states[limit + 1], now) or 0
      if at and backoff then
        deny(backoff, now)
        at, changed = max(at, blocked), true
      end
      answers[#answers + 1] = pack(RUN_DENIED, at and DENIED or NEVER, limit, left, at or 0)
    end
  end
  if changed then keep() else keep_clock() end
  return table.concat(answers)
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
if leases then
  local stamp = max(at, newest)
  charge(rules, stamp, stamp, cost)
  keep()
  now = stamp
  return admitted(stamp, stamp, nil)
end
local undo = charge(rules, at, now, cost)
keep()
return admitted(at, at, undo)
