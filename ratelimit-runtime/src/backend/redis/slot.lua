-- Inlined: a slot of a sliding window's ring by the limit's `kind`: its layout and bytes, and what its times are counted
-- modulo: all groups lie less than that behind the newest one.

local slot, width, round = '<I3B', 4, 16777216
if kind ~= SLIDING + 256 * 4 then
  if kind == SLIDING + 256 * 8 then
    slot, width, round = '<I5I3', 8, 1099511627776
  elseif kind == SLIDING + 256 * 5 then
    slot, width, round = '<I4B', 5, 4294967296
  elseif kind == SLIDING + 256 * 6 then
    slot, width, round = '<I4I2', 6, 4294967296
  else
    slot, width, round = '<I7I5', 12, 9007199254740992
  end
end
