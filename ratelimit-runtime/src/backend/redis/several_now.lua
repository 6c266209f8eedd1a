-- The same for several limits: the fronts one by one.

local taking = asked % 256
if not stored and (taking == TAKE_NOW or taking == TAKE_RUN) then
  if taking ~= TAKE_NOW then calls = unpack_bytes('<I4', request, #request - 3) end
  stored = call('GET', bucket) or ''
  local size = #stored
  local form = asked - taking + PLAIN
  local was_form, newest, sequence, kept, seen = form, 0, 0, 0, 0
  if size >= HEAD_BYTES then was_form, newest, sequence = unpack_bytes(HEAD, stored) end
  local usual = was_form == form and newest <= now and (size == 0 or size >= HEAD_BYTES)

  local fronts, fresh, ahead = nil, 0, (form - PLAIN) / 256
  -- Where the next front begins, and where the ring before it did.
  local at, ring_at = HEAD_BYTES + 1, size + 1
  local changed, changed_at, changed_end, resized = '', ring_at, ring_at, false
  while usual do
    local was, denied_until, left, full_at, front = kind, nil, nil, nil, nil
    if kind > 255 then
      local total, last, head, used, slots = 0, 0, 0, 0, 0
      local later, later_at, later_end = changed, changed_at, changed_end
      --inline slot.lua
      if size > 0 then
        if at + FIXED_FRONT_BYTES > ring_at then break end
        was, total, last, head, used, slots, at = unpack_bytes(SLIDING_FRONT, stored, at)
        ring_at = ring_at - slots * width
        if was ~= kind or ring_at < at then break end
      end
      changed = ''
      --inline sliding_now.lua
      if denied_until then break end
      if later ~= '' then
        if changed == '' then
          changed, changed_at = later, later_at
        else
          changed = changed .. sub(stored, changed_end, later_at - 1) .. later
        end
        changed_end = later_end
      end
      front = pack(SLIDING_FRONT, kind, total, last, head, used, slots)
    elseif kind == TOKEN then
      local permit, step, debt_at, debt, unit
      permit, step, from = unpack_bytes(TOKEN_RULE, request, from)
      if size > 0 then
        if at + TOKEN_FRONT_BYTES > ring_at then break end
        was, debt_at, debt, unit, at = unpack_bytes(TOKEN_FRONT, stored, at)
      end
      --inline token_now.lua
      if denied_until then break end
      front = pack(TOKEN_FRONT, TOKEN, debt_at, debt, permit)
    else
      local was_per, total = b, 0
      if size > 0 then
        if at + FIXED_FRONT_BYTES > ring_at then break end
        was, was_per, total, at = unpack_bytes(FIXED_FRONT, stored, at)
        if was ~= FIXED or was_per ~= b then break end
      end
      --inline fixed_now.lua
      if denied_until then break end
      front = pack(FIXED_FRONT, FIXED, per, total)
    end
    fronts = fronts and fronts .. front or front
    if full_at > fresh then fresh = full_at end
    ahead = ahead - 1
    if ahead == 0 then break end
    kind, capacity, a, b, from = unpack_bytes(RULE, request, from)
  end

  -- Which limit holds a denied call back longest is said by the functions.
  if ahead == 0 and (size == 0 or at + KEPT_BYTES == ring_at) then
    if size > 0 then kept, seen = unpack_bytes(KEPT, stored, at) end
    if seen <= now then
      local value = pack(HEAD, form, now, (sequence + calls) % 4294967296) .. fronts
      --inline write_now.lua
      return value
    end
  end
end
