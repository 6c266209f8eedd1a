-- Inlined: a charge that does not fit goes in steps: what fits at `t` (stage 1), then the rest of the
-- last windowful (2), then whole windowfuls (3), each as soon as it fits. In the loop only sliding
-- windows go this way.
local is_done = stage and not until_at
if not fresh then
  stage = nil
elseif is_done then
  -- The state after this step.
  if kind > 255 then
    last_at = t
    if rebuilt then
      source = edit
    elseif edit then
      source = sub(stored, base, edit_at - 1) .. edit .. sub(stored, edit_end)
      edit, edit_at, edit_end, base, rebuilt, resized = source, base, size + 1, 1, true, true
    end
  else
    last, owed = debt_at, debt
  end
elseif not stage and capacity > 0 and (left > 0 or charge >= capacity) then
  if left < 0 then left = 0 end
  latest, stage, portion = now + LONGEST_DEBT, 1, (charge - left) % capacity
  if latest < t then latest = t end
  windowfuls, charge, until_at, is_done = (charge - left - portion) / capacity, left, t, left == 0
elseif stage == 3 and until_at <= latest then
  local interval = kind == TOKEN and math.ceil(capacity * permit / units) * step or b
  local more = (latest - until_at - (latest - until_at) % interval) / interval
  until_at = until_at + (more < windowfuls and more or windowfuls - 1) * interval
  if kind > 255 and until_at - last_at >= round then
    local reach = until_at - last_at
    --inline widen_now.lua
  end
end
if is_done then
  until_at = t
  if stage == 1 and portion > 0 then
    stage, charge = 2, portion
  elseif stage < 3 and windowfuls > 0 then
    stage, charge = 3, capacity
  else
    until_at, stage = nil, nil
  end
end
