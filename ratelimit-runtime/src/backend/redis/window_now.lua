-- Inlined: a sliding or a fixed window at `now`. From the rule and `stored`, `was`, `was_per` and the groups to
-- `denied_until`, or to the groups as they are to be kept; `left` and `full_at`. The ring is the bytes of `stored` from
-- `ring_at` up to `at`: nothing of it changes, or there is a `slot` to write at `slot_at`, or it has become `ring`. Breaks
-- where it cannot.

local full, per, gone, stamp = a, b, now - b, now
if kind == FIXED then
  stamp = now - now % per
  gone = stamp - 1
end
if stored then
  if was ~= kind or (kind == FIXED and was_per ~= per) then break end
  while used > 0 and first_at <= gone do
    total, head, used = total - first, (head + 1) % slots, used - 1
    if used > 0 then first_at, first = unpack_bytes(SLOT, stored, ring_at + head * SLOT_BYTES) end
  end
  if used == 0 and last_at <= gone then total, last = 0, 0 end
else
  total, last_at, last, first_at, first, head, used, slots = 0, 0, 0, 0, 0, 0, 0, 0
end
if total + cost > capacity then
  if kind == FIXED then
    denied_until = stamp + per
  elseif used == 0 then
    denied_until = last_at + per
  elseif total - first + cost <= capacity then
    denied_until = first_at + per
  else
    break
  end
  left = max(0, capacity - total)
else
  if last > 0 and (last_at == stamp or last < full) then
    last = last + cost
  else
    if last > 0 then
      -- The last group is closed: it goes into the ring.
      if used + 2 > MOST then break end
      slot = pack(SLOT, last_at, last)
      if used == 0 then first_at, first = last_at, last end
      if used < slots then
        slot_at = ring_at + (head + used) % slots * SLOT_BYTES
      else
        -- No more slots than a window without holes needs; else an eighth to spare.
        local more = max(1, min(floor(slots / 8), USUAL - 1 - slots))
        local begin = ring_at + head * SLOT_BYTES
        ring = string.sub(stored, begin, at - 1) .. string.sub(stored, ring_at, begin - 1) .. slot
          .. string.rep('\0', (more - 1) * SLOT_BYTES)
        head, slots = 0, slots + more
      end
      used = used + 1
    end
    last = cost
  end
  last_at, total = stamp, total + cost
  left, full_at = capacity - total, stamp + per
end
