-- Inlined: stores `record` until `kept`, if that is new.
if not expires then
  call('SET', bucket, record, 'KEEPTTL')
elseif tested then
  call('SET', bucket, record, 'PX', math.ceil(math.max(0, kept - now) / 1000) + TEST_SLACK)
else
  call('SET', bucket, record, 'PXAT', string.format('%d', kept / 1000))
end
