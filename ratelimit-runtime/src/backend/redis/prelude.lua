-- One decision on one bucket: all limits of a call are charged, or none is.
--
-- Times are microseconds since the Unix epoch. All numbers are integers below 2^53, which a double holds exactly; they are
-- packed, never written as text, because Lua writes 14 digits. What is answered and kept is exactly what the algorithms of
-- the crate answer and keep in memory.

local pack, unpack_bytes = struct.pack, struct.unpack
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

-- The latest time there is; sums that pass it stay there.
local FAR = 9007199254740991

local SLIDING, TOKEN, FIXED = 0, 1, 2
