-- Inlined: `charge` permits go into a sliding window as of `stamp`. The largest count is read if it
-- is needed: with the same print it is at least that of the call.
if largest and capacity > largest then largest = capacity end
all = all + charge
-- What counts no more goes once as many newer permits are on record as any count asked for.
while old > 0 do
  largest = largest or unpack_bytes('<I4', stored, cold_at + 9)
  local time, permits = unpack_bytes(slot, source, base + first * width)
  time = last_at - (last_at - time) % round
  if stamp - time < round and (all - permits < largest or time + per > now) then break end
  all, old, first = all - permits, old - 1, (first + 1) % slots
end
if stamp - last_at >= round then
  -- Longer ago than slots can tell.
  all, last = all - last, charge
elseif moves then
  last = last + charge
else
  --inline close.lua
end
total = total + charge
