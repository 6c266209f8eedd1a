-- Inlined: a fixed window on the fast path, like sliding_now.lua.
local begin = t - t % per
counted = charged >= begin and total or 0
left = capacity - counted
if charge > left then
  until_at = begin + per
elseif fresh then
  counted = counted + charge
  if begin + per > fresh then fresh = begin + per end
end
