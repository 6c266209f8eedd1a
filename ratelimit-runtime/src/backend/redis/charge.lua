-- Inlined: `charge` permits go into a sliding window as of `stamp`.
if capacity > largest then largest = capacity end
all = all + charge
-- What counts no more goes once as many newer permits are on record as any count asked for.
while old > 0 do
  local time, permits = unpack_bytes(slot, source, base + first * width)
  time = last_at - (last_at - time) % round
  if stamp - time < round and (all - permits < largest or time + per > now) then break end
  all, old, first = all - permits, old - 1, (first + 1) % slots
end
if moves then
  last = last + charge
else
  --inline close.lua
end
total = total + charge
