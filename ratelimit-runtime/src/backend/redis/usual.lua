-- Inlined: the usual call, or those that came together, straight through: permits to take now, from one limit that is the
-- same as before, by a clock that goes forwards and with nothing ahead. What it cannot do it leaves to the loop, which decides
-- the same, before anything is written.
local calls, charge = 1, cost
if asked ~= 256 then calls = unpack_bytes('<I4', request, #request - 10) end
stored = call('GET', bucket) or ''
repeat -- Left by `break`.
  local size, form, newest, number, was, kept, clock = #stored, PLAIN + 256, 0, nil, kind, 0, 0
  local t, stamp, ring_at = now, now, HEAD_BYTES + FRONT_BYTES + TAIL_BYTES + 1
  local head, fresh, until_at, left, edit, edit_at, edit_end, resized, sets
  if size > 0 and size < ring_at - 1 then break end
  local start
  if size == 0 then start = unpack_bytes('<I7', request, #request - 6) end
  if kind > 255 then
    local per, layout, slot, round = b, kind, nil, nil
    --inline slot.lua
    local per_was, largest, all, total, last, first, old, used, slots = per, 0, 0, 0, 0, 0, 0, 0, 0
    if size > 0 then
      form, newest, number, was, per_was, largest, all, total, last, first, old, used, slots, kept, clock =
        unpack_bytes(ONE_SLIDING, stored)
    end
    if form ~= PLAIN + 256 or was ~= kind or per_was ~= per or newest > now or clock > now then break end
    local width, source, base, last_at, rebuilt = layout / 256, stored, ring_at, newest, false
    local gone = newest + per - now
    local live = gone > 0
    if live then
      while used > 0 do
        local time, permits = unpack_bytes(slot, source, base + (first + old) % slots * width)
        if (newest - time) % round < gone then break end
        total, old, used = total - permits, old + 1, used - 1
      end
    else
      total, old, used = 0, old + used, 0
    end
    if total + charge > capacity then
      left = capacity - total
      local over = charge - left
      for i = old, old + used - 1 do
        local time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width)
        over = over - permits
        if over <= 0 then
          until_at = newest - (newest - time) % round + per
          break
        end
      end
      if not until_at then until_at = newest + per end
    else
      local group, floor, dropped_at, dropped = a, 0, 0, 0
      local moves = last == 0 or newest == now or (live and last < group)
      edit_at, edit_end = base, size + 1
      fresh = now + per
      --inline charge.lua
      --inline keep.lua
      head = pack(HEAD_SLIDING, PLAIN + 256, now, (number or start) + calls, kind, per, largest, all, total, last, first, old, used, slots)
    end
  elseif kind == TOKEN then
    local permit, step = unpack_bytes(TOKEN_RULE, request, from)
    local units, last, owed, unit, debt_at, debt = b, 0, 0, permit, 0, 0
    if size > 0 then
      local flow, every
      form, newest, number, was, last, owed, unit, flow, every, kept, clock = unpack_bytes(ONE_TOKEN, stored)
    end
    if form ~= PLAIN + 256 or was ~= TOKEN or unit ~= permit or newest > now or clock > now then break end
    local x = now
    --inline flow.lua
    local over = debt - (capacity - charge) * permit
    if over > 0 then
      until_at = math.min(debt_at + math.ceil(over / units) * step, FAR)
      left = capacity - math.ceil(debt / permit)
    else
      debt = debt + charge * permit
      fresh = math.min(debt_at + math.ceil(debt / units) * step, FAR)
      --inline keep.lua
      head = pack(HEAD_TOKEN, PLAIN + 256, now, (number or start) + calls, TOKEN, debt_at, debt, permit, units, step)
    end
  else
    local per, per_was, charged, total = b, 0, 0, 0
    if size > 0 then
      form, newest, number, was, per_was, charged, total, kept, clock = unpack_bytes(ONE_FIXED, stored)
    end
    if form ~= PLAIN + 256 or was ~= FIXED or newest > now or clock > now then break end
    local begin = now - now % per
    if charged < begin then total = 0 end
    if total + charge > capacity then
      until_at, left = begin + per, capacity - total
    else
      fresh = begin + per
      --inline keep.lua
      head = pack(HEAD_FIXED, PLAIN + 256, now, (number or start) + calls, FIXED, per, now, total + charge)
    end
  end
  if head then
    local value, behind, changed, changed_at, changed_end = head, nil, edit, edit_at, edit_end
    if not edit then changed_at, changed_end = ring_at, ring_at elseif resized then sets = true end
    if sets then
      local _, start = nil, start
      if number then _, _, start = unpack_bytes(TAIL, stored, ring_at - TAIL_BYTES) end
      behind = pack(TAIL, kept, now, start)
    end
    --inline write.lua
    return head
  end
  if charge > capacity or calls > 1 then break end
  if now - newest > CLOCK_UNSEEN and now - clock > CLOCK_UNSEEN then
    call('SETRANGE', bucket, ring_at - 15, pack('<I7', now))
  end
  return pack(REFUSAL, DENIED, now, 0, left > 0 and left or 0, until_at)
until true
