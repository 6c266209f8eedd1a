-- Inlined: the window that contains `x`: `begin` to `over`. Of a calendar, all times before the first
-- boundary count as one window, because they lie in the past.
if kind == FIXED then
  begin = x - x % b
  over = begin + b
else
  begin, over = 0, unpack_bytes('<I7', spans, from_at)
  local span_at = from_at
  while x >= over and span_at <= to_at do
    begin, over = unpack_bytes(SPAN, spans, span_at)
    span_at = span_at + 7
  end
  if x >= over then missing, begin, over = missing or x, over, FAR end
end
