-- Inlined: charges a sliding window whatever is left: what fits at `t`, then the rest of the last
-- windowful, then whole windowfuls, each as soon as it fits. The last group of the record is as of
-- `stamp`: if that is later, an empty group follows.
local fits = math.min(math.max(has, 0), charge)
local rest, portion, at_most = 0, 0, now + LONGEST_DEBT
if capacity > 0 then rest, portion = charge - fits, (charge - fits) % capacity end
until_at = t
-- When that ends, to know whether this pass charges.
if rest > 0 then
  local ends_at, over = nil, total + fits + (portion > 0 and portion or capacity) - capacity
  if portion > 0 or fits == 0 then
    for i = old, old + used - 1 do
      local time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width)
      over = over - permits
      if over <= 0 then
        ends_at = last_at - (last_at - time) % round + per
        break
      end
    end
  end
  if not ends_at then
    ends_at = last_at + per
    -- The last group moves, has expired, or is followed by what fits.
    if fits > 0 and (ends_at <= t or last < group or over > last) then ends_at = t + per end
  end
  if ends_at <= at_most then
    local windowfuls = (rest - portion) / capacity
    if portion > 0 then
      until_at = ends_at
      if windowfuls > 0 then ends_at = ends_at + per end
    end
    if windowfuls > 0 and ends_at <= at_most then
      until_at = ends_at + math.min(windowfuls - 1, math.floor((at_most - ends_at) / per)) * per
    end
  end
end
if until_at <= stamp or owes_alone then
  if not rebuilt then
    source, base, rebuilt = sub(stored, base, base + slots * width - 1), 1, true
    edit, resized = source, true
  end
  until_at = t
  local ends, stage, charge = stamp, 1, fits
  local stamp = t
  repeat
    if stage == 2 then charge = portion
    elseif stage == 3 then charge = rest - portion
    elseif stage == 4 then charge = 0 end
    local is_due = charge > 0
    if is_due and stage > 1 then
      if stage == 3 then charge = capacity end
      local over = total + charge - capacity
      stamp = last_at + per
      for i = old, old + used - 1 do
        local time, permits = unpack_bytes(slot, source, base + (first + i) % slots * width)
        over = over - permits
        if over <= 0 then
          stamp = last_at - (last_at - time) % round + per
          break
        end
      end
      if stamp > at_most then
        is_due, rest, portion = false, 0, 0
      else
        if stage == 3 then
          stamp = stamp + math.min((rest - portion) / capacity - 1, math.floor((at_most - stamp) / per)) * per
        end
        until_at = stamp
      end
    elseif stage == 4 then
      if last > 0 then full_at = last_at + per end
      if owes_alone and until_at > ends then ends = until_at end
      stamp, is_due = ends, last > 0 and ends > last_at
    end
    -- Drops what has expired by then.
    if is_due or stage == 4 then
      local gone = last_at + per - stamp
      if gone <= 0 then
        total, old, used = 0, old + used, 0
      else
        while used > 0 do
          local time, permits = unpack_bytes(slot, source, base + (first + old) % slots * width)
          if (last_at - time) % round < gone then break end
          total, old, used = total - permits, old + 1, used - 1
        end
      end
    end
    if is_due then
      local live, dropped_at, dropped = last_at + per > stamp, 0, 0
      local moves = stage < 4 and (last == 0 or last_at == stamp or (live and last < group))
      --inline charge.lua
      source, last_at = edit, stamp
    end
    stage = stage + 1
  until stage > 4
else
  is_new = false
end
has = capacity - total
