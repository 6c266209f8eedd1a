-- Inlined: reads the record `stored`. Anything else counts as no record.
local size = #stored
local was_form, newest, number, was_print, kept, clock = PLAIN, 0, 0, 0, 0, 0
local offences, offended, blocked, lowest, top, held, counts = 0, 0, 0, 0, 0, 0, 0
-- The number of limits on record, and the starts of the parts behind their hot parts, of their
-- cold parts, and of the rings.
local were, tail_at, colds_at, rings_at = 0, 1, 1, 1
if size > 0 then
  if size >= HEAD_BYTES then was_form, newest, number, was_print = unpack_bytes(HEAD, stored) end
  local form = was_form % 256
  were, was_form, top = (was_form - form) / 256, form, number
  tail_at = HEAD_BYTES + 1 + were * HOT_BYTES
  colds_at = tail_at + TAIL_BYTES + START_BYTES
  if form == RICH then colds_at = colds_at + EXTRA_BYTES + were * GIVEN_BYTES end
  rings_at = colds_at + were * COLD_BYTES
  if size < rings_at - 1 or (were == 0 and form ~= RICH) or (form ~= PLAIN and form ~= AHEAD and form ~= RICH) then
    stored, size, was_form, newest, number, was_print, top, were = '', 0, PLAIN, 0, 0, 0, 0, 0
  else
    if form == RICH then
      kept, clock, lowest, top, offences, offended, blocked, held, counts = unpack_bytes(RICH_TAIL, stored, tail_at)
    else
      kept, clock, lowest, top = unpack_bytes(TAIL, stored, tail_at)
      if form == PLAIN then
        lowest, top = 0, number
        if newest > clock then clock = newest end
      end
    end
  end
end
