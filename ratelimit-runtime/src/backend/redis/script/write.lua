-- Inlined: writes the record: `value`, and the stored bytes from `ring_at` on with the changes of
-- the rings. A new expiry or length needs one SET; else only the changed bytes are written in place.
if sets then
  local record
  if changed then
    record = value .. sub(stored, ring_at, changed_at - 1) .. changed .. sub(stored, changed_end)
  else
    record = value .. sub(stored, ring_at)
  end
  --inline set.lua
elseif changed and changed_at - #value > 500 then
  call('SETRANGE', bucket, '0', value)
  call('SETRANGE', bucket, changed_at - 1, changed)
elseif changed then
  call('SETRANGE', bucket, '0', value .. sub(stored, #value + 1, changed_at - 1) .. changed)
else
  call('SETRANGE', bucket, '0', value)
end
