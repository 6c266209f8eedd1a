-- Decides on the buckets of one call at one time: all are charged, or none is. KEYS are the
-- buckets, ARGV the requests, which all take or all peek. Refunds and unconditional charges come
-- first, and are carried out first.
--
-- It first peeks at all buckets but the last. Nothing can deny after the last one, so that is
-- charged at once. At the same time and in the same state, a take is decided like the peek.

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
-- A request's boundaries do not suffice: the client asks again, and nothing is charged.
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
    -- Only a request to take counts the denial and stores the clock.
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
