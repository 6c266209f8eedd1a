-- Inlined: a sliding window at `now`. From the rule and `stored`, `newest`, `total`, `last` and the ring from `ring_at` on
-- to `denied_until`, or to the window as it is to be kept, with what is new in the ring, if anything, as `changed` in the
-- place of the bytes from `changed_at` up to `changed_end`; `resized` where the ring has grown. `left` of a denied call;
-- `full_at`. Breaks where it cannot.

local group, per = a, b
-- What is this far behind the newest group counts no more.
local gone = newest + per - now
if gone <= 0 then
  total, last, used = 0, 0, 0
else
  while used > 0 do
    local at, permits = unpack_bytes(slot, stored, ring_at + head * width)
    if (newest - at) % round < gone then break end
    total, used, head = total - permits, used - 1, head + 1
    if head == slots then head = 0 end
  end
end
total = total + cost
if total > capacity then
  local over = total - capacity
  denied_until, left = newest + per, cost - over
  if left < 0 then left = 0 end
  for i = head, head + used - 1 do
    local at, permits = unpack_bytes(slot, stored, ring_at + i % slots * width)
    over = over - permits
    if over <= 0 then
      denied_until = newest - (newest - at) % round + per
      break
    end
  end
else
  if last == 0 then
    last = cost
  elseif last < group or newest == now then
    last = last + cost
  else
    -- The last group is closed: it goes into the ring.
    if used + 2 > MOST then break end
    changed = pack(slot, newest % round, last)
    if used < slots then
      changed_at = ring_at + (head + used) % slots * width
      changed_end = changed_at + width
    else
      -- No more slots than a window without holes needs; else an eighth to spare.
      local more = math.max(1, math.min(math.floor(slots / 8), USUAL - 1 - slots))
      local first_at = ring_at + head * width
      changed_at, changed_end = ring_at, ring_at + slots * width
      changed = sub(stored, first_at, changed_end - 1) .. sub(stored, ring_at, first_at - 1) .. changed
        .. string.rep('\0', (more - 1) * width)
      head, slots, resized = 0, slots + more, true
    end
    used, last = used + 1, cost
  end
  full_at = now + per
end
