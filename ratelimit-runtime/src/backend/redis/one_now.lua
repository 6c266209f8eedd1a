-- The usual call, straight through: permits to take now or not at all, from one limit that is the same as before, with a
-- clock that goes forwards and no bookings ahead. It answers with the head and the front as it wrote them, from which the
-- caller reads all there is to know.
--
-- What it cannot do it leaves to what follows, before anything is written. The functions at the end decide the same, but to
-- define them takes longer, at each call, than all of this. For that reason, too, head and front are read and written at
-- once.

-- What is on record, `false` where nothing is.
local stored

if action == TAKE_NOW and limits == 1 and cost > 0 and cost <= capacity then
  stored = call('GET', bucket)
  -- Left by `break`.
  repeat
    local size, at = stored and #stored or 0, 0
    local form, count, clock, newest, sequence, kept, was = PLAIN, 1, now, 0, 0, 0, kind
    local value, extends, denied_until, left, full_at, slot, slot_at, ring, ring_at
    if kind == TOKEN then
      local last, debt, unit
      if stored then
        if size ~= HEAD_BYTES + TOKEN_BYTES then break end
        form, count, clock, newest, sequence, kept, was, last, debt, unit = unpack_bytes(ONE_TOKEN, stored)
        if form ~= PLAIN or count ~= 1 or clock > now or newest > now then break end
      end
      --inline token_now.lua
      if not denied_until then
        sequence, extends = (sequence + 1) % 4294967296, full_at > kept
        if extends then kept = full_at + max(SLACK_LEAST, min(floor((full_at - now) / 2), SLACK_MOST)) end
        value = pack(ONE_TOKEN, PLAIN, 1, now, now, sequence, kept, TOKEN, last, debt, permit)
      end
    else
      local was_per, total, last_at, last, first_at, first, head, used, slots
      if stored then
        if size < HEAD_BYTES + GROUPS_BYTES then break end
        form, count, clock, newest, sequence, kept,
          was, was_per, total, last_at, last, first_at, first, head, used, slots, ring_at = unpack_bytes(ONE_WINDOW, stored)
        at = ring_at + slots * SLOT_BYTES
        if form ~= PLAIN or count ~= 1 or clock > now or newest > now or at ~= size + 1 then break end
      end
      --inline window_now.lua
      if not denied_until then
        sequence, extends = (sequence + 1) % 4294967296, full_at > kept
        if extends then kept = full_at + max(SLACK_LEAST, min(floor((full_at - now) / 2), SLACK_MOST)) end
        value = pack(
          ONE_WINDOW, PLAIN, 1, now, now, sequence, kept,
          kind, per, total, last_at, last, first_at, first, head, used, slots
        )
      end
    end
    if denied_until then
      if not stored or now - clock > CLOCK_UNSEEN then break end
      return pack(REFUSAL, DENIED, now, 0, left, denied_until)
    end
    --inline write_now.lua
    return value
  until true
end
