-- One decision on one bucket: all limits of a call are charged, or none is. KEYS[1] is the bucket, ARGV[1] what is asked.
--
-- Times are microseconds since the Unix epoch. All numbers are integers below 2^53, which a double holds exactly; they are
-- packed, never written as text, because Lua writes 14 digits. What is answered and kept is exactly what the algorithms of
-- the crate answer and keep in memory.

local call, pack, unpack_bytes = redis.call, struct.pack, struct.unpack
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

-- The latest time there is; sums that pass it stay there.
local FAR = 9007199254740991

-- What stands in the place of "has a backoff" where permits are leased, see decide.lua.
local LEASES = 2
local TAKE, PEEK, GIVE_BACK, RESET, TAKE_NOW, TAKE_RUNS = 0, 1, 2, 3, 4, 5
local ADMITTED, DENIED, NEVER, DONE, RUNS = 0, 1, 2, 3, 4
local SLIDING, TOKEN, FIXED = 0, 1, 2

-- A limit as it is asked: kind, capacity, then of a sliding window the permits of a group and the period, of a token bucket
-- burst, units, units of a permit and step, of a fixed window nothing and the period.
local RULE, RULES_FROM = '<BI4I4I7I7I7', 16
-- The answers: ADMITTED, now, permitted at, sequence, limit, remaining, fresh at; DENIED or NEVER, now, limit, remaining,
-- until.
local ADMISSION, REFUSAL = '<BI7I7I4BI4I7', '<BI7BI4I7'
-- RUNS and now; where permits are leased, when they are charged and until when they may be spent; then of each run: how many are admitted, and if any are, as of the last of them, sequence, limit, remaining,
-- fresh at, and of a token bucket last and debt; then of those denied DENIED or NEVER, limit, remaining, until.
local RUN_ADMITTED, RUN_DENIED = '<I4I4BI4I7I7I7', '<BBI4I7'

-- A record: a head; then of each limit the front of its state and, if it is a window, its ring; and of a FULL record, which
-- has denials that block or a floor to remember, a tail. What begins with another byte is no record of this version.
local PLAIN, FULL = 16, 17
-- PLAIN or FULL, limits, clock, newest, sequence, kept until
local HEAD, HEAD_BYTES = '<BBI7I7I4I7', 27
-- kind, last, debt, unit
local TOKEN_FRONT, TOKEN_BYTES = '<BI7I7I7', 22
-- kind, per, total, last group: time and permits, first group of the ring: time and permits, ring: first slot, slots in use,
-- slots. The last group stands here only, the groups before it in the ring, oldest first.
local GROUPS_FRONT, GROUPS_BYTES = '<BI7I5I7I5I7I5BBB', 40
-- Head and front of a record of one limit.
local ONE_TOKEN, ONE_WINDOW = '<BBI7I7I4I7BI7I7I7', '<BBI7I7I4I7BI7I5I7I5I7I5BBB'
-- time, permits
local SLOT, SLOT_BYTES = '<I7I5', 12
-- The most groups of a state, and of one without holes.
local MOST, USUAL = 128, 64

-- A clock that is not written down for longer than this, because nothing was charged, is written down by a denial: so much
-- of a jump back may go unseen.
local CLOCK_UNSEEN = 1000000
-- A record is kept for half as long again as it counts, within these bounds: for so long it can be written in place, which
-- takes half as long as to set it with a new expiry.
local SLACK_LEAST, SLACK_MOST = 500000, 60000000
-- Bytes between two changes that are rather written again than left out.
local NEAR = 256
-- How much longer than it counts the state of a test is kept: the test's clock stands still while the server's goes on.
local TEST_SLACK = 3600000

local bucket, request = KEYS[1], ARGV[1]
-- All that is asked begins so, up to and with the first limit.
local action, limits, tested, has_backoff, now, cost, kind, capacity, a, b, c, d, from =
  unpack_bytes('<BBBBI7I4BI4I4I7I7I7', request)
if tested == 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
