#!lua name=@NAME@
-- Replay and budgets in one step (docs/budgets.md, "In Redis"). The windows, the name and the lifetimes are
-- filled in by `remote/library.rs`; a changed library has another name, so that two versions can be loaded
-- at a time.
--
-- A scope is one string: for each window the number of the current sub-bucket, the sum of all that count,
-- and what the current one has (the head, read and written by every call), then the closed sub-buckets,
-- number k at place k % (buckets + 1), read and written only when a sub-bucket ended. All are doubles, exact
-- for whole numbers up to 2^53 - 1, which is the greatest amount.
--
-- A record is the string of a token or a reservation: when it was charged, or '-' when there is nothing to
-- correct (any more).

local WINDOWS = @WINDOWS@ -- { width in milliseconds, sub-buckets } each
local LIFE = @LIFE@ -- milliseconds until an idle scope is empty
local MOST = 2 ^ 53 - 1

-- While a library is loaded it has no global functions, so these are made by hand.
local function doubles(count)
  local form = '<'
  for _ = 1, count do form = form .. 'd' end
  return form
end

local HEAD, HEAD_BYTES = doubles(3 * #WINDOWS), 8 * 3 * #WINDOWS
local SCOPE_BYTES = HEAD_BYTES
local RINGS = {} -- where the closed sub-buckets of each window begin, and their form
for w = 1, #WINDOWS do
  local places = WINDOWS[w][2] + 1
  RINGS[w] = { SCOPE_BYTES + 1, doubles(places) }
  SCOPE_BYTES = SCOPE_BYTES + 8 * places
end

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- The closed sub-buckets of a scope, as they are stored.
local function closed(key)
  local text = redis.call('GET', key)
  local all = {}
  for w, window in ipairs(WINDOWS) do
    if text and #text == SCOPE_BYTES then
      all[w] = { struct.unpack(RINGS[w][2], text, RINGS[w][1]) }
    else
      all[w] = {}
      for i = 1, window[2] + 1 do all[w][i] = 0 end
    end
  end
  return all
end

-- A scope at a time. `v` is its head: current number, sum and current amount of window w from 3 * w - 2 on.
-- `spare` is how many sub-buckets beyond the window count. `closed` is there when it must be written.
local function open(key, now, spare)
  local head = redis.call('GETRANGE', key, 0, HEAD_BYTES - 1)
  local scope = { key = key, spare = spare }
  if #head ~= HEAD_BYTES then
    scope.v, scope.closed, scope.empty = {}, closed(key), true
    for w, window in ipairs(WINDOWS) do
      scope.v[3 * w - 2], scope.v[3 * w - 1], scope.v[3 * w] = math.floor(now / window[1]), 0, 0
    end
    return scope
  end
  scope.v = { struct.unpack(HEAD, head) }
  local v = scope.v
  for w, window in ipairs(WINDOWS) do
    local was, is, places = v[3 * w - 2], math.floor(now / window[1]), window[2] + 1
    if is > was then
      scope.closed = scope.closed or closed(key)
      local before, after, sum = scope.closed[w], {}, 0
      for i = 1, places do after[i] = 0 end
      for k = math.max(is - window[2] - spare, was - places), math.min(is - 1, was) do
        local amount = k == was and v[3 * w] or before[k % places + 1]
        after[k % places + 1] = amount
        sum = sum + amount
      end
      scope.closed[w], v[3 * w - 2], v[3 * w - 1], v[3 * w] = after, is, sum, 0
    end
  end
  return scope
end

local function save(scope)
  local head = struct.pack(HEAD, unpack(scope.v))
  if not scope.closed then
    redis.call('SETRANGE', scope.key, 0, head)
    return
  end
  local parts = { head }
  for w in ipairs(WINDOWS) do parts[w + 1] = struct.pack(RINGS[w][2], unpack(scope.closed[w])) end
  redis.call('SET', scope.key, table.concat(parts), 'PX', LIFE)
end

local function charge(scope, amount)
  for w in ipairs(WINDOWS) do
    local fits = math.min(amount, MOST - scope.v[3 * w - 1])
    scope.v[3 * w - 1] = scope.v[3 * w - 1] + fits
    scope.v[3 * w] = scope.v[3 * w] + fits
  end
end

-- Takes back what was charged at a time, from the windows in which it still counts.
local function refund(scope, at, amount)
  local v = scope.v
  for w, window in ipairs(WINDOWS) do
    local number, places, given = math.floor(at / window[1]), window[2] + 1, 0
    if number >= v[3 * w - 2] then
      given = math.min(amount, v[3 * w])
      v[3 * w] = v[3 * w] - given
    elseif number >= v[3 * w - 2] - window[2] - scope.spare then
      scope.closed = scope.closed or closed(scope.key)
      local place = number % places + 1
      given = math.min(amount, scope.closed[w][place])
      scope.closed[w][place] = scope.closed[w][place] - given
    end
    v[3 * w - 1] = v[3 * w - 1] - given
  end
end

-- Milliseconds until `amount` of a window has left.
local function wait(scope, w, now, amount)
  scope.closed = scope.closed or closed(scope.key)
  local number, width, places = scope.v[3 * w - 2], WINDOWS[w][1], WINDOWS[w][2] + 1
  local left = 0
  for k = number - WINDOWS[w][2] - scope.spare, number do
    left = left + (k == number and scope.v[3 * w] or scope.closed[w][k % places + 1])
    if left >= amount then return (k + WINDOWS[w][2] + scope.spare + 1) * width - now end
  end
  return places * width
end

-- KEYS: the record, then the scopes.
-- ARGV: milliseconds for which a token is remembered, 0 without one; milliseconds in which a charge can be
-- corrected; sub-buckets that count beyond each window; then for each scope its cost and the limit of each
-- window, -1 for none.
-- Gives 0, the time, and the sums of all windows of all scopes; or 1 for a token that is known; or 2, the
-- time, and scope, window, milliseconds to wait (-1: the cost is above the limit) and what is left.
local function admit(keys, args)
  local now = clock()
  local replay, hold, spare = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local life = replay
  if #keys > 1 then life = math.max(replay, hold) end
  if not redis.call('SET', keys[1], now, 'NX', 'PX', life) then return { 1, now } end
  local scopes, limited = {}, nil
  for i = 2, #keys do
    local scope, first = open(keys[i], now, spare), 4 + (i - 2) * (#WINDOWS + 1)
    scope.cost = tonumber(args[first])
    scopes[i - 1] = scope
    for w in ipairs(WINDOWS) do
      local limit, sum = tonumber(args[first + w]), scope.v[3 * w - 1]
      if limit < 0 then limit = MOST end
      if scope.cost > 0 and sum + scope.cost > limit then
        local time = -1
        if scope.cost <= limit then time = wait(scope, w, now, sum + scope.cost - limit) end
        if not limited or (limited[5] >= 0 and (time < 0 or time > limited[5])) then
          limited = { 2, now, i - 2, w - 1, time, math.max(0, limit - sum) }
        end
      end
    end
  end
  if limited then
    if replay > 0 then redis.call('SET', keys[1], '-', 'PX', replay) else redis.call('DEL', keys[1]) end
    return limited
  end
  local answer = { 0, now }
  for _, scope in ipairs(scopes) do
    if scope.cost > 0 then
      charge(scope, scope.cost)
      save(scope)
    end
    for w in ipairs(WINDOWS) do answer[#answer + 1] = scope.v[3 * w - 1] end
  end
  return answer
end

-- KEYS: the record, then the scopes. ARGV: as for `admit` the first and the third; then for each scope what was
-- charged and what it came to. Gives 1, or 0 if there was nothing to correct.
local function settle(keys, args)
  local now = clock()
  local replay, spare = tonumber(args[1]), tonumber(args[2])
  local at = tonumber(redis.call('GET', keys[1]) or '-')
  if not at then return 0 end
  if at + replay > now then
    redis.call('SET', keys[1], '-', 'PX', at + replay - now)
  else
    redis.call('DEL', keys[1])
  end
  for i = 2, #keys do
    local charged, actual = tonumber(args[2 * i - 1]), tonumber(args[2 * i])
    if charged ~= actual then
      local scope = open(keys[i], now, spare)
      if actual > charged then
        charge(scope, actual - charged)
      else
        refund(scope, at, charged - actual)
      end
      if actual > charged or not scope.empty then save(scope) end
    end
  end
  return 1
end

redis.register_function('@NAME@_admit', admit)
redis.register_function('@NAME@_settle', settle)
