-- Inlined: charges a fixed window whatever is left: what fits at `t`, then the rest of the last
-- windowful, then whole windowfuls, each in the next window.
local fits = begin > t and 0 or math.min(math.max(has, 0), charge)
local rest, portion, at_most = 0, 0, now + LONGEST_DEBT
if capacity > 0 then rest, portion = charge - fits, (charge - fits) % capacity end
local windowfuls = rest > portion and (rest - portion) / capacity or 0
if rest > 0 and kind == CALENDAR then
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
  else
    windowfuls = 0
  end
end
x = counted > 0 and over or begin
if windowfuls > 0 and kind == FIXED and x <= at_most then
  x, windowfuls = x + math.min(windowfuls - 1, math.floor((at_most - x) / b)) * b, 1
end
while windowfuls > 0 and x <= at_most and not missing do
  until_at, charged, total = x, x, capacity
  --inline span.lua
  x, windowfuls = over, windowfuls - 1
end
x = math.max(stamp, until_at)
--inline span.lua
has = capacity - (charged >= begin and total or 0)
x = charged
--inline span.lua
full_at = total > 0 and over or 0
