-- Inlined: a sliding window. Permits lie in groups of ⌈count / 64⌉; a group leaves with its last
-- permit. Expired groups stay until their slots are needed, for a longer period to find.
local group, per, layout, ring_before = a, b, kind, ring_at
local slot, round
local per_was, largest, all, total, last, first, old, used, slots = b, nil, 0, 0, 0, 0, 0, 0, 0
local last_at, was = newest, kind
if is_there then
  if is_changed then was, per_was, largest = unpack_bytes(SLIDING_COLD, stored, cold_at) end
  if was > 255 then
    all, total, last, first, old, used, slots = unpack_bytes(SLIDING_HOT, stored, at)
  else
    --inline convert.lua
    per_was, largest, all, total, last = b, 0, taken, taken, taken
    last_at = ahead and newest or now
    -- More than the byte of a narrow slot can express.
    if taken > 255 then layout = 3072 end
    was = layout
  end
  if was > layout then layout = was end
else
  largest = 0
end
-- An unused ring is laid out anew.
if old + used == 0 and slots > 0 then
  ring_at, was, layout, first, slots = ring_at - slots * was / 256, kind, kind, 0, 0
  edit, edit_at, edit_end, resized = '', ring_at, ring_before, true
end
if is_booking and layout ~= 3072 then
  -- Bookings and debts may lie further apart than its slots can express.
  --inline slot.lua
  local oldest, count = all > 0 and last_at or t, old + used
  if count > 0 and was == layout then
    local time = unpack_bytes(slot, stored, ring_at - (slots - first) * was / 256)
    oldest = last_at - (last_at - time) % round
  end
  -- Until at most here; a debt takes a period for each windowful.
  local reaches = math.max(t, stamp)
  if action == CHARGE then reaches = math.max(reaches, t + (charge / capacity + 2) * per) end
  if back > 0 or was ~= layout or reaches - oldest >= round then
    layout = was == layout and back == 0 and layout < 2048 and reaches - oldest < 1099511627776 and 2048 or 3072
  end
end
if layout ~= kind then kept_print = 0 end
--inline slot.lua
local width = layout / 256
local source, base, rebuilt = stored, ring_at - slots * was / 256, false
if not edit then edit_at, edit_end = base, ring_at end
ring_at = base
if slots > 0 and (was ~= layout or back > 0) then
  --inline widen.lua
end

do
  --inline expire.lua
  if live and (per > per_was or t < newest) then
    local gone = last_at + per - t
    --inline revive.lua
  end
end
has = capacity - total
full_at = all > 0 and last_at + per or 0
if full_at > 0 and last == 0 then
  -- The newest group was given back: the limit is idle when the one before it is.
  local i, time, permits = old + used, 0, 0
  repeat
    i = i - 1
    time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width)
  until permits > 0
  full_at = last_at - (last_at - time) % round + per
end

local is_new = is_booking and action == CHARGE
if keeping then
  -- A slot of the ring that changes, and its place.
  local entry, place
  if last_at + per <= now then total = last end
  if undoing and not taken and not is_other then
    --inline undo_sliding.lua
  elseif back_at <= last_at and back_at + per > now and back_at + per > lowest then
    -- From the first group at or after the time.
    local i, held, time = old + used, last, 0
    while i > 0 do
      local before, permits = unpack_bytes(slot, source, base + (first + i - 1) % slots * width)
      if last_at - (last_at - before) % round < back_at then break end
      i, held, time = i - 1, permits, before
    end
    local gone = math.min(back_cost, held)
    all = all - gone
    if i >= old then total = total - gone end
    if i == old + used then
      last = last - gone
    else
      entry, place = pack(slot, time, held - gone), (first + i) % slots * width
    end
  end
  --inline slot_edit.lua
  is_new = true
  -- Only a charge raises the largest count: the next one has to read it.
  if is_changed and largest < capacity then kept_print = 0 end
elseif is_new then
  --inline debt_sliding.lua
else
  local live = last_at + per > t
  local moves = last == 0 or last_at == stamp or (live and last < group)
  local over = total + charge + extra - capacity
  if over > 0 and each <= capacity then
    for i = old, old + used - 1 do
      local time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width)
      over = over - permits
      if over <= 0 then
        until_at = last_at - (last_at - time) % round + per
        break
      end
    end
    if not until_at then
      until_at = last_at + per
      -- An idle window denies only a run of more calls than it holds.
      if not live or (extra > 0 and (moves or over > last)) then until_at = t + per end
    end
  end
  if charging and total + charge <= capacity then
    local dropped_at, dropped = 0, 0
    --inline charge.lua
    full_at = stamp + per
    if stamp > now and not leases then undo = undo .. pack(UNDO_SLIDING, SLIDING, dropped_at, dropped) end
    is_new = true
  end
end
if is_new then
  hot = pack(SLIDING_HOT, all, total, last, first, old, used, slots)
  if is_changed then cold = pack(SLIDING_COLD, layout, per, largest) end
end
