-- Inlined: the latest time at which the fast path may charge, and the parts of a record for
-- bookings, debts, penalties and a block. Nothing is charged before its newest admission, or while
-- the key is blocked.
lowest, held, blocks, offences, blocked = 0, 0, 0, 0, 0
if asked > 131071 then
  if charge <= capacity then latest = now + unpack_bytes('<I7', request, #request - 13) end
elseif action == CHARGE and charge < capacity then
  latest = now + LONGEST_DEBT
end
if first_byte ~= PLAIN then
  local floor_at = HEAD_BYTES + limits * HOT_BYTES + 15
  if action == TAKE_RUN then
    break
  elseif first_byte == AHEAD then
    lowest = unpack_bytes('<I7', stored, floor_at)
  elseif first_byte == RICH and size >= 90 + limits * (ALL_BYTES + GIVEN_BYTES) then
    lowest, top, offences, offended, blocked, held = unpack_bytes('<I7I7I4I7I7I7', stored, floor_at)
    fresh, initial, longest = nil, 0, 0
  else
    break
  end
  newest = unpack_bytes('<I7', stored, 3)
  if newest > now then t, stamp, found = newest, newest, newest end
  if action ~= CHARGE then blocks = held end
  if asked % 131072 > 65535 then
    local max_wait
    initial, longest, max_wait = unpack_bytes('<I7I7I7', request, #request - 27)
    if max_wait > 0 or (offences > 0 and now >= offended + longest) then break end
    if blocked > blocks and action ~= CHARGE then blocks = blocked end
  end
  if blocks > now and latest > now then break end
  if t > now and (limits > 1 or t > latest and action ~= CHARGE) then fresh = nil end
end
