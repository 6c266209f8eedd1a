-- Inlined: what comes of a pass.
local writes, done, is_denied = false, nil, false
local limit, limit_left = found_limit or tight, found_limit and found_left or tight_left
local fitting = 0
if keeping then
  if undoing then newest, lowest, top = undo_newest, undo_lowest, undo_top end
  if undoing and lowest > newest then newest = lowest end
  -- Nothing comes back to limits of other kinds.
  if is_other then done, answer = pack('<BI7', DONE, now), answer or (action == GIVE_BACK and done) end
  writes = not is_other
elseif never then
  limit, limit_left, is_denied = never, never_left, true
elseif each == 0 then
  done = pack(ADMISSION, ADMITTED, now, now, number, tight, room, tight_full)
elseif found > t and extra == 0 and room >= each and calls > 1 and t == now then
  -- As many calls of the run as fit, and what the next is told.
  fitting = math.floor(room / each)
  charge, extra, charging, again = fitting * each, each, true, true
elseif extra == 0 and found - now > max_wait then
  is_denied = true
elseif extra == 0 and found > t then
  t, stamp, charging, again = found, found, action ~= PEEK, true
elseif action == PEEK then
  done = pack(ADMISSION, ADMITTED, now, t, number, tight, room, tight_full)
elseif leases and stamp ~= math.max(newest, ends) then
  -- A lease ends with the fixed window that it is charged to.
  stamp, again = math.max(newest, ends), true
else
  if stamp > now and not leases then
    undo = is_other and '' or pack(UNDO, newest, lowest, top) .. undo
  end
  fitting = charge / each
  if is_other then
    number = unpack_bytes('<I7', request, #request - 6)
    start = number
  end
  number = number + fitting
  newest, lowest, top, writes = stamp, floor, number, true
end

local is_rich
if is_denied then
  if action ~= PEEK and how == BACKOFF and not never and were > 0 then
    local block = math.min(initial * 2 ^ math.min(offences, 63), longest)
    offences, offended, blocked = math.min(offences + 1, 4294967295), now, math.min(now + block, FAR)
    if blocked > found then found = blocked end
    fresh = math.min(now + longest, FAR)
    if back == 0 and was_form == RICH and fresh <= kept then
      clock = now
      call('SETRANGE', bucket, fronts_end - 1,
        pack('<I7I7I7I4I7I7I7I7', kept, now, start, offences, offended, blocked, lowest, top))
    elseif back == 0 then
      fronts, ring_at, shape, writes = sub(stored, HEAD_BYTES + 1, fronts_end - 1), rings_from, were * 256, true
      if was_form == RICH then givens = sub(stored, rings_from - were * GIVEN_BYTES, rings_from - 1) end
      changed, changed_at, changed_end = nil, size + 1, size + 1
    end
  end
  if action == TAKE_RUN then
    done = pack(RUN_ANSWER, RUN, now, t, t, 0, 0, 0, 0, 0, 0, 0, never and NEVER or DENIED, limit, limit_left, found)
  else
    done = pack(REFUSAL, never and NEVER or DENIED, now, limit, limit_left, never and 0 or found)
  end
end
if done and action ~= PEEK and not writes and not keeping then
  -- Nothing was charged: only the clock may have to be kept.
  if back > 0 and were == limits then
    answer, done, keeping, charging, again = done, nil, true, false, true
    t, stamp, back_at, back_cost = now, now, 0, 0
  elseif size > 0 and now - clock > CLOCK_UNSEEN then
    call('SETRANGE', bucket, fronts_end + 6, pack('<I7', now))
  end
end

-- Once a lease before has come back, what was asked for is decided.
if keeping then back_cost = 0 end
if writes then
  is_rich = (offences > 0 and (how == BACKOFF or keeping)) or lowest > now or newest > now or top ~= number
  local sets = resized or size == 0
  --inline keep.lua
  local head = pack(HEAD, (is_rich and RICH or PLAIN) + shape, newest, number) .. fronts
  local behind = pack(TAIL, kept, now, start)
  if is_rich then
    local bytes = shape / 256 * GIVEN_BYTES
    if #givens ~= bytes then givens = string.rep('\0', bytes) end
    behind = behind .. pack(EXTRA, offences, offended, blocked, lowest, top) .. givens
  end
  -- That the key was kept longer, or the clock looked at, is written with a new expiry or a RICH record.
  local value = (is_rich or was_form == RICH or keeping) and head .. behind or head
  if #value + (value == head and #behind or 0) ~= ring_at - 1 then sets = true end
  --inline write.lua
  if keeping then
    if not answer and action == GIVE_BACK then answer = pack('<BI7', DONE, now) end
  elseif is_denied then
    answer = done
  elseif action == TAKE_RUN and (leases or extra > 0 or is_rich) then
    answer = pack(
      RUN_ANSWER, RUN, now, stamp, ends, fitting, number, tight, room - charge, tight_full, tight_debt_at,
      tight_debt, DENIED, limit, math.max(0, limit_left - charge), found
    )
  elseif is_rich then
    answer = pack(ADMISSION, ADMITTED, now, t, number, tight, room - charge, tight_full) .. undo
  else
    answer = head
  end
elseif done and not keeping then
  answer = done
end
