-- The usual call, or those that came together, straight through: permits to take now, from one limit that is the same as
-- before, with a clock that goes forwards and no bookings ahead. It answers with the head and the front as it wrote them,
-- from which the caller reads all there is to know.
--
-- What it cannot do it leaves to what follows, before anything is written. The functions at the end decide the same, but to
-- define them takes longer, at each call, than all of this. For that reason, too, a record is read and written at once.

-- What is on record, '' where nothing is.
local stored
-- How many calls share the cost.
local calls = 1

if asked == TAKE_NOW + 256 or asked == TAKE_RUN + 256 then
  if asked ~= TAKE_NOW + 256 then calls = unpack_bytes('<I4', request, #request - 3) end
  stored = call('GET', bucket) or ''
  -- Left by `break`.
  repeat
    local size = #stored
    local form, newest, sequence, was, kept, seen = PLAIN + 256, 0, 0, kind, 0, 0
    local value, fresh, denied_until, left, full_at
    local changed, changed_at, changed_end, resized = '', size + 1, size + 1, false
    -- Of the kinds only a sliding window's has a second byte.
    if kind > 255 then
      local total, last, head, used, slots, ring_at = 0, 0, 0, 0, 0, ONE_SLIDING_BYTES + 1
      --inline slot.lua
      if size > 0 then
        if size < ONE_SLIDING_BYTES then break end
        form, newest, sequence, was, total, last, head, used, slots, kept, seen = unpack_bytes(ONE_SLIDING, stored)
        if form ~= PLAIN + 256 or was ~= kind or newest > now or seen > now or size ~= ONE_SLIDING_BYTES + slots * width then
          break
        end
      end
      --inline sliding_now.lua
      if not denied_until then
        sequence = (sequence + calls) % 4294967296
        value = pack(HEAD_SLIDING, PLAIN + 256, now, sequence, kind, total, last, head, used, slots)
      end
    elseif kind == TOKEN then
      local permit, step = unpack_bytes(TOKEN_RULE, request, from)
      local debt_at, debt, unit
      if size > 0 then
        if size ~= ONE_TOKEN_BYTES then break end
        form, newest, sequence, was, debt_at, debt, unit, kept, seen = unpack_bytes(ONE_TOKEN, stored)
        if form ~= PLAIN + 256 or newest > now or seen > now then break end
      end
      --inline token_now.lua
      if not denied_until then
        sequence = (sequence + calls) % 4294967296
        value = pack(HEAD_TOKEN, PLAIN + 256, now, sequence, TOKEN, debt_at, debt, permit)
      end
    else
      local was_per, total = b, 0
      if size > 0 then
        if size ~= ONE_FIXED_BYTES then break end
        form, newest, sequence, was, was_per, total, kept, seen = unpack_bytes(ONE_FIXED, stored)
        if form ~= PLAIN + 256 or was ~= FIXED or was_per ~= b or newest > now or seen > now then break end
      end
      --inline fixed_now.lua
      if not denied_until then
        sequence = (sequence + calls) % 4294967296
        value = pack(HEAD_FIXED, PLAIN + 256, now, sequence, FIXED, per, total)
      end
    end
    if denied_until then
      if how == BACKOFF or how == WAITS or asked ~= TAKE_NOW + 256 then break end
      if size > 0 and now - newest > CLOCK_UNSEEN and now - seen > CLOCK_UNSEEN then
        call('SETRANGE', bucket, kind == TOKEN and ONE_TOKEN_CLOCK or ONE_WINDOW_CLOCK, pack('<I7', now))
      end
      return pack(REFUSAL, DENIED, now, 0, left, denied_until)
    end
    fresh = full_at
    --inline write_now.lua
    return value
  until true
end
