#!lua name=agentwall_peers
-- What else could be asked in one round trip, for `bench/rows_budget.py`: the same token, the same three
-- windows, the same reservation. KEYS: token, counters, reservation. ARGV: cost; limits of minute, hour, day.

local WIDTHS = { 60000, 3600000, 86400000 }
local PARTS = { { 2000, 30 }, { 120000, 30 }, { 1800000, 48 } }

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function is_new(keys)
  return redis.call('SET', keys[1], '1', 'NX', 'PX', 90000)
end

-- GCRA: the time at which each window would be empty. Up to twice the limit in one window.
local function gcra(keys, args)
  local now, cost = clock(), tonumber(args[1])
  if not is_new(keys) then return 1 end
  local at, fields = redis.call('HMGET', keys[2], 'm', 'h', 'd'), { 'm', 0, 'h', 0, 'd', 0 }
  for w = 1, 3 do
    local empty = math.max(tonumber(at[w] or now), now) + WIDTHS[w] * cost / tonumber(args[1 + w])
    if empty - now > WIDTHS[w] then return 2 end
    fields[2 * w] = string.format('%.3f', empty)
  end
  redis.call('HSET', keys[2], unpack(fields))
  redis.call('PEXPIRE', keys[2], WIDTHS[3])
  redis.call('SET', keys[3], args[1], 'PX', 900000)
  return 0
end

-- Two buckets: this calendar window, and the part of the one before that still overlaps, taken to be even.
local function two_buckets(keys, args)
  local now, cost, fields = clock(), tonumber(args[1]), {}
  if not is_new(keys) then return 1 end
  for w = 1, 3 do
    local number = math.floor(now / WIDTHS[w])
    fields[2 * w - 1], fields[2 * w] = w .. ':' .. number - 1, w .. ':' .. number
  end
  local was = redis.call('HMGET', keys[2], unpack(fields))
  for w = 1, 3 do
    local overlap = 1 - now % WIDTHS[w] / WIDTHS[w]
    local spent = math.ceil(tonumber(was[2 * w - 1] or 0) * overlap) + tonumber(was[2 * w] or 0)
    if spent + cost > tonumber(args[1 + w]) then return 2 end
  end
  for w = 1, 3 do redis.call('HINCRBY', keys[2], fields[2 * w], cost) end
  redis.call('PEXPIRE', keys[2], 2 * WIDTHS[3])
  redis.call('SET', keys[3], args[1], 'PX', 900000)
  return 0
end

-- The sub-buckets of this crate as fields of a hash, all read by each call.
local function fields(keys, args)
  local now, cost, names, first = clock(), tonumber(args[1]), {}, {}
  if not is_new(keys) then return 1 end
  for w = 1, 3 do
    local number = math.floor(now / PARTS[w][1])
    first[w] = #names
    for k = number, number - PARTS[w][2], -1 do names[#names + 1] = w .. ':' .. k end
  end
  local was = redis.call('HMGET', keys[2], unpack(names))
  for w = 1, 3 do
    local spent = 0
    for k = 1, PARTS[w][2] + 1 do spent = spent + tonumber(was[first[w] + k] or 0) end
    if spent + cost > tonumber(args[1 + w]) then return 2 end
  end
  for w = 1, 3 do redis.call('HINCRBY', keys[2], names[first[w] + 1], cost) end
  redis.call('PEXPIRE', keys[2], 90000000)
  redis.call('SET', keys[3], args[1], 'PX', 900000)
  return 0
end

redis.register_function('agentwall_peer_gcra', gcra)
redis.register_function('agentwall_peer_two_buckets', two_buckets)
redis.register_function('agentwall_peer_fields', fields)
