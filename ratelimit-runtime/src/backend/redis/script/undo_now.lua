-- Inlined: gives up the newest booking of one limit before it is due, on the fast path.
if limits > 1 or size < RICH_BYTES then break end
local form, newest, number, was_print = unpack_bytes(HEAD, stored)
local kept, clock, offences, offended, blocked, lowest, top, start =
  unpack_bytes(READ_RICH, stored, HEAD_BYTES + HOT_BYTES + 1)
if form ~= RICH + 256 or clock > now or back_number ~= top or back_number <= start then break end
if back_at <= now or back_at > newest then break end
local undo_newest, undo_lowest, undo_top, undo_at = unpack_bytes(UNDO, request, #request - 15 - undo_bytes)
lowest, top = undo_lowest, undo_top
local to = undo_newest > lowest and undo_newest or lowest
local head
if kind > 255 then
  local all, total, last, first, old, used, slots = unpack_bytes(SLIDING_HOT, stored, HEAD_BYTES + 1)
  local per, layout, base, slot, round, width = b, kind, RICH_BYTES + 1, nil, nil, nil
  local source, last_at, shift, entry, place = stored, newest, 0, nil, nil
  local cold_at = RICH_BYTES - GIVEN_BYTES - COLD_BYTES + 1
  --inline ring.lua
  local gone = last_at + per - now
  --inline revive.lua
  --inline undo_sliding.lua
  if entry then break end
  head = pack(WRITTEN_SLIDING, form, to, number, was_print, all, total, last, first, old, used, slots)
else
  if was_print ~= print then break end
  local given_window, given = unpack_bytes(GIVEN, stored, RICH_BYTES - GIVEN_BYTES + 1)
  if kind == TOKEN then
    local last = unpack_bytes(TOKEN_HOT, stored, HEAD_BYTES + 1)
    local _, was_last, was_owed, was_permit, was_units, was_step, was_given = unpack_bytes(UNDO_TOKEN, request, undo_at)
    local permit, step = unpack_bytes(TOKEN_RULE, request, from)
    if was_permit ~= permit or was_units ~= b or was_step ~= step then break end
    local units, debt_at, debt = b, nil, nil
    --inline undo_token.lua
    head = pack(WRITTEN_TOKEN, form, to, number, print, debt_at, debt)
  else
    local charged = unpack_bytes(FIXED_HOT, stored, HEAD_BYTES + 1)
    local _, was_charged, was_total, was_per, was_window, was_given = unpack_bytes(UNDO_FIXED, request, undo_at)
    if was_per ~= b then break end
    if was_window ~= given_window then was_given = 0 end
    if was_charged < charged then charged = was_charged end
    if charged - charged % b == given_window then was_total = math.max(0, was_total - given + was_given) end
    head = pack(WRITTEN_FIXED, form, to, number, print, charged, was_total)
  end
end
call('SETRANGE', bucket, '0', head .. pack(RICH_FRONT, kept, now, offences, offended, blocked, lowest, top))
return pack('<BI7', DONE, now)
