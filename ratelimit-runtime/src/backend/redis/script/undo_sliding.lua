-- Inlined: undoes the newest booking in a sliding window.
local _, time, permits
_, time, permits, undo_at = unpack_bytes(UNDO_SLIDING, request, undo_at)
local gone = math.min(cost, last)
last, all, total = last - gone, all - gone, total - gone
local count = old + used
local i = count > 0 and (first + count - 1) % slots
if last == 0 and i then
  local before, held = unpack_bytes(slot, source, base + i * width)
  if last_at - (last_at - before) % round == undo_newest then
    -- The group before is the last one again.
    last = held
    if used > 0 then used = used - 1 else old, total = old - 1, total + held end
    if permits > 0 then
      time = math.max(0, time - shift)
      first, all = (first - 1) % slots, all + permits
      if old == 0 and time + per > now then
        used, total = used + 1, total + permits
      else
        old = old + 1
      end
      entry, place = pack(slot, time % round, permits), first * width
    end
  end
end
