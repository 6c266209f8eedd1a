-- Inlined: a token bucket at `now`. From the rule and `stored`, `was`, `last`, `debt`, `unit` to `denied_until`, or to the
-- `last` and `debt` that are to be kept; `left` and `full_at`. Breaks where it cannot.

local burst, units, permit, step = a, b, c, d
if stored then
  if was ~= TOKEN or unit ~= permit or debt > burst * permit or last > now then break end
  local steps = floor((now - last) / step)
  if steps >= ceil(debt / units) then
    last, debt = now, 0
  else
    debt = debt - steps * units
    last = debt < units and now or last + steps * step
  end
else
  last, debt = now, 0
end
local over = debt - (capacity - cost) * permit
if over > 0 then
  denied_until, left = min(last + ceil(over / units) * step, FAR), max(0, capacity - ceil(debt / permit))
else
  debt = debt + cost * permit
  left, full_at = capacity - ceil(debt / permit), min(last + ceil(debt / units) * step, FAR)
end
