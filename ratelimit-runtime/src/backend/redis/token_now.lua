-- Inlined: a token bucket at `now`. From the rule and, where `size` says that there is one on record, `was`, `debt_at`,
-- `debt` and `unit` to `denied_until`, or to the `debt_at` and `debt` that are to be kept; `left` of a denied call;
-- `full_at`. Breaks where it cannot.

local burst, units = a, b
if size > 0 then
  if was ~= TOKEN or unit ~= permit or debt > burst * permit or debt_at > now then break end
  local since = now - debt_at
  local steps = (since - since % step) / step
  local paid = steps * units
  if paid >= debt then
    debt_at, debt = now, 0
  else
    debt = debt - paid
    -- A begun step counts for the debt that is left; where it could pay more than that, it is forgotten.
    if debt < units then debt_at = now else debt_at = debt_at + steps * step end
  end
else
  debt_at, debt = now, 0
end
local over = debt - (capacity - cost) * permit
if over > 0 then
  denied_until = math.min(debt_at + math.ceil(over / units) * step, FAR)
  left = math.max(0, capacity - math.ceil(debt / permit))
else
  debt = debt + cost * permit
  local begun = debt % units
  full_at = (debt - begun) / units
  if begun > 0 then full_at = full_at + 1 end
  full_at = debt_at + full_at * step
  if full_at > FAR then full_at = FAR end
end
