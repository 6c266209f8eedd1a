-- Inlined: a fixed window on the fast path, like sliding_now.lua.
local begin = now - now % per
if charged < begin then total = 0 end
total = total + charge
if total > capacity then
  until_at, left = begin + per, capacity - total + charge
elseif fresh and begin + per > fresh then
  fresh = begin + per
end
