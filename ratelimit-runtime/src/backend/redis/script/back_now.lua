-- Inlined: the fast path, like usual.lua, of permits that come back to the newest group or window,
-- under the limits of the last charge, with a clock that goes forwards and without bookings.
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, shape = #stored, asked - GIVE_BACK
  local limits = shape / 256
  if size < 44 + limits * ALL_BYTES then break end
  local back_at, back_number, undo_bytes = unpack_bytes('<I7I7I2', request, #request - 15)
  if undo_bytes > 0 then
    --inline undo_now.lua
  end
  local form, newest, number, was_print = unpack_bytes(HEAD, stored)
  if form ~= PLAIN + shape or was_print ~= print or newest > now or back_at > newest then break end
  local tail_at = HEAD_BYTES + limits * HOT_BYTES + 1
  local kept, clock, start = unpack_bytes('<I7I7I7', stored, tail_at)
  if clock > now or back_number <= start or back_number > number then break end
  local at, ring_at, position, hots = HEAD_BYTES + 1, size + 1, 0, ''
  repeat
    local hot
    if kind > 255 then
      local all, total, last, first, old, used, slots = unpack_bytes(SLIDING_HOT, stored, at)
      local layout, slot, round = kind, nil, nil
      --inline slot.lua
      local width, count = layout / 256, old + used
      ring_at = ring_at - slots * width
      if back_at + b > now then
        local before = 0
        if count > 0 then
          before = unpack_bytes(slot, stored, ring_at + (first + count - 1) % slots * width)
          before = newest - (newest - before) % round
        end
        if before >= back_at then break end
        local gone = cost < last and cost or last
        all, total, last = all - gone, total - gone, last - gone
      end
      hot = pack(SLIDING_HOT, all, total, last, first, old, used, slots)
    elseif kind == TOKEN then
      local permit, step
      permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
      local units, x, last, owed = b, now, unpack_bytes(TOKEN_HOT, stored, at)
      local debt_at, debt
      --inline flow.lua
      -- A booking given up under other limits may have left a time ahead.
      local real = cost * permit - math.ceil((math.max(now, debt_at) - back_at) / step) * units
      if real > 0 then debt = debt > real and debt - real or 0 end
      hot = pack(TOKEN_HOT, debt_at, debt)
    else
      local charged, total = unpack_bytes(FIXED_HOT, stored, at)
      if back_at - back_at % b == charged - charged % b then total = total > cost and total - cost or 0 end
      hot = pack(FIXED_HOT, charged, total)
    end
    hots, position, at = hots .. hot, position + 1, at + HOT_BYTES
    if position == limits then break end
    kind, capacity, a, b, from = unpack_bytes(RULE, request, from)
  until false
  if position < limits or ring_at ~= tail_at + TAIL_BYTES + START_BYTES + limits * COLD_BYTES then break end
  call('SETRANGE', bucket, 'HEAD_BYTES', hots .. pack(TAIL, kept, now))
  return pack('<BI7', DONE, now)
until true
kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM)
