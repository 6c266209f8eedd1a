-- Inlined: the first charge of a bucket of one limit. What does not fit goes on with an empty record.
local at, taken, calls = now, charge, calls
if charge > capacity then at, taken, calls = 0, 0, 0 end
local number = unpack_bytes('<I7', request, #request - 6)
local kept, stamp, fresh, permit, step, sets, expires, record = 0, now, now + b, nil, nil, nil, nil, nil
if kind == TOKEN then
  permit, step = unpack_bytes(TOKEN_RULE, request, from)
  fresh = now + math.ceil(charge * permit / b) * step
  if fresh > FAR then fresh = FAR end
elseif kind == FIXED then
  fresh = now - now % b + b
end
if taken > 0 then
  --inline keep.lua
end
if kind > 255 then
  record = pack(
    NEW_SLIDING, PLAIN + 256, at, number + calls, print, taken, taken, taken, 0, 0, 0, 0, kept, at, 0, number + calls,
    number, kind, b, capacity
  )
else
  record = pack(
    NEW_TIMED, PLAIN + 256, at, number + calls, print, at, taken * (permit or 1), kept, at, 0, number + calls, number,
    kind, permit or b, permit and b or 0, step or 0
  )
end
if taken > 0 then
  --inline set.lua
  return sub(record, 1, HEAD_BYTES + HOT_BYTES), stored
end
-- It is not stored yet.
stored, size, resized = record, ONE_BYTES, true
