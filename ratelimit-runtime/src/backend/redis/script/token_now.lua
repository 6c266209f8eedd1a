-- Inlined: a token bucket on the fast path, like sliding_now.lua.
local x = t
--inline flow.lua
local over = debt - (capacity - charge) * permit
if over > 0 or not fresh or t > now then left = capacity - math.ceil(debt / permit) end
if over > 0 then
  until_at = math.min(debt_at + math.ceil(over / units) * step, FAR)
elseif fresh then
  debt = debt + charge * permit
  local full_at = debt_at + math.ceil(debt / units) * step
  if full_at > fresh then fresh = full_at end
  if fresh > FAR then fresh = FAR end
end
