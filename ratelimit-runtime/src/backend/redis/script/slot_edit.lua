-- Inlined: puts `entry`, if any, into the ring at `place`.
if entry and rebuilt then
  edit = sub(source, 1, place) .. entry .. sub(source, place + width + 1)
elseif entry then
  edit, edit_at, edit_end = entry, edit_at + place, edit_at + place + width
end
