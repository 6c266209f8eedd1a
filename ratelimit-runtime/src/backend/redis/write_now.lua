-- Inlined: writes the record, `value` and the last limit's ring behind it; in one command where its expiry is `extends`ed or
-- its length changes, else in place.

if extends or ring then
  if slot and not ring then
    ring = string.sub(stored, ring_at, slot_at - 1) .. slot .. string.sub(stored, slot_at + SLOT_BYTES)
  end
  local record = value .. (ring or ring_at and string.sub(stored, ring_at) or '')
  if tested == 1 then
    call('SET', bucket, record, 'PX', ceil((kept - now) / 1000) + TEST_SLACK)
  else
    call('SET', bucket, record, 'PXAT', ceil(kept / 1000))
  end
elseif not slot then
  call('SETRANGE', bucket, '0', value)
elseif slot_at - #value <= NEAR then
  call('SETRANGE', bucket, '0', value .. string.sub(stored, #value + 1, slot_at - 1) .. slot)
else
  call('SETRANGE', bucket, '0', value)
  call('SETRANGE', bucket, slot_at - 1, slot)
end
