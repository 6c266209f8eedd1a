-- Inlined: the window of a calendar that contains `x`: `begin` to `over`. All times before the
-- first boundary count as one window, because they lie in the past.
begin, over = 0, unpack_bytes('<I7', spans, from_at)
if x >= over then
  local span_at = from_at
  begin, over = unpack_bytes(SPAN, spans, span_at)
  while x >= over and span_at < to_at do
    span_at = span_at + 7
    begin, over = unpack_bytes(SPAN, spans, span_at)
  end
  if x >= over then missing, begin, over = missing or x, over, FAR end
end
