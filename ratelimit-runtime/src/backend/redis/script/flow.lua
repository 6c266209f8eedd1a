-- Inlined: refills the bucket up to `x`, from `last` and `owed` to `debt_at` and `debt`.
debt_at, debt = last, owed
if x >= last then
  local since = x - last
  local steps = (since - since % step) / step
  if steps * units >= owed then
    debt_at, debt = x, 0
  else
    debt = owed - steps * units
    -- A started step counts towards the remaining debt. If it could pay more than that, it is
    -- dropped.
    if debt < units then debt_at = x else debt_at = last + steps * step end
  end
end
