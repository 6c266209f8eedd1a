-- Inlined: a sliding window at `t` on the fast path. Computes what is left, and when the calls fit,
-- if later; else the state after their charge.
local gone = last_at + per - t
local live = gone > 0
-- The oldest group that counts.
local time, permits
if live then
  while used > 0 do
    time, permits = unpack_bytes(slot, source, base + (first + old) % slots * width)
    if (last_at - time) % round < gone then break end
    total, old, used = total - permits, old + 1, used - 1
  end
else
  total, old, used = 0, old + used, 0
end
left = capacity - total
if charge > left then
  local over = charge - left
  local newest_one, leaving = old + used - 1, 0
  for i = old, newest_one do
    if i > old then time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width) end
    leaving = leaving + permits
    if leaving >= over then
      until_at = last_at - (last_at - time) % round + per
      -- A booking or a debt goes on from here.
      if until_at <= latest and (left <= 0 or action ~= CHARGE) then
        total, old, used = total - leaving, i + 1, newest_one - i
      end
      break
    end
  end
  if not until_at then until_at = last_at + per end
elseif fresh then
  local largest
  local moves = last == 0 or last_at == t or (live and last < group)
  --inline charge.lua
  if fresh and t + per > fresh then fresh = t + per end
end
