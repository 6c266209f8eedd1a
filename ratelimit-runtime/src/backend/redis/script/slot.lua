-- Inlined: a slot of a ring of the kind `layout` (256 times its bytes): its packing, and the
-- modulus of its times. All groups lie less than that behind the newest one.
slot, round = '<I3B', 16777216
if layout ~= 1024 then
  if layout == 2048 then
    slot, round = '<I5I3', 1099511627776
  elseif layout == 1280 then
    slot, round = '<I4B', 4294967296
  elseif layout == 1536 then
    slot, round = '<I4I2', 4294967296
  else
    slot, round = '<I7I5', 9007199254740992
  end
end
