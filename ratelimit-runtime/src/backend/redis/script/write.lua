-- Inlined: writes the record: `head`, the parts `behind` it, and the rings, which are the stored
-- bytes from `ring_at` on with the changes. A new expiry or length needs one SET; else only the
-- changed bytes are written in place.
if sets then
  local record
  if changed then
    record = head .. behind .. sub(stored, ring_at, changed_at - 1) .. changed .. sub(stored, changed_end)
  else
    record = head .. behind .. sub(stored, ring_at)
  end
  --inline set.lua
elseif changed then
  call('SETRANGE', bucket, '0', value .. sub(stored, #value + 1, changed_at - 1) .. changed)
else
  call('SETRANGE', bucket, '0', value)
end
