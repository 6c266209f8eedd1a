-- Inlined: a fixed window. Windows are aligned to the Unix epoch. Permits of the last charge count
-- in the window that contains it under the current period.
local per = b
local charged, total = 0, 0
if is_there then
  local was, per_was = FIXED, per
  if is_changed then was, per_was = unpack_bytes(FIXED_COLD, stored, cold_at) end
  if was == FIXED then
    charged, total = unpack_bytes(FIXED_HOT, stored, at)
  elseif was == CALENDAR then
    local ended
    charged, total, ended = unpack_bytes(CALENDAR_HOT, stored, at)
    if back > 0 then
      charged, total = math.min(charged, now), ended > clock and total or 0
      if total == 0 then charged = 0 end
    end
  end
  if was ~= FIXED and was ~= CALENDAR then
    --inline convert.lua
    charged, total = ahead and newest or now, taken
  elseif back > 0 and was == FIXED then
    charged = math.max(0, charged - (clock - clock % per_was - (now - now % per_was)))
  end
end
local begin = t - t % per
-- Nothing fits into a window before a later booking, or before a charge after which the clock went
-- back.
if charged >= begin + per then begin = charged - charged % per end
local counted = charged >= begin and total or 0
has = capacity - counted
full_at = total > 0 and charged - charged % per + per or 0
if counted + charge + extra > capacity and each <= capacity then
  until_at = begin + per
elseif begin > t then
  until_at, is_early = begin, true
end
local is_new = keeping or action == CHARGE
if action == CHARGE then
  --inline debt_fixed.lua
elseif keeping then
  if undoing and not taken and not is_other then
    local _, was_charged, was_total, was_per, was_window, was_given
    _, was_charged, was_total, was_per, was_window, was_given, undo_at = unpack_bytes(UNDO_FIXED, request, undo_at)
    if was_per == per then
      if was_window ~= given_window then was_given = 0 end
      charged, total = math.min(math.max(0, was_charged - shift), charged), was_total
      if charged - charged % per == given_window then total = math.max(0, total - given + was_given) end
    end
  else
    local window = back_at - back_at % per
    if window == charged - charged % per then total = math.max(0, total - back_cost) end
    if ahead and window == now - now % per then
      if given_window ~= window then given_window, given = window, 0 end
      given = given + back_cost
    end
  end
elseif charging and counted + charge <= capacity then
  if leases and begin + per - 1 < ends then ends = begin + per - 1 end
  if stamp > now and not leases then
    if not ahead then given_window, given = 0, 0 end
    undo = undo .. pack(UNDO_FIXED, FIXED, charged, total, per, given_window, given)
  end
  begin = stamp - stamp % per
  full_at = begin + per
  charged, total, is_new = stamp, (charged >= begin and total or 0) + charge, true
end
if is_new then
  hot = pack(FIXED_HOT, charged, total)
  if is_changed then cold = pack(FIXED_COLD, FIXED, per) end
end
if charged > now then is_later = true end
