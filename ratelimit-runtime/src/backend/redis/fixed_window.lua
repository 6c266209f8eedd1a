-- A counter per window: groups at the times at which the windows begin. Windows are aligned to the Unix epoch.

local function begin(s, time)
  return time - time % s.per
end

local function fixed_taken(s, from)
  local last = s.last
  if last >= s.first and s[last] >= begin(s, from) then return s[last + 1] end
  return 0
end

-- The first moment at or after `from` at which `cost` more permits fit. No permit on record is in a later window.
local function fixed_earliest(r, s, from, cost)
  if fixed_taken(s, from) <= r.capacity - cost then return from end
  return begin(s, from) + s.per
end

local function fixed_charge(s, at, cost)
  local start, last = begin(s, at), s.last
  if last >= s.first and s[last] >= start then
    extend_last(s, s[last], cost)
  else
    push(s, start, cost)
  end
end
