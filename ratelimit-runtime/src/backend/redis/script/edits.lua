-- Inlined: puts a limit's `edit`, if any, before those of the earlier limits.
if edit then
  if changed then
    changed = edit .. sub(stored, edit_end, changed_at - 1) .. changed
  else
    changed, changed_end = edit, edit_end
  end
  changed_at = edit_at
end
