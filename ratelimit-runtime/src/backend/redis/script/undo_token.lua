-- Inlined: a token bucket as it was before a booking, less what has come back since. Some of that has
-- flowed back by then, if another booking lies between.
debt_at = math.min(was_last, last)
local gone = math.max(0, given - was_given)
if gone > 0 then gone = gone - math.max(0, math.ceil((debt_at - given_window) / step)) * units end
debt = math.max(0, was_owed - math.max(0, gone))
