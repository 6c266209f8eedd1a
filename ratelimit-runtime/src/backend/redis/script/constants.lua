-- Layouts and bounds. `script.rs` replaces each name in capitals by its value, because Lua would
-- load a local at every call. The numbers of actions, answers and algorithms come from `codec.rs`.
-- Each name and its value stand on one line. Layouts are those of `struct`.

-- The start of a request: the action, plus 256 * limits, plus 65536 * the mode of the decision,
-- plus 16777216 for a test and 33554432 for boundaries of calendars; the cost; a print of all
-- limits; and the first limit.
local REQUEST = '<I4I4I7I2I4I4I7'
local RULES_FROM = 16
-- A limit: its kind and capacity; for a sliding window the permits of a group and the period; for a
-- token bucket burst and units, followed by the units of a permit and the step; for a fixed window
-- nothing and the period; for a calendar a print of it and the usual length of the longest window.
local RULE = '<I2I4I4I7'
local TOKEN_RULE = '<I7I7'

-- Two boundaries of a calendar: a window. See calendars.rs.
local SPAN = '<I7I7'

-- ADMITTED, now, permitted at, number, limit, remaining, full again at.
local ADMISSION = '<BI7I7I7BI4I7'
-- DENIED, BLOCKED or NEVER, now, limit, remaining, until.
local REFUSAL = '<BI7BI4I7'
-- BEYOND, now, and a time that the boundaries of a calendar do not cover.
local MISSING = '<BI7I7'
-- RUN, now, the charge's time, the end of the lease, calls admitted; for the last of them number,
-- limit, remaining, full again at, and for a token bucket last and debt; for the denied ones DENIED,
-- BLOCKED or NEVER, limit, remaining, until.
local RUN_ANSWER = '<BI7I7I7I4I7BI4I7I7I7BBI4I7'

-- HELD, now, the end of the block or 0.
local BLOCK_ANSWER = '<BI7I7'

-- The head of a record: PLAIN, AHEAD or RICH plus 256 * limits, the newest admission, the number of
-- the newest charge, and the print of the charged limits. The same print means the same limits. A
-- value with another first byte is not a record of this version.
local HEAD = '<I2I7I7I7'
local HEAD_BYTES = 23
-- Then each limit's hot part, which most charges change. Sliding window: permits on record, those
-- that count at the newest admission, those of the last group; then for the ring its first slot,
-- expired slots, used slots, and all slots. The last group is as of the newest admission. The ring
-- holds the earlier groups, the oldest first.
local SLIDING_HOT = '<I5I5I4BBBB'
-- A time and an amount. Token bucket: last and debt. Fixed window: the last charge, and permits in its
-- window.
local TIMED_HOT = '<I7I7xxxx'
-- Of a calendar: the same, and the end of that window.
local CALENDAR_HOT = '<I7I4I7'
local HOT_BYTES = 18
-- The key's expiry, the latest time that a decision saw, the floor, and the number of the newest
-- charge that stands. Of a PLAIN record, the latter two do not count: the floor is 0, all charges
-- stand, and the newest admission is the latest time seen if that is later.
local TAIL = '<I7I7I7I7'
local TAIL_BYTES = 28
-- A RICH record continues with the penalties: how many, the last, blocked until; then for a blocked
-- key the end of the block, and how long the record counts without it. Only a blocked key has a
-- record without limits.
local EXTRA = '<I4I7I7I7I7'
local EXTRA_BYTES = 32
local CLOCK_AND_EXTRA = '<I7I7I7I4I7I7I7I7'
local CLOCK_AND_PENALTIES = '<I7I7I7I4I7I7'
local RICH_TAIL = '<I7I7I7I7I4I7I7I7I7'
-- Then for each limit the refunds while bookings lie ahead: the window of a fixed window, or for a
-- token bucket the time of the first refund; and the amount.
local GIVEN = '<I7I7'
local GIVEN_BYTES = 14
-- In any record follows the number before the first charge. Then each limit's cold part, which few
-- charges change. Sliding window: its layout, its period, and the largest count of any charge.
local START_BYTES = 7
local SLIDING_COLD = '<I2I7I4xxxxxxx'
-- Token bucket: its kind, units of a permit, and the units of each step.
local TOKEN_COLD = '<I2I7I7I4'
-- Fixed window: its kind and period; for a calendar the usual length of the longest window.
local FIXED_COLD = '<I2I7xxxxxxxxxxx'
local COLD_BYTES = 20
-- Both parts of a limit.
local ALL_BYTES = 38
-- A PLAIN or AHEAD record of one limit without its ring.
local ONE_BYTES = 96
-- At the end, the rings of the sliding windows, the last limit's first.

-- What the fast path reads and writes of a record of one limit, and for bookings and debts also of its
-- tail. The answer to a booking goes on with the state to which giving it up returns: the newest
-- admission, the floor, the newest charge that stands; and the time and the amount.
local FRONT_BYTES = 69
local WRITTEN_SLIDING = '<I2I7I7I7I5I5I4BBBB'
local WRITTEN_TIMED = '<I2I7I7I7I7I7xxxx'
local OWED_SLIDING = '<I2I7I7I7I5I5I4BBBBI7I7I7I7'
local OWED_TIMED = '<I2I7I7I7I7I7xxxxI7I7I7I7'
local BOOKED_SLIDING = '<I2I7I7I7I5I5I4BBBBI7I7I7I7I7I7I7'
local BOOKED_TIMED = '<I2I7I7I7I7I7xxxxI7I7I7I7I7I7I7I7I7'
local NEW_SLIDING = '<I2I7I7I7I5I5I4BBBBI7I7I7I7I7I2I7I4xxxxxxx'
local NEW_TIMED = '<I2I7I7I7I7I7xxxxI7I7I7I7I7I2I7I7I4'
-- What a refund reads of such a record, and a limit's hot part with the start of the tail.
local WHOLE_SLIDING = '<I2I7I7I7I5I5I4BBBBI7I7I7I7I7'
local WHOLE_TIMED = '<I2I7I7I7I7I7xxxxI7I7I7I7I7'
local BACK_SLIDING = '<I5I5I4BBBBI7I7'
local BACK_TIMED = '<I7I7xxxxI7I7'

-- The undo of a booking: the newest admission, the floor, and the newest charge before it. Then for
-- each limit its kind and earlier state. Sliding window: time and permits of a dropped group. Token
-- bucket: last, debt, and the limit's permit, units and step. Fixed window: the last charge, permits
-- and period, and the window of what had been given back. For the latter two also how much that was.
local UNDO = '<I7I7I7'
local UNDO_SLIDING = '<BI7I5'
local UNDO_TOKEN = '<BI7I7I7I7I7I7'
local UNDO_FIXED = '<BI7I4I7I7I7'

-- The most groups of a window.
local MOST = 128
-- The latest time. Sums saturate here.
local FAR = 9007199254740991
-- How far ahead permits that do not fit may be charged: 366 days.
local LONGEST_DEBT = 31622400000000
-- Denials persist the clock at most this often, so a backward jump smaller than this may be missed.
local CLOCK_UNSEEN = 1000000
-- A record is kept for 1.5 times as long as it counts, within these bounds; twice as long if calls
-- may wait; with permits charged ahead, without the upper bound. Until then it is
-- written in place, which takes a third of the time of a SET with a new expiry.
local SLACK_LEAST = 2000000
local SLACK_MOST = 60000000
-- How much longer a test's state is kept, because its clock stands still while the server's runs.
local TEST_SLACK = 3600000
