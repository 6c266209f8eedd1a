-- The token bucket, kept as the units that are missing from it and the time of the last change.
--
-- A rule `r` has `units` that flow back every `step` microseconds, and the units of a `permit`. A full bucket is below
-- 2^52 units, so that every sum here is an exact integer.

-- Time and debt at `at`, which is not before the last change.
local function token_at(r, s, at)
  local last, debt, units, step = s.last, s.debt, r.units, r.step
  if at < last then return last, debt end
  local steps = floor((at - last) / step)
  if steps >= ceil(debt / units) then return at, 0 end
  debt = debt - steps * units
  -- A begun step counts for the debt that is left; where it could pay more than that, it is forgotten.
  if debt < units then return at, debt end
  return last + steps * step, debt
end

-- The first moment at or after `from` at which `cost` more permits fit. Where the last change is still to come, as only a
-- lease finds it, the bucket has so much less to hold until then.
local function token_earliest(r, s, from, cost)
  local last, debt = token_at(r, s, from)
  local over = debt - (r.capacity - cost) * r.permit
  if leases and last > from then return max(from, min(last + ceil(over / r.units) * r.step, FAR)) end
  if over <= 0 then return from end
  return min(last + ceil(over / r.units) * r.step, FAR)
end

-- Reads the state by the limit as it is now: a changed limit has other units, and a bucket holds no more than `burst`.
local function token_convert(r, s)
  if s.unit ~= r.permit then
    if s.unit > 0 then s.debt = min(ceil(s.debt / s.unit), r.burst) * r.permit end
    s.unit = r.permit
  end
  s.debt = min(s.debt, r.burst * r.permit)
end

-- Gives back `cost` permits that were taken at `at`, less what has flowed back since.
local function token_refund(r, s, now, at, cost)
  now = max(now, s.last)
  s.last, s.debt = token_at(r, s, now)
  local steps = max(0, ceil((now - at) / r.step))
  local back = min(cost, r.burst) * r.permit - steps * r.units
  s.debt = max(0, s.debt - max(0, back))
end
