-- What all that follows needs and the usual call does not.

local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local action = asked % 256
-- Where permits are leased, what is on record may be ahead of the decision.
local leases = how == LEASES
