-- Inlined: lays out the ring anew, from slots of the kind `was` to those of `layout`. All slots at
-- once: each string made costs more than the slots in it.
local to_layout, to_slot, to_round = layout, slot, round
layout = was
--inline slot.lua
local times, ring = {unpack_bytes('<' .. string.rep(sub(slot, 2), slots), source, base)}, {}
for i = 0, old + used - 1 do
  local place = (first + i) % slots * 2
  local time = newest - (newest + back - times[place + 1]) % round
  if time < 0 then time = 0 end
  ring[i * 2 + 1], ring[i * 2 + 2] = time % to_round, times[place + 2]
end
layout, slot, round, slots = to_layout, to_slot, to_round, old + used
source, base, rebuilt, first = pack('<' .. string.rep(sub(slot, 2), slots), unpack(ring)), 1, true, 0
edit, resized = source, true
