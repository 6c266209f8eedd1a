-- Inlined: a fixed window: aligned to the Unix epoch, or of a calendar. Permits of the last charge
-- count in the window that contains it under the current period.
local begin, over, x, from_at, to_at
if kind == CALENDAR then
  -- The request carries the boundaries (`spans`) that `calendars.rs` writes.
  from_at, to_at = spans_at + 6, spans_at + unpack_bytes('<I2', spans, spans_at) * 7 - 8
  spans_at = to_at + 14
  if unpack_bytes('<I7', spans, from_at) > now then missing = missing or now end
  -- A missing boundary must be found before any pass has written.
  x = math.max(now, newest)
  if leases and now + initial > x then x = now + initial end
  --inline span.lua
end
local charged, total = 0, 0
if is_there then
  local was, per_was, ended = kind, b, 0
  if is_changed then was, per_was = unpack_bytes(FIXED_COLD, stored, cold_at) end
  if was == CALENDAR then
    charged, total, ended = unpack_bytes(CALENDAR_HOT, stored, at)
  elseif was == FIXED then
    charged, total = unpack_bytes(TIMED_HOT, stored, at)
  else
    --inline convert.lua
    charged, total = ahead and newest or now, taken
  end
  if back > 0 and was == FIXED then
    charged = math.max(0, charged - (clock - clock % per_was - (now - now % per_was)))
  elseif back > 0 and was == CALENDAR and ended <= clock then
    charged, total = 0, 0
  elseif back > 0 and was == CALENDAR and kind == FIXED then
    charged = math.min(charged, now)
  elseif back > 0 and was == CALENDAR then
    x = now
    --inline span.lua
    if charged >= over then charged = charged > clock and over or math.max(begin, charged - back) end
  end
end
x = t
--inline span.lua
-- Nothing fits into a window before a later booking, or before a charge after which the clock went
-- back.
if charged >= over then
  x = charged
  --inline span.lua
end
local counted = charged >= begin and total or 0
has = capacity - counted
if counted > 0 then
  full_at = over
elseif total > 0 and kind == FIXED then
  full_at = charged - charged % b + b
end
if counted + charge + extra > capacity and each <= capacity then
  until_at = over
elseif begin > t then
  until_at, is_early = begin, true
end
local is_new = keeping or is_booking and action == CHARGE
if is_booking and action == CHARGE then
  --inline debt_fixed.lua
elseif keeping then
  if undoing and not taken and not is_other then
    local _, was_charged, was_total, was_per, was_window, was_given
    _, was_charged, was_total, was_per, was_window, was_given, undo_at = unpack_bytes(UNDO_FIXED, request, undo_at)
    if was_per == b then
      if was_window ~= given_window then was_given = 0 end
      charged, total = math.min(math.max(0, was_charged - shift), charged), was_total
      x = charged
      --inline span.lua
      if begin == given_window then total = math.max(0, total - given + was_given) end
    end
  else
    x = back_at
    --inline span.lua
    local window = begin
    x = charged
    --inline span.lua
    -- Nothing comes back to a calendar's window that has ended: its start may be unknown.
    if window == begin and (kind == FIXED or over > now) then total = math.max(0, total - back_cost) end
    x = now
    --inline span.lua
    if ahead and window == begin then
      if given_window ~= window then given_window, given = window, 0 end
      given = given + back_cost
    end
  end
  x = charged
  --inline span.lua
elseif charging and counted + charge <= capacity then
  if leases and over - 1 < ends then ends = over - 1 end
  if stamp > now and not leases then
    if not ahead then given_window, given = 0, 0 end
    undo = undo .. pack(UNDO_FIXED, FIXED, charged, total, b, given_window, given)
  end
  x = stamp
  --inline span.lua
  full_at = over
  charged, total, is_new = stamp, (charged >= begin and total or 0) + charge, true
end
if is_new then
  -- A calendar's window is stored with its end, which other limits do not know.
  hot = kind == FIXED and pack(TIMED_HOT, charged, total) or pack(CALENDAR_HOT, charged, total, over)
  if is_changed then cold = pack(FIXED_COLD, kind, b) end
end
if charged > now then is_later = true end
