-- Inlined: the fast path, like usual.lua, of permits that come back to the newest group or window,
-- under the limits of the last charge, with a clock that goes forwards and without bookings.
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, shape = #stored, asked - GIVE_BACK
  local limits = shape / 256
  if size < 58 + limits * ALL_BYTES then break end
  local back_at, back_number, undo_bytes = unpack_bytes('<I7I7I2', request, #request - 15)
  local form, newest, number, was_print, kept, clock, lowest, top, start
  local all, total, last, first, old, used, slots
  local tail_at = HEAD_BYTES + limits * HOT_BYTES + 1
  if limits > 1 then
    form, newest, number, was_print = unpack_bytes(HEAD, stored)
    kept, clock, lowest, top, start = unpack_bytes('<I7I7I7I7I7', stored, tail_at)
  elseif kind > 255 then
    form, newest, number, was_print, all, total, last, first, old, used, slots, kept, clock, lowest, top, start =
      unpack_bytes(WHOLE_SLIDING, stored)
  else
    form, newest, number, was_print, last, total, kept, clock, lowest, top, start =
      unpack_bytes(WHOLE_TIMED, stored)
  end
  if clock > now or back_number <= start or back_number > number then break end
  if undo_bytes > 0 then
    --inline undo_now.lua
  end
  if (form ~= PLAIN + shape and form ~= AHEAD + shape) or was_print ~= print then break end
  if newest > now or back_at > newest then break end
  local at, ring_at, position, hots = HEAD_BYTES + 1, size + 1, 0, nil
  repeat
    -- The last part continues with the start of the tail.
    local hot, is_last = nil, position + 1 == limits
    if kind > 255 then
      if limits > 1 then all, total, last, first, old, used, slots = unpack_bytes(SLIDING_HOT, stored, at) end
      local width, count = kind / 256, old + used
      ring_at = ring_at - slots * width
      if back_at + b > now then
        -- The newest permits are in the last group.
        if count > 0 and back_at < newest then
          local layout, slot, round = kind, nil, nil
          --inline slot.lua
          local before = unpack_bytes(slot, stored, ring_at + (first + count - 1) % slots * width)
          if newest - (newest - before) % round >= back_at then break end
        end
        local gone = cost < last and cost or last
        all, total, last = all - gone, total - gone, last - gone
      end
      hot = pack(is_last and BACK_SLIDING or SLIDING_HOT, all, total, last, first, old, used, slots, kept, now)
    else
      if limits > 1 then last, total = unpack_bytes(TIMED_HOT, stored, at) end
      if kind == FIXED then
        if back_at - back_at % b == last - last % b then total = total > cost and total - cost or 0 end
      else
        local permit, step
        permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
        local units, x, owed = b, now, total
        local debt_at, debt
        --inline flow.lua
        -- A booking given up under other limits may have left a time ahead.
        local until_at = debt_at > now and debt_at or now
        local real = cost * permit - math.ceil((until_at - back_at) / step) * units
        if real > 0 then debt = debt > real and debt - real or 0 end
        last, total = debt_at, debt
      end
      hot = pack(is_last and BACK_TIMED or TIMED_HOT, last, total, kept, now)
    end
    if hots then hots = hots .. hot else hots = hot end
    position, at = position + 1, at + HOT_BYTES
    if is_last then break end
    kind, capacity, a, b, from = unpack_bytes(RULE, request, from)
  until false
  if position < limits or ring_at ~= tail_at + TAIL_BYTES + START_BYTES + limits * COLD_BYTES then break end
  call('SETRANGE', bucket, 'HEAD_BYTES', hots)
  return pack('<BI7', DONE, now)
until true
kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM)
