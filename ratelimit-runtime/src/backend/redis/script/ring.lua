-- Inlined: the slots of the ring of the only limit, which are longer for bookings far ahead.
if was_print ~= print then
  if was_print > 0 or form == PLAIN then break end
  local per_was, most
  layout, per_was, most = unpack_bytes('<I2I7I4', stored, cold_at)
  if layout < 256 or per_was ~= per or most < capacity then break end
end
--inline slot.lua
width = layout / 256
if (size - base + 1) ~= slots * width then break end
