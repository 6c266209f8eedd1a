-- Inlined: the fast path, for a call, a run or a charge that takes permits now, under the limits of
-- the last charge, with a clock that goes forwards and without bookings. Everything else goes to the
-- loop, which decides the same, before anything is written.
local calls, charge = 1, cost
if action == TAKE_RUN then calls = unpack_bytes('<I4', request, #request - 10) end
local limits = (asked % 65536 - action) / 256
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, form, newest, number, was_print, kept, clock = #stored, nil, 0, 0, nil, 0, 0
  if size < 44 + limits * ALL_BYTES then break end
  if string.byte(stored) ~= PLAIN then break end
  -- Charges while all limits fit. Otherwise: until when they do not, which limit, and what is left
  -- of it.
  local head, fresh, until_at, left, found, found_limit, found_left = nil, 0, nil, nil, now, 0, 0
  local t, stamp, ring_at, resized, sets = now, now, size + 1, false, false
  local changed, changed_at, changed_end = nil, ring_at, ring_at
  local tail_at, cold_at
  if limits == 1 then
    -- One limit, read and written at once.
    tail_at, cold_at, ring_at = HEAD_BYTES + HOT_BYTES + 1, HEAD_BYTES + HOT_BYTES + TAIL_BYTES + START_BYTES + 1,
      HEAD_BYTES + HOT_BYTES + TAIL_BYTES + START_BYTES + COLD_BYTES + 1
    local edit, edit_at, edit_end
    if kind > 255 then
      local all, total, last, first, old, used, slots
      form, newest, number, was_print, all, total, last, first, old, used, slots, kept, clock =
        unpack_bytes(READ_SLIDING, stored)
      if was_print ~= print or form ~= PLAIN + 256 or newest > now or clock > now then break end
      local group, per, layout, base, slot, round = a, b, kind, ring_at, nil, nil
      --inline slot.lua
      if (size - base + 1) ~= slots * layout / 256 then break end
      local width = layout / 256
      edit_at, edit_end = base, size + 1
      --inline sliding_now.lua
      if not until_at then
        head = pack(
          WRITTEN_SLIDING, PLAIN + 256, now, number + calls, print, all, total, last, first, old, used, slots
        )
      end
    elseif kind == TOKEN then
      local permit, step = unpack_bytes(TOKEN_RULE, request, from)
      local units, last, owed, debt_at, debt = b, 0, 0, 0, 0
      form, newest, number, was_print, last, owed, kept, clock = unpack_bytes(READ_TOKEN, stored)
      if was_print ~= print or form ~= PLAIN + 256 or newest > now or clock > now then break end
      --inline token_now.lua
      if not until_at then
        head = pack(WRITTEN_TOKEN, PLAIN + 256, now, number + calls, print, debt_at, debt)
      end
    else
      local per, charged, total = b, 0, 0
      form, newest, number, was_print, charged, total, kept, clock = unpack_bytes(READ_FIXED, stored)
      if was_print ~= print or form ~= PLAIN + 256 or newest > now or clock > now then break end
      --inline fixed_now.lua
      if not until_at then
        head = pack(WRITTEN_FIXED, PLAIN + 256, now, number + calls, print, now, total)
      end
    end
    if until_at then found, found_left = until_at, left end
    if edit then changed, changed_at, changed_end = edit, edit_at, edit_end end
  else
    form, newest, number, was_print = unpack_bytes(HEAD, stored)
    if was_print ~= print or form ~= PLAIN + limits * 256 or newest > now then break end
    tail_at = HEAD_BYTES + limits * HOT_BYTES + 1
    kept, clock = unpack_bytes(TAIL, stored, tail_at)
    if clock > now then break end
    cold_at = tail_at + TAIL_BYTES + START_BYTES
    local at, hots, position, fits = HEAD_BYTES + 1, nil, 0, true
    repeat
      local hot, edit, edit_at, edit_end
      until_at, left = nil, nil
      if kind > 255 then
        local all, total, last, first, old, used, slots = unpack_bytes(SLIDING_HOT, stored, at)
        local group, per, layout, slot, round = a, b, kind, nil, nil
        --inline slot.lua
        local width = layout / 256
        edit_end = ring_at
        ring_at = ring_at - slots * width
        edit_at = ring_at
        local base = ring_at
        --inline sliding_now.lua
        if fresh and not until_at then hot = pack(SLIDING_HOT, all, total, last, first, old, used, slots) end
      elseif kind == TOKEN then
        local permit, step
        permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
        local units, last, owed = b, unpack_bytes(TOKEN_HOT, stored, at)
        local debt_at, debt
        --inline token_now.lua
        if fresh and not until_at then hot = pack(TOKEN_HOT, debt_at, debt) end
      else
        local per, charged, total = b, unpack_bytes(FIXED_HOT, stored, at)
        --inline fixed_now.lua
        if fresh and not until_at then hot = pack(FIXED_HOT, now, total) end
      end
      if until_at then
        fresh = nil
        if until_at > found then found, found_limit, found_left = until_at, position, left end
      elseif hot then
        if hots then hots = hots .. hot else hots = hot end
        --inline edits.lua
      end
      if charge > capacity then fits = false end
      position, at, cold_at = position + 1, at + HOT_BYTES, cold_at + COLD_BYTES
      if position == limits then break end
      kind, capacity, a, b, from = unpack_bytes(RULE, request, from)
    until false
    -- A ring has other slots, or a limit can never admit as much.
    if ring_at ~= cold_at or not fits then break end
    if fresh then head = pack(HEAD, form, now, number + calls, print) .. hots end
  end
  if head then
    sets = resized
    --inline keep.lua
    local value, behind = head, nil
    if sets then behind = pack(TAIL, kept, now) .. sub(stored, tail_at + TAIL_BYTES, ring_at - 1) end
    --inline write.lua
    return head
  end
  if calls > 1 or charge > capacity or asked % 131072 > 65535 or action == CHARGE then break end
  -- A call that may wait is booked in the loop, for when it fits.
  if asked > 65535 and found - now <= unpack_bytes('<I7', request, #request - 13) then
    booked_at = found
    break
  end
  if now - newest > CLOCK_UNSEEN and now - clock > CLOCK_UNSEEN then
    call('SETRANGE', bucket, tail_at + 6, pack('<I7', now))
  end
  return pack(REFUSAL, DENIED, now, found_limit, found_left > 0 and found_left or 0, found)
until true
if limits > 1 then kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM) end
