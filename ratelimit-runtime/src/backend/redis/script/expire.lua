-- Inlined: drops the groups of a sliding window that have expired at `t`. Leaves the oldest that
-- counts in `time` and `permits`.
local live, time, permits = last_at + per > t, nil, nil
if live then
  while used > 0 do
    time, permits = unpack_bytes(slot, source, base + (first + old) % slots * width)
    if (last_at - time) % round < last_at + per - t then break end
    total, old, used = total - permits, old + 1, used - 1
  end
else
  total, old, used = 0, old + used, 0
end
