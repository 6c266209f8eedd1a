-- Decides on the buckets of one call at one time: all are charged, or none is. KEYS are the buckets,
-- ARGV the requests, which all take or all peek.
--
-- All buckets but the last are only looked at first. Nothing can deny behind the last one, so it is
-- charged at once. At one time and in one state, a request to take is decided as the look was.

local time = redis.call('TIME')

local function decide(KEYS, ARGV)
--inline decision
end

local last, answers, key, request = #KEYS, {}, {}, {}
local denies, is_denied, takes = {}, false, string.byte(ARGV[1]) ~= PEEK
-- A request does not reach as far as it must: the client asks again, and nothing is charged.
local is_missing = false
for position = 1, last do
  key[1], request[1] = KEYS[position], ARGV[position]
  local looks = position < last or is_denied or is_missing
  if looks then request[1] = string.char(PEEK) .. string.sub(request[1], 2) end
  local answer = decide(key, request)
  local kind = string.byte(answer)
  if kind == BEYOND then
    is_missing = true
  elseif kind == DENIED or kind == NEVER or kind == BLOCKED then
    is_denied = true
    -- Counted at the server only by a request to take, which also stores the clock.
    denies[position] = looks
  end
  answers[position] = answer
end
if takes and not is_missing then
  for position = 1, last do
    local charges = not is_denied and position < last
    if charges or denies[position] then
      key[1], request[1] = KEYS[position], ARGV[position]
      answers[position] = decide(key, request)
    end
  end
end
return answers
