-- Inlined: charges `charge` permits to a sliding window as of `stamp`. The largest count is read
-- only if needed: with the same print it is at least the call's.
if largest and capacity > largest then largest = capacity end
all = all + charge
-- Expired groups are dropped once as many newer permits as any count are on record.
while old > 0 do
  local time, permits = unpack_bytes(slot, source, base + first * width)
  time = last_at - (last_at - time) % round
  if stamp - time < round then
    if time + per > now or all - permits < capacity then break end
    largest = largest or unpack_bytes('<I4', stored, cold_at + 9)
    if all - permits < largest then break end
  end
  if stamp - time >= round and stamp > now and leases == nil then
    local reach = stamp - time
    --inline widen_now.lua
  else
    all, old, first = all - permits, old - 1, (first + 1) % slots
  end
end
if stamp - last_at >= round then
  -- Longer ago than a slot's time can express.
  all, last = all - last, charge
elseif moves then
  last = last + charge
else
  --inline close.lua
end
total = total + charge
