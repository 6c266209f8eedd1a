-- The same for several limits: head and fronts one by one, and where rings lie between them that make the answer long, one
-- that only says which limit is the tightest.

if action == TAKE_NOW and limits > 1 and cost > 0 then
  stored = call('GET', bucket)
  local size, at, usual = 0, HEAD_BYTES + 1, true
  local form, count, clock, newest, sequence, kept = PLAIN, limits, now, 0, 0, 0
  if stored then
    size = #stored
    usual = size > HEAD_BYTES
    if usual then form, count, clock, newest, sequence, kept = unpack_bytes(HEAD, stored) end
    usual = usual and form == PLAIN and count == limits and clock <= now and newest <= now
  end

  -- The new record, but for the head and the last ring; `resized` where its length has changed already.
  local value, position, resized = '', 0, false
  local fresh, tight, least, tight_fresh = 0, 0, FAR, 0
  local slot, slot_at, ring, ring_at
  while usual do
    if cost > capacity then break end
    local was, denied_until, left, full_at
    slot, ring, ring_at = nil, nil, nil
    if kind == TOKEN then
      local last, debt, unit
      if stored then
        if at + TOKEN_BYTES > size + 1 then break end
        was, last, debt, unit, at = unpack_bytes(TOKEN_FRONT, stored, at)
      end
      --inline token_now.lua
      if denied_until then break end
      value = value .. pack(TOKEN_FRONT, TOKEN, last, debt, permit)
    else
      local was_per, total, last_at, last, first_at, first, head, used, slots
      if stored then
        if at + GROUPS_BYTES > size + 1 then break end
        was, was_per, total, last_at, last, first_at, first, head, used, slots, ring_at =
          unpack_bytes(GROUPS_FRONT, stored, at)
        at = ring_at + slots * SLOT_BYTES
        if at > size + 1 then break end
      end
      --inline window_now.lua
      -- Which limit holds a denied call back longest is said by the functions.
      if denied_until then break end
      value = value
        .. pack(GROUPS_FRONT, kind, per, total, last_at, last, first_at, first, head, used, slots)
    end
    if full_at > fresh then fresh = full_at end
    if left < least then tight, least, tight_fresh = position, left, full_at end
    position = position + 1
    if position == limits then break end
    if ring then
      resized = true
    elseif slot then
      ring = string.sub(stored, ring_at, slot_at - 1) .. slot .. string.sub(stored, slot_at + SLOT_BYTES, at - 1)
    elseif ring_at and ring_at < at then
      ring = string.sub(stored, ring_at, at - 1)
    end
    if ring then value = value .. ring end
    kind, capacity, a, b, c, d, from = unpack_bytes(RULE, request, from)
  end

  if usual and position == limits and (not stored or at == size + 1) then
    local extends = resized or fresh > kept
    sequence = (sequence + 1) % 4294967296
    if extends then kept = fresh + max(SLACK_LEAST, min(floor((fresh - now) / 2), SLACK_MOST)) end
    value = pack(HEAD, PLAIN, limits, now, now, sequence, kept) .. value
    --inline write_now.lua
    if #value <= NEAR then return value end
    return pack(ADMISSION, ADMITTED, now, now, sequence, tight, least, tight_fresh)
  end
end
