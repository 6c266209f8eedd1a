-- Inlined: a fixed window on the fast path, like sliding_now.lua: from `last` and `owed`, the last
-- charge and the permits in its window, to `debt_at` and `debt`.
local begin = t - t % per
debt_at, debt = t, last >= begin and owed or 0
left = capacity - debt
if charge > left then
  until_at = begin + per
elseif fresh then
  debt = debt + charge
  if begin + per > fresh then fresh = begin + per end
end
