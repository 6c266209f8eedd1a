-- Inlined: writes the record: `head` with the fronts, what is `behind` them, and the rings, which
-- is what is stored from `ring_at` on with what is changed. In one command if its expiry or its
-- length is another, else in place as much as changes.
if sets then
  local record = head .. behind .. sub(stored, ring_at, changed_at - 1) .. (changed or '') .. sub(stored, changed_end)
  if tested then
    call('SET', bucket, record, 'PX', math.ceil(math.max(0, kept - now) / 1000) + TEST_SLACK)
  else
    call('SET', bucket, record, 'PXAT', string.format('%d', kept / 1000))
  end
elseif changed then
  call('SETRANGE', bucket, '0', value .. sub(stored, #value + 1, changed_at - 1) .. changed)
else
  call('SETRANGE', bucket, '0', value)
end
