-- Decides on several buckets in one call: KEYS are the buckets, ARGV the requests. Each is decided
-- as if it had come alone, in order, at one time. If one fails, for instance because the key holds
-- something else, the others do not.

local time = redis.call('TIME')

local function decide(KEYS, ARGV)
--inline decision
end

local answers, key, request = {}, {}, {}
for position = 1, #KEYS do
  key[1], request[1] = KEYS[position], ARGV[position]
  local is_decided, answer = pcall(decide, key, request)
  -- Before Redis 7 an error is a string.
  if not is_decided and type(answer) ~= 'table' then answer = redis.error_reply(tostring(answer)) end
  answers[position] = answer
end
return answers
