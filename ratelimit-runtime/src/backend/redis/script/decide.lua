-- One operation on one bucket: all limits of a call are charged, or none is. KEYS[1] is the bucket,
-- ARGV[1] the request.
--
-- Times are microseconds since the Unix epoch. All numbers are integers below 2^53, which a double
-- holds exactly. They are packed, never written as text, because Lua writes 14 digits. The answers
-- are exactly those of the crate's `Record`.
--
-- There are no functions: creating one at each call costs more than most of the work here. All
-- operations share one loop over the limits. Most pass through it once; a booking, a partly
-- admitted run, a lease that follows another, and a denial after the clock went back pass again.
--
-- Redis hashes every byte of every string that a script gets or makes. Requests and records are
-- therefore short, and no string is longer than needed.

local call, unpack_bytes = redis.call, struct.unpack
local bucket, request = KEYS[1], ARGV[1]
local asked, cost, print, kind, capacity, a, b, from = unpack_bytes(REQUEST, request)
local now, tested, spans
if asked < 16777216 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  if asked % 33554432 < 16777216 then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
  else
    -- A test's time is the last field.
    asked, tested = asked - 16777216, true
    now = unpack_bytes('<I7', request, #request - 6)
    request = string.sub(request, 1, -8)
  end
  -- The boundaries of calendars come before it. Such a request stays above the bound of the fast
  -- path.
  if asked > 16777215 then
    local bytes = unpack_bytes('<I4', request, #request - 3)
    spans = string.sub(request, -4 - bytes, -5)
    request = string.sub(request, 1, -5 - bytes)
  end
end
local pack, sub = struct.pack, string.sub
local stored, answer, booked_at
local action = asked % 256
if asked < 196608 and cost > 0 and (action == TAKE or action == TAKE_RUN or action == CHARGE) then
  --inline usual.lua
elseif action == GIVE_BACK and cost > 0 and asked < 65536 then
  --inline back_now.lua
end

local shape = asked % 65536 - action
local how = (asked - action - shape) / 65536 % 256
local limits = shape / 256
if action == RESET or action >= BLOCK then
  --inline block.lua
end

-- The request's tail, from its end: the number before the first charge of a new record; for waits
-- and backoffs their times; for leases their validity and what comes back; for runs the cost and
-- the number of calls. For a returned permit: its time, its number, and the bytes of its undo.
local leases = how == LEASES
local each, calls, charge, extra = cost, 1, cost, 0
local initial, longest, max_wait = 0, 0, 0
local back_at, back_number, back_cost, undo_bytes = 0, 0, 0, 0
local tail = #request - 6
if action == GIVE_BACK then
  tail, back_cost = #request - 15, cost
  back_at, back_number, undo_bytes = unpack_bytes('<I7I7I2', request, tail)
else
  if how ~= 0 then
    tail = tail - 21
    initial, longest, max_wait = unpack_bytes('<I7I7I7', request, tail)
    if leases then
      tail, back_at = tail - 11, longest
      back_number, back_cost = unpack_bytes('<I7I4', request, tail)
    end
  end
  if action == TAKE_RUN then each, calls = unpack_bytes('<I4I4', request, tail - 8) end
end

repeat
  stored = stored or call('GET', bucket) or ''
  --inline record.lua
  -- The clock went back: ages stay as they were when it was last read.
  local back = 0
  if clock > now then
    back = clock - now
    newest, lowest = math.max(0, newest - back), math.max(0, lowest - back)
    offended, blocked, held = math.max(0, offended - back), math.max(0, blocked - back), math.max(0, held - back)
  end
  -- When the key's block by denials ends; and until when every call is denied, also at cost 0: the
  -- end of an explicit block or of a ban. A charge is not denied.
  local blocks, bars = 0, action ~= CHARGE and held or 0
  if how == BACKOFF and action ~= GIVE_BACK then
    if offences > 0 and now >= offended + longest then offences, offended, blocked = 0, 0, 0 end
    if action ~= CHARGE then
      blocks = blocked
      if initial > longest and blocks > bars then bars = blocks end
    end
  end
  if bars > blocks then blocks = bars end

  -- Whether states change without a charge: permits come back, or the clock went back.
  local keeping, undoing = back_cost > 0, false
  if keeping then
    undoing = undo_bytes > 0 and top == back_number and back_at > now
    -- Permits of another record are ignored. A booking is undone if it is the newest, and stays if
    -- another follows it.
    local start = back_number
    if size > 0 then start = unpack_bytes('<I7', stored, colds_at - START_BYTES) end
    local is_ahead = back_at > now and not undoing and not leases
    if back_number <= start or back_number > number or were ~= limits or is_ahead then keeping = false end
    if action == GIVE_BACK and not keeping then return pack('<BI7', DONE, now) end
  elseif action == GIVE_BACK then
    return pack('<BI7', DONE, now)
  end
  local undo_newest, undo_lowest, undo_top, undo_at
  -- How far the clock went back since the booking.
  local shift = 0
  if undoing then
    undo_newest, undo_lowest, undo_top, undo_at = unpack_bytes(UNDO, request, tail - undo_bytes)
    if back_at > newest then shift = back_at - newest end
    undo_newest, undo_lowest = math.max(0, undo_newest - shift), math.max(0, undo_lowest - shift)
  end

  -- Judged as of `t`, charged as of `stamp`.
  --
  -- Leases are judged as of now, and all later charges count. No period then holds more spent
  -- permits than a window allows. Of the permits spent in a period, take the one decided last. It
  -- was decided at most a period after the others were spent. None is charged as of a time before
  -- its spending, so the decision counted them all.
  local t, ahead = now, newest > now
  if leases then
    if lowest > t then t = lowest end
  elseif not keeping then
    if ahead then t = newest elseif booked_at then t = booked_at end
  end
  local stamp, ends = t, t
  if leases and not keeping and action == TAKE_RUN then
    ends = now + initial
    stamp = math.max(newest, ends)
  end
  local charging = not keeping and action ~= PEEK and each > 0 and t - now <= max_wait and blocks - now <= max_wait
  if action == CHARGE then charging = true end
  -- Whether a charge does not fit, which the first pass finds out.
  local again, owes = false, false

  repeat
    if again then kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM) end
    again = false
    local hots, colds, fresh, undo, givens, is_rich = nil, '', 0, '', '', false
    -- When the calls fit, and the limit that fits last; the limit with the least room; a limit that
    -- can never admit as much.
    local found, found_limit, found_left = t, nil, 0
    local tight, room, tight_left, tight_full, tight_debt_at, tight_debt = 0, FAR, 0, 0, 0, 0
    local never, never_left
    -- Whether it is too early for a window that was already charged.
    local is_early = false
    -- Whether a window is charged ahead of now, after the clock went back. The fast path does not
    -- look for it.
    local is_later = false
    -- Bookings have no print, nor have records whose rings differ in slots from the limits' own.
    local is_booking = (t > now or owes) and charging and not leases
    local is_other, is_changed, floor, kept_print = were ~= limits, was_print ~= print or is_booking, lowest, print
    -- New bytes of the rings, which replace the stored bytes from `changed_at` to `changed_end`.
    local ring_at = size + 1
    local changed, changed_at, changed_end, resized = nil, ring_at, ring_at, false
    -- The place of the next calendar's boundaries, and a time beyond them.
    local spans_at, missing = 1, nil
    for position = 0, limits - 1 do
      if position > 0 then kind, capacity, a, b, from = unpack_bytes(RULE, request, from) end
      local at, cold_at = HEAD_BYTES + 1 + position * HOT_BYTES, colds_at + position * COLD_BYTES
      local is_there = position < were
      local given_window, given = 0, 0
      if ahead and is_there and was_form == RICH then
        given_window, given = unpack_bytes(GIVEN, stored, tail_at + TAIL_BYTES + EXTRA_BYTES + position * GIVEN_BYTES)
      end
      -- The permits taken, if the limit on record is of another kind. They count as taken now.
      local taken
      -- Permits left now, and at `t`; when the limit is idle again; when the calls fit, if later;
      -- the parts to store; the change of the ring.
      local left, has, full_at, until_at, hot, cold, edit, edit_at, edit_end = 0, 0, 0, nil, nil, nil, nil, 0, 0
      local debt_at, debt = 0, 0
      if kind > 255 then
        --inline sliding.lua
      elseif kind == TOKEN then
        --inline token.lua
      else
        --inline fixed.lua
      end
      if taken then is_other = true end
      if has < 0 then has = 0 end
      if leases or not ahead then left = has end
      --inline edits.lua
      if each > capacity and not never and action ~= CHARGE then never, never_left = position, left end
      if until_at and until_at > found then found, found_limit, found_left = until_at, position, left end
      if action == CHARGE and not is_booking then
        owes = owes or until_at or charge > has
      elseif action == CHARGE and until_at > stamp then
        -- The limits before have to be charged again, as of a later time.
        stamp, again = until_at, position > 0
      end
      if has < room then
        tight, room, tight_left, tight_full, tight_debt_at, tight_debt = position, has, left, full_at, debt_at, debt
      end
      if full_at > fresh then fresh = full_at end
      if hot then
        if hots then hots = hots .. hot else hots = hot end
        if is_changed then colds = colds .. cold end
        if ahead or stamp > now then
          givens = givens .. pack(GIVEN, given_window, given)
          if given > 0 then is_rich = true end
        end
      else
        charging = false
      end
    end
    if missing then return pack(MISSING, BEYOND, now, missing) end
    --inline outcome.lua
  until not again
  if not answer then
    stored = nil
    kind, capacity, a, b, from = unpack_bytes(RULE, request, RULES_FROM)
  end
until answer
-- Redis answers with the first. `together.lua` needs the record too.
return answer, stored
