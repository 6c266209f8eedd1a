-- Inlined: charges a sliding window whatever is left, in the same steps as the fast path. The last
-- group of the record is as of `stamp`: if that is later, an empty group follows.
local dropped_at, dropped, stage, portion, windowfuls = 0, 0, nil, nil, nil
if not rebuilt then
  source, base, rebuilt = sub(stored, base, base + slots * width - 1), 1, true
  edit, resized = source, true
end
do
  local charge, t, stamp, left, fresh, latest = charge, t, t, 0, 0, charge < capacity and now + LONGEST_DEBT or 0
  repeat
    if until_at then t, stamp, until_at = until_at, until_at, nil end
    --inline sliding_now.lua
    if until_at or stage then
      --inline steps.lua
    end
  until not until_at or until_at > latest
  if not until_at then source, last_at = edit, t end
end
if last > 0 then full_at = last_at + per end
until_at = math.max(t, last_at)
do
  local charge, t, moves = 0, math.max(stamp, until_at), false
  local stamp = t
  --inline expire.lua
  if last > 0 and t > last_at then
    --inline charge.lua
  end
end
has = capacity - total
