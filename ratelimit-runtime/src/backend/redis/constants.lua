-- Layouts and bounds. `script.rs` puts the value of each name in capitals in its place, because Lua
-- would load it at every call; the numbers of actions, answers and algorithms are the crate's own,
-- from `codec.rs`. A name and its value are a line; layouts are those of `struct`.

-- A request begins so: the action with 256 * limits, 65536 * how it is decided, and 16777216 if it
-- is a test's; the cost; a print of all limits; and the first limit.
local REQUEST = '<I4I4I7I2I4I4I7'
local RULES_FROM = 16
-- A limit: its kind, its capacity, then of a sliding window the permits of a group and the period,
-- of a token bucket burst and units, behind which stand the units of a permit and the step, of a
-- fixed window nothing and the period.
local RULE = '<I2I4I4I7'
local TOKEN_RULE = '<I7I7'

-- ADMITTED, now, permitted at, number, limit, remaining, full again at.
local ADMISSION = '<BI7I7I7BI4I7'
-- DENIED or NEVER, now, limit, remaining, until.
local REFUSAL = '<BI7BI4I7'
-- RUN, now, when it is charged, until when a lease may be spent, calls admitted; of the last of
-- them number, limit, remaining, full again at, and of a token bucket last and debt; of those
-- denied DENIED or NEVER, limit, remaining, until.
local RUN_ANSWER = '<BI7I7I7I4I7BI4I7I7I7BBI4I7'

-- A record begins with PLAIN or RICH and 256 * limits, the newest admission, the number of the
-- newest charge, and the print of the limits that were charged: with the same print all is as the
-- limits of the call have it. What begins with another byte is no record of this version.
local HEAD = '<I2I7I7I7'
local HEAD_BYTES = 23
-- Then of each limit what most charges change. Of a sliding window: permits on record, those of
-- them that count at the newest admission, those of the last group, and of the ring the first slot,
-- slots that count no more, slots that do, and slots. The last group is as of the newest admission,
-- the groups before it are in the ring, the oldest first.
local SLIDING_HOT = '<I5I5I4BBBB'
-- Of a token bucket: last and debt.
local TOKEN_HOT = '<I7I7xxxx'
-- Of a fixed window: the last charge, and permits in the window of that.
local FIXED_HOT = '<I7I4xxxxxxx'
local HOT_BYTES = 18
-- Until when the key is kept, and the latest time that a decision saw, unless the newest admission
-- of a PLAIN record is later.
local TAIL = '<I7I7'
local TAIL_BYTES = 14
-- A RICH record goes on with offences: how many, the last, blocked until; the floor; and the number
-- of the newest charge that stands.
local EXTRA = '<I4I7I7I7I7'
local EXTRA_BYTES = 32
-- The number before the first charge, and then of each limit what few charges change. Of a sliding
-- window: its layout, its period, and the largest count that it was charged by.
local START_BYTES = 7
local SLIDING_COLD = '<I2I7I4xxxxxxx'
-- Of a token bucket: its kind, units of a permit, and the units that flowed back every step.
local TOKEN_COLD = '<I2I7I7I4'
-- Of a fixed window: its kind and period.
local FIXED_COLD = '<I2I7xxxxxxxxxxx'
local COLD_BYTES = 20
-- Both parts of a limit.
local ALL_BYTES = 38
-- Of a RICH one, of each limit what was given back while bookings lie ahead: of a fixed window the
-- window, else 0, and how much.
local GIVEN = '<I7I7'
local GIVEN_BYTES = 14
-- At the end, the last limit's first, stand the rings of the sliding windows.

-- Of a record of one limit what the usual way reads, and writes.
local READ_SLIDING = '<I2I7I7I7I5I5I4BBBBI7I7'
local WRITTEN_SLIDING = '<I2I7I7I7I5I5I4BBBB'
local READ_TOKEN = '<I2I7I7I7I7I7xxxxI7I7'
local WRITTEN_TOKEN = '<I2I7I7I7I7I7xxxx'
local READ_FIXED = '<I2I7I7I7I7I4xxxxxxxI7I7'
local WRITTEN_FIXED = '<I2I7I7I7I7I4xxxxxxx'

-- What takes a booking back: the newest admission, the floor, and the newest charge before; then of
-- each limit its kind, of a sliding window time and permits of a group that was dropped, of a token
-- bucket last, debt and unit before, of a fixed window the last charge, permits and period before;
-- of the latter two what had been given back.
local UNDO = '<I7I7I7'
local UNDO_SLIDING = '<BI7I5'
local UNDO_TOKEN = '<BI7I7I7I7I7'
local UNDO_FIXED = '<BI7I4I7I7I7'

-- The most groups of a window.
local MOST = 128
-- Slots of a window without holes.
local USUAL = 63
-- The latest time there is; sums that pass it stay there.
local FAR = 9007199254740991
-- A clock that is not written down for longer than this, because nothing was charged, is written
-- down by a denial: so much of a jump back may go unseen.
local CLOCK_UNSEEN = 1000000
-- A record is kept for half as long again as it counts, within these bounds: for so long it can be
-- written in place, which takes a third as long as to set it with a new expiry.
local SLACK_LEAST = 2000000
local SLACK_MOST = 60000000
-- How much longer than it counts the state of a test is kept: the test's clock stands still while
-- the server's goes on.
local TEST_SLACK = 3600000
