-- Inlined, on the fast path: slots for times of bookings and debts that lie `reach` apart, which is
-- more than the slots of the limit's own kind express.
local was, back, newest = layout, 0, last_at
layout = reach < 1099511627776 and 2048 or 3072
cold = pack(SLIDING_COLD, layout, per, unpack_bytes('<I4', stored, cold_at + 9))
--inline slot.lua
width, was_print = layout / 256, 0
--inline widen.lua
