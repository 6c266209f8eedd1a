-- Inlined: charges a calendar's windows whatever is left, like debt_fixed.lua.
local fits = begin > t and 0 or math.min(math.max(has, 0), charge)
local rest, portion, at_most = 0, 0, now + LONGEST_DEBT
if capacity > 0 then rest, portion = charge - fits, (charge - fits) % capacity end
if rest > 0 then
  -- The boundaries must cover the whole debt.
  x = math.min(at_most, math.max(t, charged) + (math.floor(rest / capacity) + 2) * b)
  --inline span.lua
  x = charged > t and charged or t
  --inline span.lua
end
until_at = t
if fits > 0 then charged, counted, total = t, counted + fits, counted + fits end
if portion > 0 then
  local next, held = over, 0
  if begin > t and counted + portion <= capacity then next, held = begin, counted end
  if next <= at_most then
    until_at, charged, counted, total = next, next, held + portion, held + portion
    x = next
    --inline span.lua
  end
end
if rest > portion and (portion == 0 or until_at > t) then
  local windowfuls = math.floor(rest / capacity)
  x = counted > 0 and over or begin
  while windowfuls > 0 and x <= at_most and not missing do
    until_at, charged, total = x, x, capacity
    --inline span.lua
    x, windowfuls = over, windowfuls - 1
  end
end
x = owes_alone and math.max(stamp, until_at) or stamp
--inline span.lua
has = capacity - (charged >= begin and total or 0)
x = charged
--inline span.lua
full_at = total > 0 and over or 0
