-- Inlined: writes the record, head and fronts being `value`, and the bytes from `changed_at` up to `changed_end` of those
-- `stored` behind it having `changed`, if anything. In one command where its expiry has to be later or its length is
-- another, else in place.

if resized or fresh > kept then
  local slack = (fresh - now) / 2
  if slack < SLACK_LEAST then slack = SLACK_LEAST elseif slack > SLACK_MOST then slack = SLACK_MOST end
  kept = fresh + slack
  kept = kept - kept % 1000 + 1000
  local record = value .. pack(KEPT, kept, seen) .. sub(stored, #value + KEPT_BYTES + 1, changed_at - 1) .. changed
    .. sub(stored, changed_end)
  if tested == 0 then
    call('SET', bucket, record, 'PXAT', string.format('%d', kept / 1000))
  else
    call('SET', bucket, record, 'PX', math.ceil((kept - now) / 1000) + TEST_SLACK)
  end
elseif changed == '' then
  call('SETRANGE', bucket, '0', value)
elseif changed_at - #value <= NEAR then
  call('SETRANGE', bucket, '0', value .. sub(stored, #value + 1, changed_at - 1) .. changed)
else
  call('SETRANGE', bucket, '0', value)
  call('SETRANGE', bucket, changed_at - 1, changed)
end
