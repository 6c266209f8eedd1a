-- Inlined: the fast path, for a call, a run or a charge under the limits of the last charge, with a
-- clock that goes forwards. Takes permits now, denies, or charges permits of one limit for later. A
-- bucket of one limit also begins here.
-- Everything else goes to the loop, which decides the same, before anything is written.
local calls, charge = 1, cost
if action == TAKE_RUN then calls = unpack_bytes('<I4', request, #request - (asked > 65535 and 31 or 10)) end
local shape = asked % 65536 - action
local limits = shape / 256
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, resized, form, newest, number, was_print, kept, clock = #stored, false
  if size < 58 + limits * ALL_BYTES then
    if size == 0 and limits == 1 and (charge <= capacity or action == CHARGE and capacity > 0) then
      --inline new.lua
    else
      break
    end
  end
  -- Charges while all limits fit. Otherwise: until when they do not, which limit denies, and its
  -- permits left.
  local found, fresh, found_limit, found_left = now, 0, 0, 0
  -- Judged as of `t`, charged as of `stamp`, which is `latest` at the latest.
  local t, stamp, latest, ring_at = now, now, 0, nil
  local head, until_at, left, sets, expires, changed, changed_at, changed_end, tail_at, cold_at, leases
  local offences, offended, blocked, lowest, top, held, initial, longest, blocks
  if limits == 1 then
    -- One limit, read and written at once.
    tail_at, ring_at = HEAD_BYTES + HOT_BYTES + 1, ONE_BYTES + 1
    local group, per, units = a, b, b
    local edit, edit_at, edit_end, permit, step
    local all, total, last, first, old, used, slots, layout, base, slot, round, width
    local owed, debt_at, debt
    local source, rebuilt, last_at, stage, portion, windowfuls, cold
    local dropped_at, dropped, largest = 0, 0, nil
    if kind > 255 then
      form, newest, number, was_print, all, total, last, first, old, used, slots, kept, clock, lowest, top =
        unpack_bytes(OWED_SLIDING, stored)
    else
      form, newest, number, was_print, last, owed, kept, clock, lowest, top =
        unpack_bytes(OWED_TIMED, stored)
    end
    form = form - 256
    if form ~= PLAIN or asked > 131071 or action == CHARGE then
      --inline rich.lua
    end
    if newest > t or clock > now then break end
    if kind > 255 then
      layout, cold_at, base, source = kind, ring_at - COLD_BYTES, ring_at, stored
      --inline ring.lua
      last_at, edit_at, edit_end = newest, base, size + 1
    elseif was_print ~= print then
      break
    elseif kind == TOKEN then
      permit, step = unpack_bytes(TOKEN_RULE, request, from)
    elseif last > t then
      break
    end
    local floor = lowest or 0
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
      form, number, sets = PLAIN, number + calls, resized
      if stamp > now then
        -- Booked, or in debt. Only the loop can tell how to undo that a group was dropped.
        form = AHEAD
        if action == CHARGE then
          if stamp > newest then lowest = stamp end
        elseif dropped > 0 then
          break
        end
      end
      --inline keep.lua
      if kind > 255 then
        head = pack(
          form == PLAIN and WRITTEN_SLIDING or action == CHARGE and OWED_SLIDING or BOOKED_SLIDING, form + 256, stamp,
          number, was_print, all, total, last, first, old, used, slots, kept, now, lowest,
          number, newest, lowest, top
        )
      else
        head = pack(
          form == PLAIN and WRITTEN_TIMED or action == CHARGE and OWED_TIMED or BOOKED_TIMED, form + 256, stamp, number,
          print, debt_at, debt, kept, now, lowest, number, newest, lowest, top, last, owed
        )
      end
      if stamp > now and action ~= CHARGE then answer, head = head, sub(head, 1, FRONT_BYTES) end
    else
      found, found_left = until_at or t, newest > now and 0 or left
      if form == RICH and found == now and blocks <= now then break end
    end
    if edit then changed, changed_at, changed_end = edit, edit_at, edit_end end
    if cold then changed, changed_at = cold .. edit, cold_at end
  else
    form, newest, number, was_print = unpack_bytes(HEAD, stored)
    if was_print ~= print then break end
    form = form - shape
    tail_at = HEAD_BYTES + limits * HOT_BYTES + 1
    ring_at = tail_at + TAIL_BYTES + START_BYTES + limits * COLD_BYTES
    kept, clock, lowest, top = unpack_bytes(form == PLAIN and '<I7I7' or TAIL, stored, tail_at)
    if form ~= PLAIN or asked > 131071 or action == CHARGE then
      --inline rich.lua
    end
    if newest > t or clock > now then break end
    cold_at = ring_at - limits * COLD_BYTES
    local ends_at = ring_at
    ring_at = size + 1
    local at, hots, position, fits = HEAD_BYTES + 1, nil, 0, true
    repeat
      -- At stage 3, `sliding_now.lua` only tells the time: bookings of several limits are the loop's.
      local hot, edit, edit_at, edit_end, stage = nil, nil, nil, nil, 3
      local floor, dropped_at, dropped, largest = 0, 0, 0, nil
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
      else
        local last, owed = unpack_bytes(TIMED_HOT, stored, at)
        local debt_at, debt
        if kind == TOKEN then
          local units, permit, step = b, nil, nil
          permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
          --inline token_now.lua
        else
          local per = b
          if last > t then break end
          --inline fixed_now.lua
        end
        if fresh and not until_at then hot = pack(TIMED_HOT, debt_at, debt) end
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
    if form ~= PLAIN and not fresh and (found == t or found < blocks) then break end
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
  if action ~= TAKE or charge > capacity or is_penalized and form ~= RICH then break end
  -- A call that may wait is booked in the loop, for when it fits.
  if latest > now and found <= latest then
    booked_at = found
    break
  end
  local why = DENIED
  if form == RICH then
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
  if now - clock > CLOCK_UNSEEN and (form ~= PLAIN or now - newest > CLOCK_UNSEEN) then
    call('SETRANGE', bucket, tail_at + 6, pack('<I7', now))
  end
  return pack(REFUSAL, why, now, found_limit, found_left > 0 and found_left or 0, found), stored
until true
if limits > 1 then kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM) end
