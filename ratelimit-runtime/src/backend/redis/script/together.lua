-- Decides on the buckets of one call at one time: all are charged, or none is. KEYS are the buckets,
-- ARGV the requests, which all take or all peek. What comes back and what is charged whatever is left
-- stands in front, and is carried out first.
--
-- All buckets but the last are only looked at first. Nothing can deny behind the last one, so it is
-- charged at once. At one time and in one state, a request to take is decided as the look was.

local time = redis.call('TIME')

local function decide(KEYS, ARGV)
--inline decision
end

local last, answers, key, request = #KEYS, {}, {}, {}
local denies, is_denied, takes = {}, false, string.byte(ARGV[last]) ~= PEEK
local first = 1
while string.byte(ARGV[first]) == GIVE_BACK or string.byte(ARGV[first]) == CHARGE do
  key[1], request[1] = KEYS[first], ARGV[first]
  answers[first] = decide(key, request)
  first = first + 1
end
-- A request does not reach as far as it must: the client asks again, and nothing is charged.
local is_missing = false
for position = first, last do
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
  for position = first, last do
    local charges = not is_denied and position < last
    if charges or denies[position] then
      key[1], request[1] = KEYS[position], ARGV[position]
      answers[position] = decide(key, request)
    end
  end
end
return answers
