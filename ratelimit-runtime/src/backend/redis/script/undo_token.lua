-- Inlined: a token bucket as it was before a booking, less what has come back since. If another
-- booking lies between, some of that has already been refilled.
debt_at, debt = math.min(was_last, last), was_owed
if given > was_given then
  local flowed = math.max(0, math.ceil((debt_at - given_window) / step)) * units
  debt = math.max(0, was_owed - math.max(0, given - was_given - flowed))
end
