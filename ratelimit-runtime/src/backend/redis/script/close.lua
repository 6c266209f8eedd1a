-- Inlined: closes the last group, moves it into the ring, and begins a new one.
local count, permits = old + used, last
if last_at + per <= now and count > 0 then
  largest = largest or unpack_bytes('<I4', stored, cold_at + 9)
  -- Neither this group nor the one before counts. They are merged, unless that exceeds a group.
  if permits * 64 < largest then
    local _, before = unpack_bytes(slot, source, base + (first + count - 1) % slots * width)
    if (before + permits) * 64 < largest then
      count, old, permits = count - 1, old - 1, before + permits
    end
  end
end
local closes, in_last = true, charge
if count == MOST - 1 then
  if old > 0 then
    -- Drops the oldest. Nothing may be admitted before it would have expired, even if bookings are
    -- undone.
    dropped_at, dropped = unpack_bytes(slot, source, base + first * width)
    dropped_at = last_at - (last_at - dropped_at) % round
    all, old, first, count = all - dropped, old - 1, (first + 1) % slots, count - 1
    if dropped > 0 and dropped_at + per > floor then floor = dropped_at + per end
  else
    -- Merges the two neighbours with the fewest permits, as of the later time.
    local times, held, smallest, least = {}, {}, 0, FAR
    for i = 1, count do times[i], held[i] = unpack_bytes(slot, source, base + (first + i - 1) % slots * width) end
    times[count + 1], held[count + 1], held[count + 2] = last_at % round, permits, charge
    for i = 1, count + 1 do
      if held[i] + held[i + 1] < least then smallest, least = i, held[i] + held[i + 1] end
    end
    if smallest == count + 1 then
      closes, in_last = false, charge + permits
    else
      held[smallest + 1] = least
      permits = held[count + 1]
      local ring = {}
      for i = 1, count do
        if i ~= smallest then ring[#ring + 1] = pack(slot, times[i], held[i]) end
      end
      source, base, rebuilt, first, slots = table.concat(ring), 1, true, 0, count - 1
      edit, resized, count, used = source, true, count - 1, used - 1
    end
  end
end
if closes then
  local entry = pack(slot, last_at % round, permits)
  if count == slots then
    -- Four more slots, behind the newest group.
    local place, more = (first > 0 and first or slots) * width, entry .. entry .. entry .. entry
    if first > 0 then first = first + 4 end
    if rebuilt then
      source = sub(source, 1, place) .. more .. sub(source, place + 1)
      edit = source
    else
      edit = more
      if slots > 0 then edit_at, edit_end = base + place, base + place end
    end
    slots, resized = slots + 4, true
  else
    local place = (first + count) % slots * width
    --inline slot_edit.lua
  end
  if live then used = used + 1 else old = old + 1 end
end
last = in_last
