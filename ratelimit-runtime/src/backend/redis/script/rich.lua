-- Inlined: bookings, debts, penalties and a block on the fast path, and the latest time at which it
-- may charge. Nothing is charged before the newest admission on record, or while the key is blocked.
held, blocks, offences, blocked = 0, 0, 0, 0
if asked > 131071 then
  if charge <= capacity then latest = now + unpack_bytes('<I7', request, #request - 13) end
elseif action == CHARGE and charge < capacity then
  latest = now + LONGEST_DEBT
end
if form == PLAIN then
  lowest, top = 0, number
else
  if action == TAKE_RUN then
    break
  elseif form == RICH and size >= 90 + limits * (ALL_BYTES + GIVEN_BYTES) then
    offences, offended, blocked, held = unpack_bytes('<I4I7I7I7', stored, tail_at + TAIL_BYTES)
    fresh, initial, longest = nil, 0, 0
    ring_at = ring_at + EXTRA_BYTES + limits * GIVEN_BYTES
  elseif form ~= AHEAD then
    break
  end
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
