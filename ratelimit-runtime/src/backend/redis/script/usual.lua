-- Inlined: the fast path, for a call, a run or a charge under the limits of the last charge, with a
-- clock that goes forwards. Takes permits now, denies, or charges permits of one limit for later. A
-- bucket of one limit also begins here.
-- Everything else goes to the loop, which decides the same, before anything is written.
local calls, charge = 1, cost
if action == TAKE_RUN then calls = unpack_bytes('<I4', request, #request - (asked > 65535 and 31 or 10)) end
local limits = (asked % 65536 - action) / 256
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, form, newest, number, was_print, kept, clock = #stored
  if size < 58 + limits * ALL_BYTES then
    if size == 0 and limits == 1 and (charge <= capacity or action == CHARGE and capacity > 0) then
      --inline new.lua
    else
      break
    end
  end
  local first_byte = string.byte(stored)
  -- Charges while all limits fit. Otherwise: until when they do not, which limit denies, and its
  -- permits left.
  local found, fresh, found_limit, found_left = now, 0, 0, 0
  -- Judged as of `t`, charged as of `stamp`, which is `latest` at the latest.
  local t, stamp, latest, ring_at = now, now, 0, size + 1
  local head, until_at, left, resized, sets, expires, changed, changed_at, changed_end, tail_at, cold_at, leases
  local offences, offended, blocked, lowest, top, held, initial, longest, blocks
  if first_byte ~= PLAIN or asked > 131071 or action == CHARGE then
    --inline rich.lua
  end
  if limits == 1 then
    -- One limit, read and written at once.
    tail_at, cold_at, ring_at = HEAD_BYTES + HOT_BYTES + 1, HEAD_BYTES + HOT_BYTES + TAIL_BYTES + START_BYTES + 1,
      HEAD_BYTES + HOT_BYTES + TAIL_BYTES + START_BYTES + COLD_BYTES + 1
    if first_byte == RICH then
      cold_at, ring_at = cold_at + EXTRA_BYTES + GIVEN_BYTES, ring_at + EXTRA_BYTES + GIVEN_BYTES
    end
    local group, per, units = a, b, b
    local edit, edit_at, edit_end, permit, step
    local all, total, last, first, old, used, slots, layout, base, slot, round, width
    local owed, debt_at, debt, charged, counted
    local source, rebuilt, last_at, stage, portion, windowfuls, cold
    local floor, dropped_at, dropped = lowest or 0, 0, 0
    if kind > 255 then
      layout, base, source = kind, ring_at, stored
      form, newest, number, was_print, all, total, last, first, old, used, slots, kept, clock =
        unpack_bytes(READ_SLIDING, stored)
      --inline ring.lua
      last_at, edit_at, edit_end = newest, base, size + 1
    else
      if kind == TOKEN then
        permit, step = unpack_bytes(TOKEN_RULE, request, from)
        form, newest, number, was_print, last, owed, kept, clock = unpack_bytes(READ_TOKEN, stored)
      else
        form, newest, number, was_print, charged, total, kept, clock = unpack_bytes(READ_FIXED, stored)
        if charged > t then break end
      end
      if was_print ~= print then break end
    end
    if form ~= first_byte + 256 or newest > t or clock > now then break end
    repeat
      if until_at then t, stamp, until_at = until_at, until_at, nil end
      if kind > 255 then
        --inline sliding_now.lua
      elseif kind == TOKEN then
        --inline token_now.lua
      else
        --inline fixed_now.lua
      end
      if action == CHARGE and (until_at or stage) then
        --inline steps.lua
      end
    until not until_at or until_at > latest
    if fresh and not until_at then
      form, number, sets = PLAIN + 256, number + calls, resized
      if stamp > now then
        -- Booked, or in debt. Only the loop can tell how to undo that a group was dropped.
        form = AHEAD + 256
        if action == CHARGE then
          if stamp > newest then lowest = stamp end
        elseif dropped > 0 then
          break
        end
      end
      --inline keep.lua
      if kind > 255 then
        head = pack(
          form > PLAIN + 256 and BOOKED_SLIDING or WRITTEN_SLIDING, form, stamp, number, was_print, all, total, last, first,
          old, used, slots, kept, now, lowest, number
        )
      elseif kind == TOKEN then
        head = pack(
          form > PLAIN + 256 and BOOKED_TOKEN or WRITTEN_TOKEN, form, stamp, number, print, debt_at, debt, kept, now,
          lowest, number
        )
      else
        head = pack(
          form > PLAIN + 256 and BOOKED_FIXED or WRITTEN_FIXED, form, stamp, number, print, stamp, counted, kept, now,
          lowest, number
        )
      end
      -- With the state to which a booking that is given up returns.
      if stamp > now and action ~= CHARGE then answer = head .. sub(stored, 1, FRONT_BYTES) end
    else
      found, found_left = until_at or t, newest > now and 0 or left
      if first_byte == RICH and found == now and blocks <= now then break end
    end
    if edit then changed, changed_at, changed_end = edit, edit_at, edit_end end
    if cold then changed, changed_at = cold .. edit, cold_at end
  else
    form, newest, number, was_print = unpack_bytes(HEAD, stored)
    if was_print ~= print or form ~= first_byte + limits * 256 or newest > t then break end
    tail_at = HEAD_BYTES + limits * HOT_BYTES + 1
    kept, clock = unpack_bytes('<I7I7', stored, tail_at)
    if clock > now then break end
    cold_at = tail_at + TAIL_BYTES + START_BYTES
    if first_byte == RICH then cold_at = cold_at + EXTRA_BYTES + limits * GIVEN_BYTES end
    local ends_at = cold_at + limits * COLD_BYTES
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
        local base, source, rebuilt, last_at = ring_at, stored, false, newest
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
    if position < limits or ring_at ~= ends_at or not fits then break end
    if first_byte ~= PLAIN and not fresh and (found == t or found < blocks) then break end
    if newest > now then found_left = 0 end
    if fresh then
      sets = resized
      --inline keep.lua
      head = pack(HEAD, PLAIN + limits * 256, now, number + calls, print) .. hots
    end
  end
  if head then
    local value = head
    if expires and stamp <= now then value = head .. pack('<I7I7', kept, now) end
    ring_at = #value + 1
    --inline write.lua
    return answer or head, stored
  end
  local is_penalized = asked % 131072 > 65535
  if action ~= TAKE or charge > capacity or is_penalized and first_byte ~= RICH then break end
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
      call('SETRANGE', bucket, tail_at + 6, pack(CLOCK_AND_PENALTIES, now, lowest, top, offences, offended, blocked))
    end
  end
  if now - clock > CLOCK_UNSEEN and (first_byte ~= PLAIN or now - newest > CLOCK_UNSEEN) then
    call('SETRANGE', bucket, tail_at + 6, pack('<I7', now))
  end
  return pack(REFUSAL, why, now, found_limit, found_left > 0 and found_left or 0, found), stored
until true
if limits > 1 then kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM) end
