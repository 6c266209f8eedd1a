-- Inlined: the permits taken now under the limit on record, of another kind `was`. Its hot part is
-- at `at`.
if was == TOKEN then
  local last, owed = unpack_bytes(TIMED_HOT, stored, at)
  local _, unit, flow, every = unpack_bytes(TOKEN_COLD, stored, cold_at)
  local since = now - math.max(0, last - back)
  if since > 0 then owed = math.max(0, owed - (since - since % every) / every * flow) end
  taken = unit > 0 and math.ceil(owed / unit) or 0
elseif was == FIXED then
  local charged, total = unpack_bytes(TIMED_HOT, stored, at)
  local _, window = unpack_bytes(FIXED_COLD, stored, cold_at)
  if back > 0 then charged = charged - (clock - clock % window - (now - now % window)) end
  taken = charged >= now - now % window and total or 0
elseif was == CALENDAR then
  local _, total, ended = unpack_bytes(CALENDAR_HOT, stored, at)
  taken = (back == 0 or ended > clock) and now < ended and total or 0
else
  local _, _, last, first, old, used, slots = unpack_bytes(SLIDING_HOT, stored, at)
  local _, window = unpack_bytes(SLIDING_COLD, stored, cold_at)
  local layout, slot, round = was, nil, nil
  --inline slot.lua
  edit, edit_end = '', ring_at
  ring_at = ring_at - slots * was / 256
  edit_at, resized = ring_at, true
  local gone = newest + window - now
  taken = gone > 0 and last or 0
  for i = 0, old + used - 1 do
    local time, permits = unpack_bytes(slot, stored, ring_at + (first + i) % slots * was / 256)
    if (newest - time) % round < gone then taken = taken + permits end
  end
end
taken = math.min(taken, 4294967295)
