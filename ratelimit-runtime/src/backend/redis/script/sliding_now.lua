-- Inlined: a sliding window at `now` on the fast path. Computes when the calls fit, if later, and
-- what is left; else the state after their charge.
local gone = newest + per - now
local live = gone > 0
if live then
  while used > 0 do
    local time, permits = unpack_bytes(slot, stored, base + (first + old) % slots * width)
    if (newest - time) % round < gone then break end
    total, old, used = total - permits, old + 1, used - 1
  end
else
  total, old, used = 0, old + used, 0
end
if total + charge > capacity then
  left = capacity - total
  local over = charge - left
  for i = old, old + used - 1 do
    local time, permits = unpack_bytes(slot, stored, base + (first + i) % slots * width)
    over = over - permits
    if over <= 0 then
      until_at = newest - (newest - time) % round + per
      break
    end
  end
  if not until_at then until_at = newest + per end
elseif fresh then
  local source, rebuilt, last_at, floor, largest, dropped_at, dropped = stored, false, newest, 0, nil, 0, 0
  local moves = last == 0 or newest == now or (live and last < group)
  --inline charge.lua
  if now + per > fresh then fresh = now + per end
end
