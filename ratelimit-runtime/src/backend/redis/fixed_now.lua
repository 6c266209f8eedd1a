-- Inlined: a fixed window at `now`. From the rule, `newest` and `total` to `denied_until`, or to the `total` that is to be
-- kept; `left` of a denied call; `full_at`.

local per = b
local begin = now - now % per
if newest < begin then total = 0 end
total = total + cost
if total > capacity then
  denied_until, left = begin + per, capacity - total + cost
  if left < 0 then left = 0 end
else
  full_at = begin + per
end
