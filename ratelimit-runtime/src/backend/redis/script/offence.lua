-- Inlined: a denial under a backoff blocks the key, each time for twice as long.
local block = offences < 64 and initial * 2 ^ offences or longest
if block > longest then block = longest end
if offences < 4294967295 then offences = offences + 1 end
offended, blocked = now, now + block
if blocked > FAR then blocked = FAR end
