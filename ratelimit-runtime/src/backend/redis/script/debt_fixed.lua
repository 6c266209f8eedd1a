-- Inlined: charges a fixed window whatever is left: what fits at `t`, then the rest of the last
-- windowful, then whole windowfuls, each in the next window.
local fits = begin > t and 0 or math.min(math.max(has, 0), charge)
local rest, portion, at_most = 0, 0, now + LONGEST_DEBT
if capacity > 0 then rest, portion = charge - fits, (charge - fits) % capacity end
until_at = t
if fits > 0 then charged, counted, total = t, counted + fits, counted + fits end
if portion > 0 then
  local next, held = begin + per, 0
  if begin > t and counted + portion <= capacity then next, held = begin, counted end
  if next <= at_most then
    until_at, charged, begin, counted, total = next, next, next, held + portion, held + portion
  end
end
if rest > portion and (portion == 0 or until_at > t) then
  local first = counted > 0 and begin + per or begin
  if first <= at_most then
    local more = math.min(math.floor(rest / capacity) - 1, math.floor((at_most - first) / per))
    until_at = first + more * per
    charged, total = until_at, capacity
  end
end
local ends = owes_alone and math.max(stamp, until_at) or stamp
has = capacity - (charged >= ends - ends % per and total or 0)
full_at = total > 0 and charged - charged % per + per or 0
