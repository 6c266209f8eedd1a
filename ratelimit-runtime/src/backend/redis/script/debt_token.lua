-- Inlined: charges a token bucket whatever is left: what fits at `t`, then the rest of the last
-- bucketful, then whole bucketfuls, each as soon as it fits.
local fits = math.min(math.max(has, 0), charge)
local rest, portion, at_most = 0, 0, now + LONGEST_DEBT
if capacity > 0 then rest, portion = charge - fits, (charge - fits) % capacity end
debt = debt + fits * permit
until_at = t
if portion > 0 then
  x = debt_at + math.ceil((debt - (capacity - portion) * permit) / units) * step
  if x <= at_most then
    until_at, last, owed = x, debt_at, debt
    --inline flow.lua
    debt = debt + portion * permit
  end
end
if rest > portion and (portion == 0 or until_at > t) then
  local first, interval = debt_at + math.ceil(debt / units) * step, math.ceil(capacity * permit / units) * step
  if first <= at_most then
    local more = math.min(math.floor(rest / capacity) - 1, math.floor((at_most - first) / interval))
    until_at = first + more * interval
    debt_at, debt = until_at, capacity * permit
  end
end
-- Nothing is charged: a later time would shorten what comes back.
if fits == 0 and until_at == t then debt_at, debt = last, owed end
hot = pack(TIMED_HOT, debt_at, debt)
if is_changed then cold = pack(TOKEN_COLD, TOKEN, permit, units, step) end
last, owed, x = debt_at, debt, math.max(stamp, until_at)
--inline flow.lua
has = capacity - math.ceil(debt / permit)
