-- The exact sliding window: permits admitted less than `per` ago, and those booked ahead, in groups of ⌈count / 64⌉.
--
-- A rule `r` has the capacity, the period and the permits of a group.

-- The first moment at or after `from` at which `cost` more permits fit.
local function sliding_earliest(r, s, from, cost)
  local room, per = r.capacity - cost, r.per
  local taken = total_after(s, from - per)
  if taken <= room then return from end
  for i = s.first, s.last, 2 do
    local leaves = s[i] + per
    if leaves > from then
      taken = taken - s[i + 1]
      if taken <= room then return leaves end
    end
  end
  return from
end

-- Records `cost` permits at `at`; returns the time that the newest group had before.
local function sliding_charge(r, s, at, cost)
  local last = s.last
  if last >= s.first then
    local before = s[last]
    if before == at or s[last + 1] < r.group then
      extend_last(s, at, cost)
      return before
    end
  end
  push(s, at, cost)
  return at
end
