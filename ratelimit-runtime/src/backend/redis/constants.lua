-- What the names in capitals of the script stand for: `script.rs` puts the values in their places, because Lua would load
-- each at every call. A name and its value are a line; layouts are those of `struct`.

-- What is asked: how the codec of the crate numbers it.
local TAKE = 0
local PEEK = 1
local GIVE_BACK = 2
local RESET = 3
local TAKE_NOW = 4
local TAKE_RUNS = 5
-- Calls of one cost that came together: what is asked is what all cost, behind the limits stands the rest as of TAKE_RUNS.
local TAKE_RUN = 6
-- How it is decided: with a backoff, or where permits are leased, see decide.lua, or by one who would wait.
local BACKOFF = 1
local LEASES = 2
local WAITS = 3

-- All that is asked begins so: the action with 256 * limits, whether it is a test's, how it is decided, the cost, and the
-- first limit.
local REQUEST = '<I2BBI4I2I4I4I7'
local RULES_FROM = 9
-- A limit: its kind, capacity, then of a sliding window the permits of a group and the period, of a token bucket burst and
-- units, behind which stand the units of a permit and the step, of a fixed window nothing and the period.
local RULE = '<I2I4I4I7'
local TOKEN_RULE = '<I7I7'
-- A limit's kind; of a sliding window with the bytes of a slot, as SLIDING + 256 * bytes, see slot.lua.
local SLIDING = 0
local TOKEN = 1
local FIXED = 2

-- What is answered.
local ADMITTED = 0
local DENIED = 1
local NEVER = 2
local DONE = 3
local RUNS = 4
-- ADMITTED, now, permitted at, sequence, limit, remaining, fresh at.
local ADMISSION = '<BI7I7I4BI4I7'
-- DENIED or NEVER, now, limit, remaining, until.
local REFUSAL = '<BI7BI4I7'
-- RUNS and now; where permits are leased, when they are charged and until when they may be spent; then of each run: how many
-- are admitted, and if any are, as of the last of them, sequence, limit, remaining, fresh at, and of a token bucket last and
-- debt; then of those denied DENIED or NEVER, limit, remaining, until.
local RUN_ADMITTED = '<I4I4BI4I7I7I7'
local RUN_DENIED = '<BBI4I7'

-- A record begins with PLAIN or FULL and 256 * limits, the newest admission and its sequence number. What begins with
-- another byte is no record of this version.
local PLAIN = 18
local FULL = 19
local HEAD = '<I2I7I4'
local HEAD_BYTES = 13

-- A PLAIN one goes on with the front of each limit, then until when it is kept and when the clock was written down last,
-- unless the newest admission is later, and then, the last limit's first, the rings of the sliding windows.
--
-- The front is of a sliding window its kind, total, permits of the last group, and of the ring the first slot, slots in use,
-- and slots: the last group is as of the newest admission, and the groups before it are in the ring, the oldest first. Of a
-- token bucket it is its kind, last, debt, unit; of a fixed window its kind, period, and permits in the window of the newest
-- admission.
local SLIDING_FRONT = '<I2I4I4BBB'
local TOKEN_FRONT = '<I2I7I7I7'
local TOKEN_FRONT_BYTES = 23
local FIXED_FRONT = '<I2I7I4'
-- That of a sliding window too.
local FIXED_FRONT_BYTES = 13
local KEPT = '<I7I7'
local KEPT_BYTES = 14
-- Head and front of a record of one limit; and all of it but for the ring.
local HEAD_SLIDING = '<I2I7I4I2I4I4BBB'
local ONE_SLIDING = '<I2I7I4I2I4I4BBBI7I7'
local ONE_SLIDING_BYTES = 40
local HEAD_TOKEN = '<I2I7I4I2I7I7I7'
local ONE_TOKEN = '<I2I7I4I2I7I7I7I7I7'
local ONE_TOKEN_BYTES = 50
local HEAD_FIXED = '<I2I7I4I2I7I4'
local ONE_FIXED = '<I2I7I4I2I7I4I7I7'
local ONE_FIXED_BYTES = 40
-- Where in it the clock stands, from 0.
local ONE_TOKEN_CLOCK = '43'
local ONE_WINDOW_CLOCK = '33'

-- A FULL one has denials that block, a floor to remember, or what no PLAIN one can say. It goes on with: clock, floor,
-- offences: how many, the last, blocked until; then each limit: kind, and of a token bucket last, debt and unit, of a window
-- its period and groups, and of each group, the oldest first, time and permits.
local FULL_HEAD = '<I7I7I4I7I7'
local FULL_HEAD_BYTES = 32
local FULL_TOKEN = '<BI7I7I7'
local FULL_TOKEN_BYTES = 22
local FULL_GROUPS = '<BI7B'
local FULL_GROUPS_BYTES = 9
local GROUP = 'I7I5'
local GROUP_BYTES = 12

-- The most groups of a state, and of one without holes.
local MOST = 128
local USUAL = 64
-- The latest time there is; sums that pass it stay there.
local FAR = 9007199254740991
-- What four bytes hold.
local LARGEST = 4294967295
-- A clock that is not written down for longer than this, because nothing was charged, is written down by a denial: so much
-- of a jump back may go unseen.
local CLOCK_UNSEEN = 1000000
-- A record is kept for half as long again as it counts, within these bounds: for so long it can be written in place, which
-- takes a third as long as to set it with a new expiry.
local SLACK_LEAST = 2000000
local SLACK_MOST = 60000000
-- Bytes between two changes that are rather written again than left out.
local NEAR = 256
-- How much longer than it counts the state of a test is kept: the test's clock stands still while the server's goes on.
local TEST_SLACK = 3600000
