-- What is on record for one bucket: the clock, the newest admission, the denials, and the state of each limit.

local clock, newest, lowest, sequence = 0, 0, 0, 0
local offences, offended, blocked = 0, 0, 0
local states = {}

local function slots_of(kind)
  --inline slot.lua
  return slot, width, round
end

-- The states of a PLAIN record of `count` limits whose fronts begin at `from`, and its clock; or nil where it is none.
local function read_plain(bytes, count, last_at, from)
  local read, ring_at = {}, #bytes + 1
  for position = 1, count do
    if from + FIXED_FRONT_BYTES > ring_at then return nil end
    local kind = unpack_bytes('<I2', bytes, from)
    local state
    if kind == TOKEN then
      if from + TOKEN_FRONT_BYTES > ring_at then return nil end
      state = { kind = TOKEN }
      kind, state.last, state.debt, state.unit, from = unpack_bytes(TOKEN_FRONT, bytes, from)
    elseif kind == FIXED then
      local per, total
      kind, per, total, from = unpack_bytes(FIXED_FRONT, bytes, from)
      if per == 0 then return nil end
      state = { kind = FIXED, per = per, total = total, first = 1, last = -1 }
      if total > 0 then state[1], state[2], state.last = last_at - last_at % per, total, 1 end
    elseif kind % 256 == SLIDING and kind > 255 then
      local total, last, head, used, slots
      kind, total, last, head, used, slots, from = unpack_bytes(SLIDING_FRONT, bytes, from)
      local slot, width, round = slots_of(kind)
      local ring_end = ring_at
      ring_at = ring_at - slots * width
      if kind ~= 256 * width or used > slots or head > slots or from > ring_at then return nil end
      local oldest = ring_at + head * width
      state = {
        unpack_bytes(
          '<' .. string.rep(sub(slot, 2), used), sub(bytes, oldest, ring_end - 1) .. sub(bytes, ring_at, oldest - 1)
        ),
      }
      for i = 1, 2 * used, 2 do state[i] = last_at - (last_at - state[i]) % round end
      state[2 * used + 1] = nil
      if last > 0 then
        state[2 * used + 1], state[2 * used + 2] = last_at, last
        used = used + 1
      end
      state.kind, state.total, state.first, state.last = SLIDING, total, 1, 2 * used - 1
    else
      return nil
    end
    read[position] = state
  end
  if from + KEPT_BYTES ~= ring_at then return nil end
  local _, seen = unpack_bytes(KEPT, bytes, from)
  return read, max(last_at, seen)
end

-- The same of the limits of a FULL record.
local function read_full(bytes, count, from)
  local read, size = {}, #bytes
  for position = 1, count do
    if from + FULL_GROUPS_BYTES > size + 1 then return nil end
    local kind = string.byte(bytes, from)
    if kind == TOKEN then
      if from + FULL_TOKEN_BYTES > size + 1 then return nil end
      local state = { kind = TOKEN }
      kind, state.last, state.debt, state.unit, from = unpack_bytes(FULL_TOKEN, bytes, from)
      read[position] = state
    elseif kind == SLIDING or kind == FIXED then
      local per, groups
      kind, per, groups, from = unpack_bytes(FULL_GROUPS, bytes, from)
      if per == 0 or from + groups * GROUP_BYTES > size + 1 then return nil end
      local state = { unpack_bytes('<' .. string.rep(GROUP, groups), bytes, from) }
      from = from + groups * GROUP_BYTES
      state[2 * groups + 1] = nil
      local total = 0
      for i = 2, 2 * groups, 2 do total = total + state[i] end
      state.kind, state.per, state.total, state.first, state.last = kind, per, total, 1, 2 * groups - 1
      read[position] = state
    else
      return nil
    end
  end
  return from == size + 1 and read or nil
end

local function read_record(bytes)
  if #bytes < HEAD_BYTES then return end
  local form, n, s, from = unpack_bytes(HEAD, bytes)
  local count = floor(form / 256)
  form = form % 256
  if form == PLAIN then
    local read, c = read_plain(bytes, count, n, from)
    if read then clock, newest, sequence, states = c, n, s, read end
  elseif form == FULL and #bytes >= HEAD_BYTES + FULL_HEAD_BYTES then
    local c, l, o, od, b
    c, l, o, od, b, from = unpack_bytes(FULL_HEAD, bytes, from)
    local read = read_full(bytes, count, from)
    if read then
      clock, newest, lowest, sequence, offences, offended, blocked, states = c, n, l, s, o, od, b, read
    end
  end
end

-- The front of a sliding window of a limit, and its ring; or nil where they cannot say it.
local function plain_window(rule, state)
  local slot, width, round = slots_of(rule.layout)
  local most = ({ [4] = 255, [5] = 255, [6] = 65535, [8] = 16777215, [12] = 1099511627775 })[width]
  local first, last, ring = state.first, state.last, {}
  if last < first then return pack(SLIDING_FRONT, rule.layout, 0, 0, 0, 0, 0), '' end
  if state[last] ~= newest or state.total > LARGEST or newest - state[first] >= round then return nil end
  for i = first, last - 2, 2 do
    if state[i + 1] > most then return nil end
    ring[i - first + 1], ring[i - first + 2] = state[i] % round, state[i + 1]
  end
  local used = (last - first) / 2
  return pack(SLIDING_FRONT, rule.layout, state.total, state[last + 1], 0, used, used),
    pack('<' .. string.rep(sub(slot, 2), used), unpack(ring))
end

-- The PLAIN record, or nil where it cannot say what there is.
local function plain(rules, kept)
  if lowest > 0 or offences > 0 or newest > clock then return nil end
  local parts, rings = { pack(HEAD, PLAIN + 256 * #states, newest, sequence) }, ''
  for position, state in ipairs(states) do
    local front
    if state.kind == TOKEN then
      front = pack(TOKEN_FRONT, TOKEN, state.last, state.debt, state.unit)
    elseif state.kind == FIXED then
      local groups, total = (state.last - state.first) / 2 + 1, 0
      if groups > 0 then total = state[state.last + 1] end
      if groups > 1 or total > LARGEST or (groups == 1 and state[state.last] ~= begin(state, newest)) then return nil end
      front = pack(FIXED_FRONT, FIXED, state.per, total)
    else
      local ring
      front, ring = plain_window(rules[position], state)
      if not front then return nil end
      rings = ring .. rings
    end
    parts[position + 1] = front
  end
  parts[#parts + 1] = pack(KEPT, kept, clock) .. rings
  return table.concat(parts)
end

local function full(rules)
  local parts = {
    pack(HEAD, FULL + 256 * #states, newest, sequence) .. pack(FULL_HEAD, clock, lowest, offences, offended, blocked),
  }
  for position, state in ipairs(states) do
    if state.kind == TOKEN then
      parts[position + 1] = pack(FULL_TOKEN, TOKEN, state.last, state.debt, state.unit)
    else
      local groups = (state.last - state.first) / 2 + 1
      parts[position + 1] = pack(FULL_GROUPS, state.kind, rules[position].per, groups)
        .. pack('<' .. string.rep(GROUP, groups), unpack(state, state.first, state.last + 1))
    end
  end
  return table.concat(parts)
end

-- The clock went back: ages are kept, as if no time had passed since it was read last.
local function shift_back(now)
  local by = clock - now
  newest, lowest = max(0, newest - by), max(0, lowest - by)
  offended, blocked = max(0, offended - by), max(0, blocked - by)
  for _, state in ipairs(states) do
    if state.kind == TOKEN then
      state.last = max(0, state.last - by)
    else
      local back = by
      -- Fixed windows move by whole windows.
      if state.kind == FIXED then back = max(0, begin(state, clock) - begin(state, now)) end
      for i = state.first, state.last, 2 do state[i] = max(0, state[i] - back) end
    end
  end
end

-- Brings the record to `now` and to the limits as they are.
local function advance(rules, backoff, now)
  if now < clock then shift_back(now) end
  clock = now
  for position, rule in ipairs(rules) do
    local kind, state = rule.kind, states[position]
    if not state or state.kind ~= kind or (kind == FIXED and state.per ~= rule.per) then
      if kind == TOKEN then
        state = { kind = TOKEN, last = 0, debt = 0, unit = 0 }
      else
        state = { kind = kind, per = rule.per, total = 0, first = 1, last = -1 }
      end
      states[position] = state
    end
    if kind == SLIDING then
      drop_until(state, now - rule.per)
    elseif kind == TOKEN then
      token_convert(rule, state)
    else
      drop_until(state, begin(state, now) - 1)
    end
  end
  for position = #rules + 1, #states do states[position] = nil end
  if not backoff or (offences > 0 and now >= offended + backoff.max) then offences, offended, blocked = 0, 0, 0 end
end

-- Permits that a limit has left at `from`.
local function remaining(rule, state, from)
  local kind, taken = rule.kind, nil
  if kind == SLIDING then
    taken = total_after(state, from - rule.per)
  elseif kind == TOKEN then
    local last, debt = token_at(rule, state, from)
    if leases and last > from then debt = debt + ceil((last - from) / rule.step) * rule.units end
    taken = ceil(debt / rule.permit)
  else
    taken = fixed_taken(state, from)
  end
  return max(0, rule.capacity - taken)
end

-- When a limit is as if nobody had called.
local function fresh_at(rule, state)
  if rule.kind == TOKEN then
    if state.debt == 0 then return 0 end
    return min(state.last + ceil(state.debt / rule.units) * rule.step, FAR)
  end
  if state.last < state.first then return 0 end
  return state[state.last] + rule.per
end

-- Position, from 0, of the limit with the fewest permits left at `from`, and these.
local function tightest(rules, from)
  if #rules == 1 then return 0, remaining(rules[1], states[1], from) end
  local tight, least = 0, FAR
  for position, rule in ipairs(rules) do
    local left = remaining(rule, states[position], from)
    if left < least then tight, least = position - 1, left end
  end
  return tight, least
end

-- The first moment from `now` on at which `cost` fits, and the position of the limit that decides it; instead of the
-- moment nil where that limit can never hold as much.
--
-- Who leases is decided on at `now`, with all that is charged for later: what is ahead counts, and denies only by that. In
-- no period are more spent than fit: of those that are spent in one, look at what was decided last. It was decided at most
-- a period after the others were spent, so it has counted them, because none is charged as of a time before it is spent.
local function find(rules, cost, now)
  if cost == 0 then return now, 0 end
  for position, rule in ipairs(rules) do
    if cost > rule.capacity then return nil, position - 1 end
  end
  local from = max(now, newest, blocked)
  if leases then
    from = max(now, lowest)
    -- A window has no room for what comes before a booking in a later one.
    for position, rule in ipairs(rules) do
      if rule.kind == FIXED and newest >= begin(states[position], from) + rule.per then from = max(from, newest) end
    end
  end
  local found, limit = from, nil
  for position, rule in ipairs(rules) do
    local at
    if rule.kind == SLIDING then
      at = sliding_earliest(rule, states[position], from, cost)
    elseif rule.kind == TOKEN then
      at = token_earliest(rule, states[position], from, cost)
    else
      at = fixed_earliest(rule, states[position], from, cost)
    end
    if at > found then found, limit = at, position - 1 end
  end
  if not limit and found > now then limit = tightest(rules, from) end
  return found, limit
end

-- Charges all limits; returns what takes the charge back, for one that is booked ahead.
local function charge(rules, at, now, cost)
  local booked = at > now
  local undo = booked and { pack('<BI7', 1, newest) } or nil
  for position, rule in ipairs(rules) do
    local state, before, dropped = states[position], nil, nil
    if rule.kind == SLIDING then
      local previous = sliding_charge(rule, state, at, cost)
      if booked then before = pack('<BI7', SLIDING, previous) end
      dropped = bound(state, at - rule.per)
    elseif rule.kind == TOKEN then
      if booked then before = pack('<BI7I7I7', TOKEN, state.last, state.debt, state.unit) end
      state.last, state.debt = token_at(rule, state, at)
      state.debt = state.debt + cost * rule.permit
    else
      fixed_charge(state, at, cost)
      if booked then before = pack('<B', FIXED) end
      dropped = bound(state, begin(state, at) - 1)
    end
    if booked then undo[position + 1] = before end
    if dropped then lowest = max(lowest, dropped + rule.per) end
  end
  sequence = (sequence + 1) % 4294967296
  newest = at
  return booked and table.concat(undo) or nil
end

-- Takes back the newest charge, from what `charge` returned, at `from` in the request.
local function undo_charge(rules, cost, request, from)
  local previous_newest
  previous_newest, from = unpack_bytes('<I7', request, from)
  for position = 1, #rules do
    if from > #request then break end
    local state, kind, last, debt, unit = states[position], string.byte(request, from), nil, nil, nil
    from = from + 1
    if kind == SLIDING then
      last, from = unpack_bytes('<I7', request, from)
      if state.kind == SLIDING then extend_last(state, last, -cost) end
    elseif kind == TOKEN then
      last, debt, unit, from = unpack_bytes('<I7I7I7', request, from)
      -- Where the limit was replaced meanwhile, what was booked stays booked.
      if state.kind == TOKEN and state.unit == unit then state.last, state.debt = last, debt end
    elseif state.kind == FIXED then
      extend_last(state, state[state.last], -cost)
    end
  end
  sequence = (sequence - 1) % 4294967296
  newest = max(previous_newest, lowest)
end

-- Gives back `cost` permits that were taken at `at`, from every limit where they still count.
local function refund(rules, now, at, cost)
  for position, rule in ipairs(rules) do
    local state = states[position]
    if rule.kind == TOKEN then
      token_refund(rule, state, now, at, cost)
    elseif rule.kind == SLIDING then
      -- What counts no more is in no group, and what counts no more at `lowest` may be in none.
      local i = at + rule.per > max(now, lowest) and take_from(state, at, cost)
      if i then close_hole(state, i, rule.group, now) end
    else
      local start = begin(state, at)
      for i = state.first, state.last, 2 do
        if state[i] == start then
          take_from(state, start, cost)
          break
        end
      end
    end
  end
end

local function deny(backoff, now)
  local block = min(backoff.initial * 2 ^ min(offences, 63), backoff.max)
  offences = min(offences + 1, 4294967295)
  offended, blocked = now, min(now + block, FAR)
end
