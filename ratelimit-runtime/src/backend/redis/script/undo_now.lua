-- Inlined: gives up the newest booking of one limit before it is due, on the fast path.
if form ~= AHEAD + 256 or back_number ~= top or back_at <= now or back_at > newest then break end
local undo_newest, undo_lowest, undo_top, undo_at = unpack_bytes(UNDO, request, #request - 15 - undo_bytes)
local to = undo_newest > undo_lowest and undo_newest or undo_lowest
local value
if kind > 255 then
  local per, layout, base, slot, round, width = b, kind, ONE_BYTES + 1, nil, nil, nil
  local source, last_at, shift, entry, place = stored, newest, 0, nil, nil
  local cold_at = ONE_BYTES - COLD_BYTES + 1
  --inline ring.lua
  local gone = last_at + per - now
  --inline revive.lua
  --inline undo_sliding.lua
  if entry then break end
  value = pack(
    OWED_SLIDING, form, to, number, was_print, all, total, last, first, old, used, slots,
    kept, now, undo_lowest, undo_top
  )
else
  if was_print ~= print then break end
  local _, was_last, was_owed
  if kind == TOKEN then
    local was_permit, was_units, was_step
    _, was_last, was_owed, was_permit, was_units, was_step = unpack_bytes(UNDO_TOKEN, request, undo_at)
    local permit, step = unpack_bytes(TOKEN_RULE, request, from)
    if was_permit ~= permit or was_units ~= b or was_step ~= step then break end
  else
    local was_per
    _, was_last, was_owed, was_per = unpack_bytes(UNDO_FIXED, request, undo_at)
    if was_per ~= b then break end
  end
  if was_last > last then was_last = last end
  value = pack(OWED_TIMED, form, to, number, print, was_last, was_owed, kept, now, undo_lowest, undo_top)
end
call('SETRANGE', bucket, '0', value)
return pack('<BI7', DONE, now)
