-- Inlined: `edit`, if any, of a limit's ring, before those of the limits that came before it.
if edit then
  if changed then
    changed = edit .. sub(stored, edit_end, changed_at - 1) .. changed
  else
    changed, changed_end = edit, edit_end
  end
  changed_at = edit_at
end
