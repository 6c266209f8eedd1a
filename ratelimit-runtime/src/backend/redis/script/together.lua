-- Decides on the buckets of one call at one time: all are charged, or none is. KEYS are the
-- buckets, ARGV the requests, which all take or all peek. Refunds and unconditional charges come
-- first, and are carried out first.
--
-- The buckets are charged in order. If one of them denies, the ones before it get their records
-- back, and the ones behind it are only peeked at.

local time = redis.call('TIME')

local function decide(KEYS, ARGV)
--inline decision
end

local last, answers, key, request, before, looked = #KEYS, {}, {}, {}, {}, {}
local takes, first, stopped_at, is_missing = string.byte(ARGV[last]) ~= PEEK, 1, nil, false
while string.byte(ARGV[first]) == GIVE_BACK or string.byte(ARGV[first]) == CHARGE do
  key[1], request[1] = KEYS[first], ARGV[first]
  answers[first] = decide(key, request)
  first = first + 1
end
for position = first, last do
  key[1], request[1] = KEYS[position], ARGV[position]
  if stopped_at then request[1] = string.char(PEEK) .. string.sub(request[1], 2) end
  -- With the record before the decision.
  local is_decided, answer, stored = pcall(decide, key, request)
  local kind = is_decided and string.byte(answer)
  if kind == DENIED or kind == NEVER or kind == BLOCKED then
    -- Counted at the server only by a request to take, which also stores the clock.
    if stopped_at then looked[position] = true else before[position], stopped_at = stored, position end
  elseif not kind or kind == BEYOND then
    -- The key holds something else, or a request does not reach as far as it must: the client asks
    -- again, and nothing is charged or counted.
    is_missing, stopped_at = true, stopped_at or position
    -- Before Redis 7 an error is a string.
    if not kind and type(answer) ~= 'table' then answer = redis.error_reply(tostring(answer)) end
  elseif not stopped_at then
    before[position] = stored
  end
  answers[position] = answer
end
if not takes or not stopped_at then return answers end
for position = last, first, -1 do
  key[1], request[1] = KEYS[position], ARGV[position]
  local record = before[position]
  if record and (position < stopped_at or is_missing) then
    if record == '' then
      redis.call('DEL', KEYS[position])
    else
      redis.call('SET', KEYS[position], record, 'KEEPTTL')
    end
    request[1] = string.char(PEEK) .. string.sub(request[1], 2)
    answers[position] = decide(key, request)
  elseif looked[position] and not is_missing then
    answers[position] = decide(key, request)
  end
end
return answers
