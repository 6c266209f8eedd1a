-- Inlined: a later expiry, if the new state outlives it. Bookings and debts make it later each time,
-- so there it is later by more. A call that may wait is soon followed by bookings.
if fresh > kept then
  local slack = (fresh - now) / 2
  if asked % 16777216 - asked % 65536 == 131072 then
    slack = slack * 2
  elseif slack > SLACK_MOST and stamp <= now then
    slack = SLACK_MOST
  end
  if slack < SLACK_LEAST then slack = SLACK_LEAST end
  kept = fresh + slack
  kept, sets, expires = kept - kept % 1000 + 1000, true, true
end
