-- Inlined: lets groups of a sliding window count again that have not expired at the time judged.
while old > 0 do
  local time, permits = unpack_bytes(slot, source, base + (first + old - 1) % slots * width)
  if (last_at - time) % round >= gone then break end
  total, old, used = total + permits, old - 1, used + 1
end
