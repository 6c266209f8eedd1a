-- Inlined: a sliding window at `t` on the fast path. Computes what is left, and when the calls fit,
-- if later; else the state after their charge.
--inline expire.lua
left = capacity - total
if charge > left then
  local over, leaving, count, next = charge - left, 0, old + used, nil
  until_at = last_at + per
  for i = old, count - 1 do
    if i > old then time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width) end
    leaving = leaving + permits
    if leaving >= over then
      until_at, next = last_at - (last_at - time) % round + per, i + 1
      break
    end
  end
  -- A booking or a debt goes on from there. All groups have different times.
  if until_at <= latest and stage ~= 3 and (left <= 0 or action ~= CHARGE) then
    live, old = next, next or count
    total, used = live and total - leaving or 0, count - old
    t, stamp, until_at = until_at, until_at, nil
  end
end
if not until_at and fresh then
  local moves = last == 0 or last_at == t or (live and last < group)
  --inline charge.lua
  if fresh and t + per > fresh then fresh = t + per end
end
