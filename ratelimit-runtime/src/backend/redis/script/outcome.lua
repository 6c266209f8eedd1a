-- Inlined: the outcome of a pass.
local writes, done, is_denied = false, nil, false
if blocks > found and each > 0 then found, found_limit = blocks, nil end
local limit, limit_left = found_limit or tight, found_limit and found_left or tight_left
local fitting, start = 0, nil
if keeping then
  if undoing then newest, lowest, top = undo_newest, undo_lowest, undo_top end
  if undoing and lowest > newest then newest = lowest end
  -- Nothing comes back to limits of other kinds.
  if is_other then done, answer = pack('<BI7', DONE, now), answer or (action == GIVE_BACK and done) end
  writes = not is_other
elseif action == CHARGE then
  -- A debt is charged in further passes, until the time of its last charge is known.
  if owes and not is_booking then again = true end
  if again then
    charging = true
  else
    if stamp > t and floor < stamp then floor = stamp end
    fitting, writes = 1, true
  end
elseif never then
  limit, limit_left, is_denied = never, never_left, true
elseif each == 0 and bars - now > max_wait then
  found, limit, limit_left, is_denied = bars, tight, tight_left, true
elseif each == 0 and bars > t then
  t, again = bars, true
elseif each == 0 then
  -- A bucket in debt has nothing left.
  local at = math.max(now, bars)
  local left = newest > at and not leases and 0 or room
  done = pack(ADMISSION, ADMITTED, now, at, number, tight, left, tight_full)
elseif found > t and extra == 0 and calls > 1 then
  -- The calls of the run that fit, and the answer to the next.
  if t == now and blocks <= now and not is_early then fitting = math.floor(room / each) end
  charge, extra, charging, again = fitting * each, each, fitting > 0, true
elseif extra > 0 and charge == 0 then
  is_denied = true
elseif extra == 0 and found - now > max_wait then
  is_denied = true
elseif extra == 0 and found > t then
  t, stamp, charging, again = found, found, action ~= PEEK, true
elseif action == PEEK then
  done = pack(ADMISSION, ADMITTED, now, t, number, tight, room, tight_full)
elseif leases and stamp ~= math.max(newest, ends) then
  -- A lease ends with the fixed window to which it is charged.
  stamp, again = math.max(newest, ends), true
else
  if stamp > now and not leases then
    undo = is_other and were > 0 and '' or pack(UNDO, newest, lowest, top) .. undo
  end
  fitting, writes = charge / each, true
end
if writes and not keeping then
  if is_other then
    number = unpack_bytes('<I7', request, #request - 6)
    start = sub(request, -7)
  end
  number = number + fitting
  newest, lowest, top = stamp, floor, number
end

if is_denied then
  local is_banned = initial > longest and blocked > now
  if action ~= PEEK and how == BACKOFF and not never and were > 0 and held <= now and not is_banned then
    --inline offence.lua
    fresh = now + longest
    if fresh > FAR then fresh = FAR end
    if blocked > found then found = blocked end
    if back == 0 and was_form == RICH and fresh <= kept then
      clock = now
      call('SETRANGE', bucket, tail_at + 6, pack(CLOCK_AND_PENALTIES, now, lowest, top, offences, offended, blocked))
    elseif back == 0 then
      hots, kept_print, is_changed, writes = sub(stored, HEAD_BYTES + 1, tail_at - 1), was_print, false, true
      if was_form == RICH then
        is_rich, givens = true, sub(stored, tail_at + TAIL_BYTES + EXTRA_BYTES, colds_at - START_BYTES - 1)
      end
      shape, ring_at, changed, changed_at, changed_end = were * 256, rings_at, nil, size + 1, size + 1
    end
  end
  local why = never and NEVER or bars > now and BLOCKED or DENIED
  if action == TAKE_RUN then
    done = pack(RUN_ANSWER, RUN, now, t, t, 0, 0, 0, 0, 0, 0, 0, why, limit, limit_left, found)
  else
    done = pack(REFUSAL, why, now, limit, limit_left, never and 0 or found)
  end
end
if done and action ~= PEEK and not writes and not keeping then
  -- Nothing was charged, but the clock may have to be stored.
  if back > 0 and were == limits then
    answer, done, keeping, charging, again = done, nil, true, false, true
    t, stamp, back_at, back_cost = now, now, 0, 0
  elseif back > 0 and size > 0 and were == 0 then
    call('SETRANGE', bucket, tail_at + 6, pack(CLOCK_AND_EXTRA, now, 0, 0, 0, 0, 0, held, 0))
  elseif size > 0 and now - clock > CLOCK_UNSEEN then
    call('SETRANGE', bucket, tail_at + 6, pack('<I7', now))
  end
end

-- The rest of the last lease is back: now the request is decided.
if keeping then back_cost = 0 end
if writes then
  is_rich = is_rich or (offences > 0 and (how == BACKOFF or keeping)) or (is_later and newest <= now)
    or held > now
  local is_ahead = is_rich or lowest > now or newest > now or top ~= number
  local sets, expires = resized or size == 0, size == 0
  --inline keep.lua
  local form = is_rich and RICH or is_ahead and AHEAD or PLAIN
  local head = pack(HEAD, form + shape, newest, number, kept_print) .. hots
  local behind = pack(TAIL, kept, now, lowest, top)
  local value = head
  if sets or is_changed or is_rich or was_form == RICH then
    if is_rich then
      local bytes = shape / 256 * GIVEN_BYTES
      if #givens ~= bytes then givens = string.rep('\0', bytes) end
      behind = behind .. pack(EXTRA, offences, offended, blocked, held, math.max(counts, fresh)) .. givens
    end
    behind = behind .. (start or sub(stored, colds_at - START_BYTES, colds_at - 1))
      .. (is_changed and colds or sub(stored, colds_at, colds_at + were * COLD_BYTES - 1))
    value = head .. behind
    if #value ~= ring_at - 1 then sets = true end
  elseif keeping or is_ahead or back > 0 then
    value = head .. behind
  end
  --inline write.lua
  if keeping then
    if not answer and action == GIVE_BACK then answer = pack('<BI7', DONE, now) end
  elseif is_denied then
    answer = done
  elseif action == CHARGE then
    answer = pack(ADMISSION, ADMITTED, now, stamp, number, tight, stamp > now and 0 or is_booking and room or room - charge, tight_full)
  elseif action == TAKE_RUN and (leases or extra > 0 or is_ahead) then
    answer = pack(
      RUN_ANSWER, RUN, now, stamp, ends, fitting, number, tight, room - charge, tight_full, tight_debt_at,
      tight_debt, DENIED, limit, math.max(0, limit_left - charge), found
    )
  elseif is_ahead then
    answer = pack(ADMISSION, ADMITTED, now, t, number, tight, room - charge, tight_full) .. undo
  else
    answer = head
  end
elseif done and not keeping then
  answer = done
end
