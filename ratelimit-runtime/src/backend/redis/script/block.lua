-- Inlined: blocks a key, ends or reports its block, or forgets all but a block. To block, the
-- request ends with the time.
stored = redis.pcall('GET', bucket) or ''
if type(stored) == 'table' then
  -- The key holds something else.
  if action ~= RESET then return stored end
  stored = ' '
end
local is_there = stored ~= ''
--inline record.lua
-- If the clock went back, the next decision moves all times of the record.
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
if action == BLOCK and was_form == RICH and back == 0 and until_at < kept then
  local extra = pack(CLOCK_AND_EXTRA, now, lowest, top, offences, offended, blocked, held, counts)
  call('SETRANGE', bucket, tail_at + 6, extra)
  return pack(BLOCK_ANSWER, HELD, now, until_at)
end
local hots, rest = '', string.rep('\0', START_BYTES)
if action == RESET or size == 0 then
  were, newest, number, was_print, clock, held, counts = 0, 0, 0, 0, now, until_at, 0
  offences, offended, blocked, lowest, top = 0, 0, 0, 0, 0
else
  hots = sub(stored, HEAD_BYTES + 1, tail_at - 1)
  if was_form == RICH then
    rest = sub(stored, tail_at + TAIL_BYTES + EXTRA_BYTES)
  else
    rest = string.rep('\0', were * GIVEN_BYTES) .. sub(stored, tail_at + TAIL_BYTES)
  end
end
kept = math.max(counts, until_at + math.min(math.max((until_at - now) / 2, SLACK_LEAST), SLACK_MOST))
if kept > FAR - 1000 then kept = FAR - 1000 end
kept = kept - kept % 1000 + 1000
local record = pack(HEAD, RICH + 256 * were, newest, number, was_print) .. hots
  .. pack(RICH_TAIL, kept, clock, lowest, top, offences, offended, blocked, held, counts) .. rest
local expires = true
--inline set.lua
if action == RESET then return pack('<BI7', DONE, now) end
return pack(BLOCK_ANSWER, HELD, now, until_at)
