-- Inlined: a later expiry, if the new state outlives it.
if fresh > kept then
  local slack = (fresh - now) / 2
  if slack < SLACK_LEAST then slack = SLACK_LEAST elseif slack > SLACK_MOST then slack = SLACK_MOST end
  kept = fresh + slack
  kept, sets = kept - kept % 1000 + 1000, true
end
