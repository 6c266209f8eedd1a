-- Inlined: the fast path, for a call, a run or a charge under the limits of the last charge, with a
-- clock that goes forwards. Takes permits now, denies, or books permits of one limit for later.
-- Everything else goes to the loop, which decides the same, before anything is written.
local calls, charge = 1, cost
if action == TAKE_RUN then calls = unpack_bytes('<I4', request, #request - (asked > 65535 and 31 or 10)) end
local limits = (asked % 65536 - action) / 256
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, form, newest, number, was_print, kept, clock = #stored, nil, 0, 0, nil, 0, 0
  if size < 44 + limits * ALL_BYTES then break end
  local first_byte = string.byte(stored)
  -- Charges while all limits fit. Otherwise: until when they do not, which limit denies, and its
  -- permits left.
  local head, fresh, until_at, left, found, found_limit, found_left = nil, 0, nil, nil, now, 0, 0
  -- Judged as of `t`, charged as of `stamp`, which is `latest` at the latest.
  local t, stamp, latest, ring_at, resized, sets = now, now, 0, size + 1, false, false
  local changed, changed_at, changed_end = nil, ring_at, ring_at
  local tail_at, cold_at
  local offences, offended, blocked, lowest, top, held, counts, initial, longest, blocks
  if first_byte ~= PLAIN or asked > 131071 or action == CHARGE then
    --inline rich.lua
  end
  if limits == 1 then
    -- One limit, read and written at once.
    tail_at, cold_at, ring_at = HEAD_BYTES + HOT_BYTES + 1, HEAD_BYTES + HOT_BYTES + TAIL_BYTES + START_BYTES + 1,
      HEAD_BYTES + HOT_BYTES + TAIL_BYTES + START_BYTES + COLD_BYTES + 1
    if first_byte == RICH then cold_at, ring_at = cold_at + EXTRA_BYTES, ring_at + EXTRA_BYTES + GIVEN_BYTES end
    local edit, edit_at, edit_end
    local group, per, units, permit, step = a, b, b, nil, nil
    local all, total, last, first, old, used, slots, layout, base, slot, round, width
    local owed, debt_at, debt, charged, counted
    local given_window, given, floor, dropped_at, dropped = 0, 0, lowest or 0, 0, 0
    if kind > 255 then
      layout, base = kind, ring_at
      form, newest, number, was_print, all, total, last, first, old, used, slots, kept, clock =
        unpack_bytes(READ_SLIDING, stored)
      --inline ring.lua
      edit_at, edit_end = base, size + 1
    else
      if kind == TOKEN then
        permit, step = unpack_bytes(TOKEN_RULE, request, from)
        form, newest, number, was_print, last, owed, kept, clock = unpack_bytes(READ_TOKEN, stored)
      else
        form, newest, number, was_print, charged, total, kept, clock = unpack_bytes(READ_FIXED, stored)
        if charged > t then break end
      end
      if was_print ~= print then break end
      if first_byte == RICH and latest > now then
        given_window, given = unpack_bytes(GIVEN, stored, ring_at - GIVEN_BYTES)
        if given > 0 and t == now then break end
      end
    end
    if form ~= first_byte + 256 or newest > t or clock > now then break end
    repeat
      if until_at then t, stamp, until_at = until_at, until_at, nil end
      if kind > 255 then
        if t > now and t > newest and old + used > 0 and round < FAR then
          -- The loop lays out the ring anew for times so far apart.
          local time = unpack_bytes(slot, stored, base + first * width)
          if t - newest + (newest - time) % round >= round then fresh = nil end
        end
        --inline sliding_now.lua
      elseif kind == TOKEN then
        --inline token_now.lua
      else
        --inline fixed_now.lua
      end
    until not until_at or until_at > latest or action == CHARGE and left > 0
    if fresh and not until_at then
      if stamp > now then form = RICH + 256 end
      if kind > 255 then
        head = pack(
          WRITTEN_SLIDING, form, stamp, number + calls, was_print, all, total, last, first, old, used, slots
        )
      elseif kind == TOKEN then
        head = pack(WRITTEN_TOKEN, form, stamp, number + calls, print, debt_at, debt)
      else
        head = pack(WRITTEN_FIXED, form, stamp, number + calls, print, stamp, counted)
      end
      if stamp > now then
        local booked, undo_a, undo_b, undo_c, undo_d, undo_e = BOOKED_SLIDING, dropped_at, dropped, nil, nil, nil
        if kind == TOKEN then
          booked, undo_a, undo_b, undo_c, undo_d, undo_e = BOOKED_TOKEN, last, owed, permit, units, step
        elseif kind == FIXED then
          booked, undo_a, undo_b, undo_c, undo_d, undo_e = BOOKED_FIXED, charged, total, per, given_window, given
        end
        answer = pack(
          booked, ADMITTED, now, stamp, number + 1, 0, left - charge, fresh, newest, lowest, top or number, kind % 256,
          undo_a, undo_b, undo_c, undo_d, undo_e, given
        )
        lowest = floor
      end
    end
    if not head then found, found_left = until_at or t, newest > now and 0 or left end
    if edit then changed, changed_at, changed_end = edit, edit_at, edit_end end
  else
    form, newest, number, was_print = unpack_bytes(HEAD, stored)
    if was_print ~= print or form ~= first_byte + limits * 256 or newest > t then break end
    tail_at = HEAD_BYTES + limits * HOT_BYTES + 1
    kept, clock = unpack_bytes(TAIL, stored, tail_at)
    if clock > now then break end
    cold_at = tail_at + TAIL_BYTES + START_BYTES
    local ends_at = cold_at + limits * COLD_BYTES
    if first_byte == RICH then ends_at = ends_at + EXTRA_BYTES + limits * GIVEN_BYTES end
    local at, hots, position, fits = HEAD_BYTES + 1, nil, 0, true
    repeat
      local hot, edit, edit_at, edit_end
      local floor, dropped_at, dropped = 0, 0, 0
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
        local counted
        if charged > t then break end
        --inline fixed_now.lua
        if fresh and not until_at then hot = pack(FIXED_HOT, now, counted) end
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
    -- A ring has other slots, a limit can never admit that much, or no limit denies.
    if position < limits or ring_at ~= ends_at or not fits or first_byte == RICH and (found == t or found < blocks) then
      break
    end
    if newest > now then found_left = 0 end
    if fresh then head = pack(HEAD, form, now, number + calls, print) .. hots end
  end
  if head then
    local value, behind = head, nil
    sets = resized
    --inline keep.lua
    if stamp > now then
      if action == CHARGE then
        answer = pack(ADMISSION, ADMITTED, now, stamp, number + 1, 0, 0, fresh)
        if stamp > newest then lowest = stamp end
      end
      if first_byte == PLAIN then
        sets, behind = true, pack(FIRST_TAIL, kept, now, lowest, number + 1, fresh)
          .. sub(stored, tail_at + TAIL_BYTES, ring_at - 1) .. NOTHING_GIVEN
      else
        if fresh > counts then counts = fresh end
        behind = pack(RICH_TAIL, kept, now, offences, offended, blocked, lowest, number + 1, held, counts)
        ring_at = tail_at + TAIL_BYTES + EXTRA_BYTES
        if not sets then value = head .. behind end
      end
    elseif first_byte == RICH then
      break
    elseif sets then
      behind, ring_at = pack(TAIL, kept, now), tail_at + TAIL_BYTES
    end
    --inline write.lua
    return answer or head, stored
  end
  local is_penalized = asked % 131072 > 65535
  if action ~= TAKE or charge > capacity or is_penalized and first_byte == PLAIN then break end
  -- A call that may wait is booked in the loop, for when it fits.
  if latest > now and found <= latest then
    booked_at = found
    break
  end
  local why = DENIED
  if first_byte == RICH then
    if blocks > found then found = blocks end
    if held > now or initial > longest and blocked > now then
      why = BLOCKED
    elseif is_penalized then
      if now + longest > kept then break end
      --inline offence.lua
      clock = now
      if blocked > found then found = blocked end
      call('SETRANGE', bucket, tail_at + 6, pack('<I7I4I7I7', now, offences, offended, blocked))
    end
  end
  if now - clock > CLOCK_UNSEEN and (first_byte == RICH or now - newest > CLOCK_UNSEEN) then
    call('SETRANGE', bucket, tail_at + 6, pack('<I7', now))
  end
  return pack(REFUSAL, why, now, found_limit, found_left > 0 and found_left or 0, found), stored
until true
if limits > 1 then kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM) end
