-- One decision on one bucket: all limits of a call are charged, or none is. KEYS[1] is the bucket, ARGV[1] what is asked.
--
-- Times are microseconds since the Unix epoch. All numbers are integers below 2^53, which a double holds exactly; they are
-- packed, never written as text, because Lua writes 14 digits. What is answered and kept is exactly what the algorithms of
-- the crate answer and keep in memory.
--
-- Redis hashes every byte of every string that a script gets or makes: therefore what is asked and what is kept are short,
-- and no longer string is made than is needed.

local call, pack, unpack_bytes, sub = redis.call, struct.pack, struct.unpack, string.sub
local bucket, request = KEYS[1], ARGV[1]
local asked, tested, how, cost, kind, capacity, a, b, from = unpack_bytes(REQUEST, request)
local now
if tested == 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  -- The time of a test stands at the end.
  now = unpack_bytes('<I7', request, #request - 6)
  request = sub(request, 1, -8)
end
