-- Inlined: a token bucket, stored as the missing units and the time of the last change. A full
-- bucket is below 2^52 units, so every sum here is an exact integer.
local units = b
local permit, step
permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
local last, owed, unit = 0, 0, permit
if is_there then
  local was = TOKEN
  if is_changed then was, unit = unpack_bytes(TOKEN_COLD, stored, cold_at) end
  if was == TOKEN then last, owed = unpack_bytes(TIMED_HOT, stored, at) end
  if was ~= TOKEN then
    --inline convert.lua
    last, owed, unit = ahead and newest or now, math.min(taken * permit, FAR), permit
  elseif back > 0 then
    last, given_window = math.max(0, last - back), math.max(0, given_window - back)
  end
  if unit ~= permit then
    -- The same permits in the units of the current limit, rounded up: owed * permit / unit, bit by
    -- bit, because no double holds the product.
    local whole, rest = math.floor(owed / unit), owed % unit
    local bits, quotient, left_over = permit, 0, 0
    for bit = 51, 0, -1 do
      quotient, left_over = quotient * 2, left_over * 2
      if left_over >= unit then quotient, left_over = quotient + 1, left_over - unit end
      if bits >= 2 ^ bit then
        bits, left_over = bits - 2 ^ bit, left_over + rest
        if left_over >= unit then quotient, left_over = quotient + 1, left_over - unit end
      end
    end
    if left_over > 0 then quotient = quotient + 1 end
    owed = math.min(whole * permit + quotient, FAR)
  end
end
local x = t
--inline flow.lua
local missing = debt
-- A lease finds this much less room until a later change.
if leases and debt_at > t then missing = debt + math.ceil((debt_at - t) / step) * units end
has = capacity - math.ceil(missing / permit)
local over = missing - (capacity - charge - extra) * permit
if over > 0 and each <= capacity then
  local steps = math.ceil((debt - (capacity - charge - extra) * permit) / units)
  until_at = math.max(t, math.min(debt_at + steps * step, FAR))
  if until_at == t then until_at = t + 1 end
end
if is_booking and action == CHARGE then
  --inline debt_token.lua
elseif keeping then
  if undoing and not taken and not is_other then
    local _, was_last, was_owed, was_permit, was_units, was_step, was_given
    _, was_last, was_owed, was_permit, was_units, was_step, was_given, undo_at =
      unpack_bytes(UNDO_TOKEN, request, undo_at)
    -- If the limit was replaced meanwhile, the booking stays.
    if was_permit == permit and was_units == units and was_step == step then
      was_last = math.max(0, was_last - shift)
      --inline undo_token.lua
    end
  else
    -- Less the refill since.
    local real = math.max(0, back_cost * permit - math.max(0, math.ceil((now - back_at) / step)) * units)
    if ahead then
      if given == 0 then given_window = now end
      given = given + real
    end
    real = math.max(0, back_cost * permit - math.max(0, math.ceil((math.max(now, debt_at) - back_at) / step)) * units)
    debt = math.max(0, debt - real)
  end
  hot = pack(TIMED_HOT, debt_at, debt)
  if is_changed then cold = pack(TOKEN_COLD, TOKEN, permit, units, step) end
elseif charging and missing <= (capacity - charge) * permit then
  if stamp > now and not leases then
    if not ahead then given_window, given = 0, 0 end
    undo = undo .. pack(UNDO_TOKEN, TOKEN, last, owed, permit, units, step, given)
  end
  if stamp > t then
    x = stamp
    --inline flow.lua
  end
  debt = debt + charge * permit
  hot = pack(TIMED_HOT, debt_at, debt)
  if is_changed then cold = pack(TOKEN_COLD, TOKEN, permit, units, step) end
end
if debt > 0 then
  full_at = debt_at + math.ceil(debt / units) * step
elseif owed > 0 and not keeping then
  -- It is idle before the time judged.
  full_at = last + math.ceil(owed / units) * step
end
if full_at > FAR then full_at = FAR end
