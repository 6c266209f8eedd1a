-- Permits on record, in groups ordered by time, never two of one time: what a sliding and a fixed window keep.
--
-- `s` holds them flat: s[i] is a group's time and s[i + 1] its permits, for i from s.first to s.last in steps of 2;
-- s.total is the sum of the permits. What is before s.first is forgotten.

local function drop_until(s, expired)
  local first, last, total = s.first, s.last, s.total
  while first <= last and s[first] <= expired do
    total = total - s[first + 1]
    first = first + 2
  end
  s.first, s.total = first, total
end

local function total_after(s, expired)
  local i, last, total = s.first, s.last, s.total
  while i <= last and s[i] <= expired do
    total = total - s[i + 1]
    i = i + 2
  end
  return total
end

local function push(s, at, permits)
  local last = s.last + 2
  s[last], s[last + 1] = at, permits
  s.last, s.total = last, s.total + permits
end

-- Moves the last group to `at` and adds `permits`, which may be negative; drops it where none are left.
local function extend_last(s, at, permits)
  local last = s.last
  if last < s.first then return end
  permits = max(permits, -s[last + 1])
  s[last], s[last + 1] = at, s[last + 1] + permits
  s.total = s.total + permits
  if s[last + 1] == 0 then
    s[last], s[last + 1] = nil, nil
    s.last = last - 2
  end
end

local function remove(s, i)
  table.remove(s, i)
  table.remove(s, i)
  s.last = s.last - 2
end

local function merge(s, i)
  local permits = s[i + 1]
  remove(s, i)
  s[i + 1] = s[i + 1] + permits
end

-- Takes up to `permits` from the first group at or after `at`; returns its index.
local function take_from(s, at, permits)
  local i = s.first
  while i <= s.last and s[i] < at do i = i + 2 end
  if i > s.last then return nil end
  permits = min(permits, s[i + 1])
  s[i + 1] = s[i + 1] - permits
  s.total = s.total - permits
  if s[i + 1] == 0 then remove(s, i) end
  return i
end

-- Merges the group at `index` with each neighbour if the two together hold at most `most`, but never with a group later
-- than `now`: those permits are booked, and giving the booking up must leave no time ahead behind.
local function close_hole(s, index, most, now)
  for i = index, index - 2, -2 do
    if i >= s.first and i + 2 <= s.last and s[i + 1] + s[i + 3] <= most and s[i + 2] <= now then merge(s, i) end
  end
end

-- Brings the number of groups down to MOST: groups up to `expired` are dropped, and the time of the last one dropped is
-- returned; if none is that old, the two neighbours that hold least become one, as of the later time.
local function bound(s, expired)
  local dropped
  while s.last - s.first >= 2 * MOST do
    local first = s.first
    if s[first] <= expired then
      dropped = s[first]
      s.total = s.total - s[first + 1]
      s.first = first + 2
    else
      local smallest, least = first, FAR
      for i = first, s.last - 2, 2 do
        local sum = s[i + 1] + s[i + 3]
        if sum < least then smallest, least = i, sum end
      end
      merge(s, smallest)
    end
  end
  return dropped
end
