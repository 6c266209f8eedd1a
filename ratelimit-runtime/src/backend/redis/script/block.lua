-- Inlined: blocks a key, ends or reports its block, or forgets all but a block. To block, the
-- request ends with the time.
local size, form, were, newest, number, was_print, kept, clock = 0, 0, 0, 0, 0, 0, 0, 0
local offences, offended, blocked, lowest, top, held, counts = 0, 0, 0, 0, 0, 0, 0
local tail_at, start_at, rings_at = 1, 1, 1
stored = redis.pcall('GET', bucket) or ''
if type(stored) == 'table' then
  -- The key holds something else.
  if action ~= RESET then return stored end
  stored = ' '
end
local is_there = stored ~= ''
size = #stored
if size >= HEAD_BYTES then
  form, newest, number, was_print = unpack_bytes(HEAD, stored)
  were = (form - form % 256) / 256
  form = form % 256
  tail_at = HEAD_BYTES + 1 + were * HOT_BYTES
  start_at = tail_at + TAIL_BYTES
  if form == RICH then start_at = start_at + EXTRA_BYTES end
  rings_at = start_at + START_BYTES + were * COLD_BYTES
  if form == RICH then rings_at = rings_at + were * GIVEN_BYTES end
end
if size < rings_at - 1 or (form ~= PLAIN and form ~= RICH) then
  -- No record of this version.
  size, form, were, newest, number, was_print, stored = 0, PLAIN, 0, 0, 0, 0, ''
else
  if form == RICH then
    kept, clock, offences, offended, blocked, lowest, top, held, counts = unpack_bytes(RICH_TAIL, stored, tail_at)
  else
    kept, clock = unpack_bytes(TAIL, stored, tail_at)
    top = number
    if newest > clock then clock = newest end
  end
end
-- A clock that went back is left to the next decision, which moves all times of the record.
local back = 0
if clock > now then back = clock - now else clock = now end
local until_at = held - back
if until_at <= now then until_at = 0 end
local time = action == BLOCK and unpack_bytes('<I7', request, #request - 6) or 0
if action ~= RESET and time == 0 and (action ~= UNBLOCK or until_at == 0) then
  return pack(BLOCK_ANSWER, HELD, now, until_at)
end
if until_at == 0 then counts = kept end
if action == BLOCK then
  if now + time > until_at then until_at = now + time end
  if until_at > FAR - back then until_at = FAR - back end
elseif action == UNBLOCK then
  until_at = 0
end
held = until_at > 0 and until_at + back or 0
if held == 0 and (action == RESET or were == 0) then
  if is_there then call('DEL', bucket) end
  if action == RESET then return pack('<BI7', DONE, now) end
  return pack(BLOCK_ANSWER, HELD, now, 0)
end
if action == BLOCK and form == RICH and back == 0 and until_at < kept then
  call('SETRANGE', bucket, tail_at + 6, pack(CLOCK_AND_EXTRA, now, offences, offended, blocked, lowest, top, held, counts))
  return pack(BLOCK_ANSWER, HELD, now, until_at)
end
local hots, colds, start = '', '', string.rep('\0', START_BYTES)
if action == RESET or size == 0 then
  were, newest, number, was_print, kept, clock, held, counts = 0, 0, 0, 0, 0, now, until_at, 0
  offences, offended, blocked, lowest, top = 0, 0, 0, 0, 0
else
  hots = sub(stored, HEAD_BYTES + 1, tail_at - 1)
  start = sub(stored, start_at, start_at + START_BYTES - 1)
  colds = sub(stored, start_at + START_BYTES, start_at + START_BYTES + were * COLD_BYTES - 1)
  if form == RICH then
    colds = colds .. sub(stored, start_at + START_BYTES + were * COLD_BYTES)
  else
    colds = colds .. string.rep('\0', were * GIVEN_BYTES) .. sub(stored, rings_at)
  end
end
kept = math.max(counts, until_at + math.min(math.max((until_at - now) / 2, SLACK_LEAST), SLACK_MOST))
if kept > FAR - 1000 then kept = FAR - 1000 end
kept = kept - kept % 1000 + 1000
local record = pack(HEAD, RICH + 256 * were, newest, number, was_print) .. hots .. pack(TAIL, kept, clock)
  .. pack(EXTRA, offences, offended, blocked, lowest, top, held, counts) .. start .. colds
if tested then
  call('SET', bucket, record, 'PX', math.ceil(math.max(0, kept - now) / 1000) + TEST_SLACK)
else
  call('SET', bucket, record, 'PXAT', string.format('%d', kept / 1000))
end
if action == RESET then return pack('<BI7', DONE, now) end
return pack(BLOCK_ANSWER, HELD, now, until_at)
