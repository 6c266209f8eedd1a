-- The usual call, straight through: permits to take now or not at all, the same limits as before, a clock that goes
-- forwards, no bookings ahead. It answers for one limit with the head and the front as it wrote them, from which the caller
-- reads all there is to know.
--
-- What it cannot do it leaves to what follows, before anything is written. The functions below decide the same, but to
-- define them takes longer, at each call, than all of this.

-- What is on record, `false` where nothing is.
local stored

if action == TAKE_NOW and cost > 0 then
  stored = call('GET', bucket)
  local usual, size, clock, sequence, kept = true, 0, now, 0, 0
  if stored then
    size = #stored
    usual = size > HEAD_BYTES
    if usual then
      local kind, count, newest
      kind, count, clock, newest, sequence, kept = unpack_bytes(HEAD, stored)
      usual = kind == PLAIN and count == limits and clock <= now and newest <= now
    end
  end

  -- `value` is the new record up to the front of the limit at hand. Of the ring behind it either nothing changes, or one
  -- slot, or it has grown.
  local value, at, rule_at, position = '', HEAD_BYTES + 1, from, 0
  local ring_at, slot, slot_at, ring, resized
  local fresh, tight, least, tight_fresh = 0, 0, FAR, 0
  while usual and position < limits do
    local kind, capacity, a, b, c, d
    kind, capacity, a, b, c, d, rule_at = unpack_bytes(RULE, request, rule_at)
    if position > 0 then
      if not ring then
        ring = slot and sub(stored, ring_at, slot_at - 1) .. slot .. sub(stored, slot_at + SLOT_BYTES, at - 1)
          or sub(stored or '', ring_at, at - 1)
      end
      value = value .. ring
    end
    local left, full_at, denied_until
    slot, ring = nil, nil
    if kind == TOKEN then
      local burst, units, permit, step, last, debt = a, b, c, d, now, 0
      if stored then
        if at + TOKEN_BYTES > size + 1 then break end
        local was, unit
        was, last, debt, unit, at = unpack_bytes(TOKEN_FRONT, stored, at)
        if was ~= TOKEN or unit ~= permit or debt > burst * permit or last > now then break end
        local steps = floor((now - last) / step)
        if steps >= ceil(debt / units) then
          last, debt = now, 0
        else
          debt = debt - steps * units
          last = debt < units and now or last + steps * step
        end
      end
      local over = debt - (capacity - cost) * permit
      if over > 0 then
        denied_until, left = min(last + ceil(over / units) * step, FAR), max(0, capacity - ceil(debt / permit))
      else
        debt = debt + cost * permit
        left, full_at = capacity - ceil(debt / permit), min(last + ceil(debt / units) * step, FAR)
        value = value .. pack(TOKEN_FRONT, TOKEN, last, debt, permit)
      end
      ring_at = at
    else
      local full, per, gone, stamp = a, b, now - b, now
      if kind == FIXED then
        stamp = now - now % per
        gone = stamp - 1
      end
      local total, last_at, last, first_at, first, head, used, slots = 0, 0, 0, 0, 0, 0, 0, 0
      ring_at = at
      if stored then
        if at + GROUPS_BYTES > size + 1 then break end
        local was, was_per
        was, was_per, total, last_at, last, first_at, first, head, used, slots, ring_at =
          unpack_bytes(GROUPS_FRONT, stored, at)
        at = ring_at + slots * SLOT_BYTES
        if was ~= kind or (kind == FIXED and was_per ~= per) or at > size + 1 then break end
        while used > 0 and first_at <= gone do
          total, head, used = total - first, (head + 1) % slots, used - 1
          if used > 0 then first_at, first = unpack_bytes(SLOT, stored, ring_at + head * SLOT_BYTES) end
        end
        if used == 0 and last_at <= gone then total, last = 0, 0 end
      end
      if total + cost > capacity then
        if kind == FIXED then
          denied_until = stamp + per
        elseif used == 0 then
          denied_until = last_at + per
        elseif total - first + cost <= capacity then
          denied_until = first_at + per
        else
          break
        end
        left = max(0, capacity - total)
      else
        if last > 0 and (last_at == stamp or last < full) then
          last = last + cost
        else
          if last > 0 then
            if used + 2 > MOST then break end
            slot = pack(SLOT, last_at, last)
            if used == 0 then first_at, first = last_at, last end
            if used < slots then
              slot_at = ring_at + (head + used) % slots * SLOT_BYTES
            else
              -- No more slots than a window without holes needs; else an eighth to spare.
              local more = max(1, min(floor(slots / 8), USUAL - 1 - slots))
              ring = sub(stored, ring_at + head * SLOT_BYTES, at - 1)
                .. sub(stored, ring_at, ring_at + head * SLOT_BYTES - 1)
                .. slot .. rep('\0', (more - 1) * SLOT_BYTES)
              head, slots, resized = 0, slots + more, true
            end
            used = used + 1
          end
          last = cost
        end
        last_at, total = stamp, total + cost
        left, full_at = capacity - total, stamp + per
        value = value
          .. pack(GROUPS_FRONT, kind, per, total, last_at, last, first_at, first, head, used, slots)
      end
    end
    if denied_until then
      -- Of several limits another may hold it back longer; and the clock may have to be written down.
      if limits > 1 or not stored or at <= size or now - clock > CLOCK_UNSEEN or cost > capacity then break end
      return pack(REFUSAL, DENIED, now, 0, left, denied_until)
    end
    if full_at > fresh then fresh = full_at end
    if left < least then tight, least, tight_fresh = position, left, full_at end
    position = position + 1
  end

  if usual and position == limits and (not stored or at == size + 1) then
    sequence = (sequence + 1) % 4294967296
    local keep_longer = fresh > kept
    if keep_longer then kept = fresh + max(SLACK_LEAST, min(floor((fresh - now) / SLACK_PART), SLACK_MOST)) end
    value = pack(HEAD, PLAIN, limits, now, now, sequence, kept) .. value
    if keep_longer or resized then
      ring = ring
        or slot and sub(stored, ring_at, slot_at - 1) .. slot .. sub(stored, slot_at + SLOT_BYTES)
        or sub(stored or '', ring_at)
      if tested == 1 then
        call('SET', bucket, value .. ring, 'PX', ceil((kept - now) / 1000) + TEST_SLACK)
      else
        call('SET', bucket, value .. ring, 'PXAT', ceil(kept / 1000))
      end
    elseif slot and slot_at - #value <= NEAR then
      call('SETRANGE', bucket, '0', value .. sub(stored, #value + 1, slot_at - 1) .. slot)
    else
      call('SETRANGE', bucket, '0', value)
      if slot then call('SETRANGE', bucket, slot_at - 1, slot) end
    end
    if limits == 1 then return value end
    return pack(ADMISSION, ADMITTED, now, now, sequence, tight, least, tight_fresh)
  end
end
