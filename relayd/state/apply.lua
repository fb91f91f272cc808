-- Carry out a batch of operations of relayd's state contract (contract.py), in order, at one instant.
--
-- KEYS[1]  the clock. All other keys begin with ARGV[1], which holds the same hash tag: so the whole script works in
--          one slot of a Cluster. They cannot be declared one by one, because a call's counters are read from the call.
-- ARGV[1]  prefix of every key        ARGV[2]  Unix ms to take for now, "0" = the server's clock (others: tests)
-- ARGV[3]  the operations, MessagePack: an array of {code, arguments...}
-- Answer:  MessagePack: when the data began (Unix ms), one array for each operation: {word, fields...}, or
--          {"failed", reason} when it raised an error, and the names of what was found damaged and set aside.
--
-- Keys:  c:CALL   open call or tombstone   {state, expires, terms, record, checkpoint, holds}; state O open, S settled, R reaped
--        open     sorted set of open calls by the time they may be reaped
--        h:KEY    those of a key that hold a reservation, by the time they will likely be settled
--        w:COUNTER            rolling window   {bucket, amount, last, bucket, amount, last, ...}
--        k:COUNTER@START      calendar window  integer
--        s:COUNTER            slots            sorted set of holders by expiry
--        u:DAY                books            hash {key, account, model} -> {counts...}
--        damaged:...          what was found to be something else than it should be, under its name; nobody reads it
--        calls    sorted set of recent calls by their beginning    call   hash of them: id -> {id, at, ..., body}
--        began    when all this began: whoever finds another time there knows that what was here before is lost
--        p:NAME pin   n:TOPIC notes (hash)   v:TOPIC version of a topic   nodes (hash)
-- Whether something has expired is always decided by the times inside; Redis's own TTLs only sweep up, an hour later.

local prefix = ARGV[1]
local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack
local call = redis.call
local FOREVER = 9007199254740991
local HOUR = 3600000
local DAY = 24 * HOUR
local SETTLED, REAPED, USAGE, CALLS = 6 * HOUR, 7 * DAY, 400 * DAY, 7 * DAY
local BACKWARD = 5000
local LONGEST_LEASE = HOUR
local MOST_HOLDING = 256

-- A key that holds something else than we write there (another program's work, a bad restore) is set aside and begins
-- anew: one damaged counter must not cost all others. A user who may not do TYPE and RENAME loses what is there.
local damaged = {}
local function note_damage(key, reason)
  damaged[#damaged + 1] = string.sub(key, #prefix + 1) .. ': ' .. reason
end
local function set_aside(key, reason)
  note_damage(key, reason)
  local place = prefix .. 'damaged:' .. string.sub(key, #prefix + 1)
  local moved = redis.pcall('RENAME', key, place)
  if type(moved) == 'table' and moved.err then call('DEL', key) else call('PEXPIRE', place, 30 * DAY) end
end

-- a key of that type, or none
local function typed(key, kind)
  local found = redis.pcall('TYPE', key).ok
  if found and found ~= kind and found ~= 'none' then set_aside(key, 'it is a ' .. found) end
  return key
end

local function whole(value)
  return type(value) == 'number' and value == math.floor(value) and math.abs(value) <= FOREVER
end

local function number(key)
  local raw = call('GET', typed(key, 'string'))
  if not raw then return 0 end
  local value = tonumber(raw)
  if whole(value) then return value end
  set_aside(key, 'it is not a whole number')
  return 0
end

-- what was packed; nil when it is none of ours
local function unpacked(raw, sound)
  local ok, value = pcall(unpack_one, raw)
  if ok and type(value) == 'table' and sound(value) then return value end
end

-- a field of a hash; damaged ones are kept in another hash
local function field_of(key, name, raw, sound)
  local value = unpacked(raw, sound)
  if value then return value end
  note_damage(key, 'a damaged field')
  local place = prefix .. 'damaged:' .. string.sub(key, #prefix + 1)
  call('HSET', typed(place, 'hash'), name, raw)
  call('PEXPIRE', place, 30 * DAY)
  call('HDEL', key, name)
end

local function numbers(value)
  for i = 1, #value do if not whole(value[i]) then return false end end
  return true
end
local function is_window(value) return #value % 3 == 0 and numbers(value) end
local function is_row(value) return #value == 10 and numbers(value) end
local function never() return false end
local function is_names(value) return #value == 3 end
local function is_note(value) return whole(value[1]) and type(value[2]) == 'string' end
local function is_node(value) return whole(value[1]) and whole(value[2]) and type(value[3]) == 'string' end
local function is_kept_call(value) return #value == 9 and whole(value[2]) and type(value[9]) == 'string' end
local function is_pin(value) return value[1] ~= nil and whole(value[2]) end
local function is_record(value) return type(value) == 'table' and #value == 14 end
local function is_call(value)
  if not whole(value[2]) then return false end
  if value[1] == 'S' then return true end
  if (value[1] ~= 'O' and value[1] ~= 'R') or type(value[3]) ~= 'table' or not is_record(value[4]) then return false end
  for _, term in ipairs(value[3]) do
    if type(term) ~= 'table' or type(term[2]) ~= 'string' then return false end
  end
  return true
end

-- now: never before what was seen last, unless the clock was set back by more than BACKWARD
local now = tonumber(ARGV[2])
if now == 0 then
  local t = call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local seen = number(KEYS[1])
if seen > now and seen - now <= BACKWARD then now = seen end
if seen > now then -- it was set right: calls that it admitted meanwhile are to be reaped before that date
  for _, id in ipairs(call('ZRANGEBYSCORE', prefix .. 'open', now + LONGEST_LEASE, '+inf')) do
    call('ZADD', prefix .. 'open', now + LONGEST_LEASE, id)
  end
end
if seen ~= now then call('SET', KEYS[1], now, 'PX', DAY) end
local began = number(prefix .. 'began')
if began == 0 then
  began = now
  call('SET', prefix .. 'began', now, 'PX', USAGE)
end

-- a count stays at the largest integer that is exact here
local function cap(n) return math.min(n, FOREVER) end

local function ttl(ms) return math.max(math.min(ms, USAGE), 0) + HOUR end
local function load(key, sound)
  local raw = call('GET', typed(key, 'string'))
  local value = raw and unpacked(raw, sound)
  if raw and not value then set_aside(key, 'it cannot be read') end
  return value or nil
end
local function save(key, value, ms) call('SET', key, pack(value), 'PX', ttl(ms)) end

-- what a record takes of a term, by the term's unit. Record: {day, key, account, model, requests, errors, unpriced,
-- input, cache_write_5m, cache_write_1h, cache_read, output, web_searches, cost}
local function amount(record, unit)
  if not record then return 0 end
  if unit == 'requests' then return record[5] end
  if unit == 'cost' then return record[14] end
  return cap(record[8] + record[9] + record[10] + record[11] + record[12])
end

local function book(record, sign)
  local key, field = prefix .. 'u:' .. record[1], pack({record[2], record[3], record[4]})
  local raw = call('HGET', typed(key, 'hash'), field)
  local row = raw and field_of(key, field, raw, is_row) or {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
  for i = 1, 10 do row[i] = cap(row[i] + sign * record[i + 4]) end
  call('HSET', key, field, pack(row))
  if not raw then call('PEXPIRE', key, USAGE) end
end

-- Terms: {kind, counter, unit, limit, cost, a, b}. R rolling: a window, b bucket length. C calendar: a start, b end.
-- S slots: a time to live.

-- the live buckets of a rolling window, and their sum
local function live_buckets(counter, window)
  local flat = load(prefix .. 'w:' .. counter, is_window) or {}
  local live, sum, n = {}, 0, 0
  for i = 1, #flat, 3 do
    if flat[i + 2] + window > now then
      if flat[i + 2] - window <= now then -- else a wrong clock dated it
        live[n + 1], live[n + 2], live[n + 3] = flat[i], flat[i + 1], flat[i + 2]
        n = n + 3
        sum = sum + flat[i + 1]
      end
    end
  end
  return live, cap(sum)
end

local function add_to_bucket(live, bucket, delta, last)
  for i = 1, #live, 3 do
    if live[i] == bucket then
      live[i + 1] = cap(live[i + 1] + delta)
      if last > live[i + 2] then live[i + 2] = last end
      return
    end
  end
  local n = #live
  live[n + 1], live[n + 2], live[n + 3] = bucket, delta, last
end

local function rolling_retry(live, sum, term)
  if term[5] > term[4] then return FOREVER - now end
  local order = {}
  for i = 1, #live, 3 do order[#order + 1] = {live[i + 2], live[i + 1]} end
  table.sort(order, function(x, y) return x[1] < y[1] end)
  for _, bucket in ipairs(order) do
    sum = sum - bucket[2]
    if sum + term[5] <= term[4] then return bucket[1] + term[6] - now end
  end
  return FOREVER - now
end

local check = {}  -- check[kind](term, holder) -> ms until there is room, or nil; memory for the charge; used

function check.R(term)
  local live, sum = live_buckets(term[2], term[6])
  if sum + term[5] > term[4] then return rolling_retry(live, sum, term), live, sum end
  return nil, live, sum
end

function check.C(term)
  local used = number(prefix .. 'k:' .. term[2] .. '@' .. string.format('%.0f', term[6]))
  if used + term[5] > term[4] then
    if term[5] > term[4] then return FOREVER - now, nil, used end
    return term[7] - now, nil, used
  end
  return nil, nil, used
end

function check.S(term, holder)
  local key = typed(prefix .. 's:' .. term[2], 'zset')
  call('ZREMRANGEBYSCORE', key, '-inf', now)
  local count = call('ZCOUNT', key, '-inf', now + 2 * LONGEST_LEASE) -- what is later was dated by a wrong clock
  if call('ZSCORE', key, holder) then return nil, nil, count - 1 end
  if count >= term[4] then
    if term[4] <= 0 then return FOREVER - now end
    local row = call('ZRANGE', key, count - term[4], count - term[4], 'WITHSCORES')
    return tonumber(row[2]) - now
  end
  return nil, nil, count
end

local charge = {}  -- charge[kind](term, holder, memory, used) -> what is kept in the call, used, resets

function charge.R(term, _, live, used)
  local bucket = math.floor(now / term[7])
  add_to_bucket(live, bucket, term[5], now)
  save(prefix .. 'w:' .. term[2], live, term[6])
  return {'R', term[2], term[3], term[5], term[6], bucket}, used + term[5], now + term[6]
end

function charge.C(term, _, _, used)
  local key = prefix .. 'k:' .. term[2] .. '@' .. string.format('%.0f', term[6])
  call('SET', key, cap(used + term[5]), 'PX', ttl(term[7] - now + 2 * DAY))
  return {'C', term[2], term[3], term[5], term[6]}, used + term[5], term[7]
end

-- when the last slot ends, of those that were not dated by a wrong clock
local function last_slot(key)
  local last = call('ZCOUNT', key, '-inf', now + 2 * LONGEST_LEASE) - 1
  if last < 0 then return now end
  return tonumber(call('ZRANGE', key, last, last, 'WITHSCORES')[2])
end

local function hold(key, holder, time)
  call('ZADD', key, now + time, holder)
  call('PEXPIRE', key, ttl(math.max(time, DAY)))
end

function charge.S(term, holder, _, used)
  local key = prefix .. 's:' .. term[2]
  hold(key, holder, term[6])
  return {'S', term[2]}, used + 1, last_slot(key)
end

-- the open call or tombstone of an id, unless it is forgotten
local function find(id)
  local found = load(prefix .. 'c:' .. id, is_call)
  if found and found[1] ~= 'O' and found[2] <= now then return nil end
  return found
end

-- what an open call holds of a term that is checked: what it was charged, if that still counts
local function held_of(found, term, live)
  for _, kept in ipairs(found[3]) do
    if kept[1] == term[1] and kept[2] == term[2] then
      if kept[1] == 'C' then return kept[5] == term[6] and kept[4] or 0 end
      for i = 1, #live, 3 do
        if live[i] == kept[6] then return kept[4] end
      end
    end
  end
  return 0
end

-- ms until open calls of the key will likely have made room for a term; nil when they cannot
local function likely_retry(term, key, live, used)
  if not key or term[1] == 'S' or term[3] == 'requests' then return nil end
  local index = typed(prefix .. 'h:' .. key, 'zset')
  local rows = call('ZRANGE', index, 0, MOST_HOLDING - 1, 'WITHSCORES')
  for i = 1, #rows, 2 do
    local found = find(rows[i])
    if found and found[1] == 'O' then
      used = used - held_of(found, term, live)
      if used + term[5] <= term[4] then return math.max(tonumber(rows[i + 1]) - now, 1) end
    else
      call('ZREM', index, rows[i])
    end
  end
end

-- whether a call is charged an estimate, of which its settlement may give something back
local function reserves(terms)
  for _, term in ipairs(terms) do
    if term[1] ~= 'S' and term[3] ~= 'requests' and term[5] > 0 then return true end
  end
  return false
end

-- check all, then charge all. -> answer, what the call keeps (nil unless granted)
local function take(terms, holder, key)
  for _, term in ipairs(terms) do
    if term[1] == 'C' and (now < term[6] or now >= term[7]) then return {'stale', now} end
  end
  local worst, index, worst_held, memory, used = -1, 0, false, {}, {}
  for i, term in ipairs(terms) do
    local retry, held
    retry, memory[i], used[i] = check[term[1]](term, holder)
    local likely = retry and likely_retry(term, key, memory[i], used[i])
    if likely and likely < retry then retry, held = likely, true end
    if retry and retry > worst then worst, index, worst_held = retry, i, held or false end
  end
  if worst >= 0 then return {'denied', index - 1, worst, now, worst_held} end
  local kept, levels = {}, {}
  for i, term in ipairs(terms) do
    local total, resets
    kept[i], total, resets = charge[term[1]](term, holder, memory[i], used[i])
    levels[i] = {total, resets}
  end
  return {'granted', now, levels, false}, kept
end

-- an open call is over: it is in no index any more
local function close(id, found)
  call('ZREM', typed(prefix .. 'open', 'zset'), id)
  if found[6] then call('ZREM', typed(prefix .. 'h:' .. found[4][2], 'zset'), id) end
end

-- bring what a call was charged (kept terms) to what `record` says; slots are given back
local function adjust(kept, record, id)
  for _, term in ipairs(kept) do
    if term[1] == 'S' then
      call('ZREM', typed(prefix .. 's:' .. term[2], 'zset'), id)
    else
      local actual = amount(record, term[3])
      local delta = actual - term[4]
      term[4] = actual
      if delta ~= 0 then
        if term[1] == 'R' then
          local live = live_buckets(term[2], term[5])
          for i = 1, #live, 3 do
            if live[i] == term[6] then
              live[i + 1] = cap(live[i + 1] + delta)
              save(prefix .. 'w:' .. term[2], live, term[5])
              break
            end
          end
        else
          local key = prefix .. 'k:' .. term[2] .. '@' .. string.format('%.0f', term[5])
          local used = number(key)
          if call('EXISTS', key) == 1 then call('SET', key, cap(used + delta), 'KEEPTTL') end
        end
      end
    end
  end
end

-- charge a call that was admitted elsewhere, at `at`, to the windows that still hold that moment; in buckets of its own
-- (with negative numbers), for one that had left the window may come back, and open calls must not find theirs in it
local function charge_late(terms, record, at)
  for _, term in ipairs(terms) do
    local actual = amount(record, term[3])
    if term[1] == 'R' and at + term[6] > now then
      local live = live_buckets(term[2], term[6])
      add_to_bucket(live, -1 - math.floor(at / term[7]), actual, at)
      save(prefix .. 'w:' .. term[2], live, term[6])
    elseif term[1] == 'C' and now < term[7] then
      local key = prefix .. 'k:' .. term[2] .. '@' .. string.format('%.0f', term[6])
      call('SET', key, cap(number(key) + actual), 'PX', ttl(term[7] - now + 2 * DAY))
    end
  end
end

local function settle(id, record, terms, at)
  local found = find(id)
  if found and found[1] == 'S' then return {'settled', 'again'} end
  local outcome = 'unknown'
  if found then
    outcome = found[1] == 'O' and 'settled' or 'corrected'
    if found[1] == 'R' then book(found[4], -1) end
    adjust(found[3], record, id)
    close(id, found)
  elseif record then
    charge_late(terms, record, math.min(at, now))
  end
  if record then book(record, 1) end
  save(prefix .. 'c:' .. id, {'S', now + SETTLED}, SETTLED)
  return {'settled', outcome}
end

local ops = {}

function ops.admit(id, time, orphan, terms, likely)
  local found = find(id)
  if found and found[1] == 'O' then return {'granted', now, {}, true} end
  if found then return {'closed'} end
  local answer, kept = take(terms, id, orphan[2])
  if kept then
    local holds = reserves(terms)
    save(prefix .. 'c:' .. id, {'O', now + time, kept, orphan, false, holds}, USAGE)
    call('ZADD', typed(prefix .. 'open', 'zset'), now + time, id)
    call('PEXPIRE', prefix .. 'open', USAGE)
    if holds then
      call('ZADD', typed(prefix .. 'h:' .. orphan[2], 'zset'), now + likely, id)
      call('PEXPIRE', prefix .. 'h:' .. orphan[2], USAGE)
    end
  end
  return answer
end

function ops.settle(id, record, terms, at) return settle(id, record, terms, at) end

function ops.void(id) return settle(id, false, {}, 0) end

function ops.renew(calls, leases, time)
  local lost = {}
  for _, one in ipairs(calls) do
    local id, checkpoint = one[1], one[2]
    local found = find(id)
    if found and found[1] == 'O' and found[2] > now then
      found[2] = now + time
      if checkpoint then found[5] = checkpoint end
      save(prefix .. 'c:' .. id, found, USAGE)
      call('ZADD', typed(prefix .. 'open', 'zset'), now + time, id)
      for _, term in ipairs(found[3]) do
        if term[1] == 'S' then
          local key = typed(prefix .. 's:' .. term[2], 'zset')
          local expires = call('ZSCORE', key, id)
          if expires and tonumber(expires) > now then hold(key, id, time) end
        end
      end
    else
      lost[#lost + 1] = id
    end
  end
  for _, one in ipairs(leases) do
    local key = typed(prefix .. 's:' .. one[1], 'zset')
    local expires = call('ZSCORE', key, one[2])
    if expires and tonumber(expires) > now then
      hold(key, one[2], time)
    else
      lost[#lost + 1] = one[2]
    end
  end
  return {'renewed', lost}
end

function ops.lease(holder, terms) return (take(terms, holder)) end

function ops.release(holder, counters)
  for _, counter in ipairs(counters) do call('ZREM', typed(prefix .. 's:' .. counter, 'zset'), holder) end
  return {'done'}
end

-- pin: {value, expires}; expires 0 = never
local function live_pin(name)
  local found = load(prefix .. 'p:' .. name, is_pin)
  if found and (found[2] == 0 or found[2] > now) then return found end
end

local function put_pin(name, value, time)
  if time then
    save(prefix .. 'p:' .. name, {value, now + time}, time)
  else
    call('SET', prefix .. 'p:' .. name, pack({value, 0}))
  end
end

function ops.pin(name, value, time, keep)
  local found = keep and live_pin(name)
  if found then return {'pinned', found[1]} end
  put_pin(name, value, time)
  return {'pinned', value}
end

function ops.getpin(name, time)
  local found = live_pin(name)
  if not found then return {'pinned', false} end
  if time and found[2] ~= 0 then put_pin(name, found[1], time) end
  return {'pinned', found[1]}
end

function ops.unpin(name)
  call('DEL', prefix .. 'p:' .. name)
  return {'done'}
end

-- note: {version, body}
function ops.publish(topic, name, body, expect)
  local key = typed(prefix .. 'n:' .. topic, 'hash')
  local raw = call('HGET', key, name)
  local held = raw and field_of(key, name, raw, is_note)
  if expect and expect ~= (held and held[1] or 0) then
    if not held then return {'published', false, false} end
    return {'published', held[2] == body, {name, held[1], held[2]}}
  end
  number(prefix .. 'v:' .. topic)
  local version = call('INCR', prefix .. 'v:' .. topic)
  call('HSET', key, name, pack({version, body}))
  call('PEXPIRE', key, USAGE)
  call('PEXPIRE', prefix .. 'v:' .. topic, USAGE)
  return {'published', true, {name, version, body}}
end

-- every node asks every second; mostly nothing is new, and then the notes need not be read, however many there are
function ops.gather(topic, since)
  local newest = number(prefix .. 'v:' .. topic)
  if newest > 0 and newest == since then return {'gathered', now, {}} end
  if newest < since then since = 0 end
  local key = typed(prefix .. 'n:' .. topic, 'hash')
  local flat, notes = call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    local held = field_of(key, flat[i], flat[i + 1], is_note)
    if held and held[1] > since then notes[#notes + 1] = {flat[i], held[1], held[2]} end
  end
  table.sort(notes, function(x, y) return x[2] < y[2] end)
  return {'gathered', now, notes}
end

-- node: {seen, expires, body}
function ops.heartbeat(node, body, time)
  call('HSET', typed(prefix .. 'nodes', 'hash'), node, pack({now, now + time, body}))
  call('PEXPIRE', prefix .. 'nodes', ttl(DAY))
  return {'done'}
end

function ops.nodes()
  local flat, nodes = call('HGETALL', typed(prefix .. 'nodes', 'hash')), {}
  for i = 1, #flat, 2 do
    local held = field_of(prefix .. 'nodes', flat[i], flat[i + 1], is_node)
    if held and held[2] > now and held[1] - BACKWARD <= now then
      nodes[#nodes + 1] = {flat[i], held[3], held[1]}
    elseif held then
      call('HDEL', prefix .. 'nodes', flat[i])
    end
  end
  table.sort(nodes, function(x, y) return x[1] < y[1] end)
  return {'nodes', nodes}
end

-- the open calls of a dead process, at most `limit`
local function owned(owner, limit)
  local found = {}
  for _, id in ipairs(call('ZRANGE', typed(prefix .. 'open', 'zset'), 0, -1)) do
    if #found < limit and string.sub(id, 1, #owner) == owner then found[#found + 1] = id end
  end
  return found
end

function ops.reap(limit, look, owner, leases)
  local due, reaped = nil, {}
  if owner == '' then
    due = call('ZRANGEBYSCORE', typed(prefix .. 'open', 'zset'), '-inf', now, 'LIMIT', 0, limit)
  else
    due = owned(owner, limit)
  end
  for _, counter in ipairs((look or owner == '') and {} or leases) do
    local key = typed(prefix .. 's:' .. counter, 'zset')
    for _, holder in ipairs(call('ZRANGE', key, 0, -1)) do
      if string.sub(holder, 1, #owner) == owner then call('ZREM', key, holder) end
    end
  end
  for _, id in ipairs(due) do
    local found = find(id)
    local open = found and found[1] == 'O'
    if open then
      local record = found[4]
      if found[5] and amount(found[5], 'tokens') > 0 then record = found[5] end
      reaped[#reaped + 1] = {id, record}
      if not look then
        adjust(found[3], record, id)
        book(record, 1)
        save(prefix .. 'c:' .. id, {'R', now + REAPED, found[3], record, false}, REAPED)
        close(id, found)
      end
    else
      call('ZREM', prefix .. 'open', id)
    end
  end
  return {'reaped', reaped}
end

local peek = {}

function peek.R(term)
  local live, sum = live_buckets(term[2], term[6])
  local resets = now
  for i = 3, #live, 3 do resets = math.max(resets, live[i] + term[6]) end
  return {sum, resets}
end

function peek.C(term)
  return {number(prefix .. 'k:' .. term[2] .. '@' .. string.format('%.0f', term[6])), term[7]}
end

function peek.S(term)
  local key = typed(prefix .. 's:' .. term[2], 'zset')
  local used = call('ZCOUNT', key, '(' .. string.format('%.0f', now), now + 2 * LONGEST_LEASE)
  return {used, used > 0 and last_slot(key) or now}
end

function ops.peek(terms)
  local levels = {}
  for i, term in ipairs(terms) do levels[i] = peek[term[1]](term) end
  return {'peeked', now, levels}
end

-- one page of a day's books, of one key or ("") of all, and where the next one begins ("0": there is none)
function ops.report(day, cursor, size, key)
  local books = typed(prefix .. 'u:' .. day, 'hash')
  local page, rows = call('HSCAN', books, cursor, 'COUNT', size), {}
  local flat = page[2]
  for i = 1, #flat, 2 do
    local names = unpacked(flat[i], is_names)
    local row = field_of(books, flat[i], flat[i + 1], names and is_row or never)
    if row and (key == '' or names[1] == key) then rows[#rows + 1] = {names, row} end
  end
  return {'reported', rows, page[1]}
end

-- call: {id, at, key, account, model, client, outcome, status, body}
local function forget_calls(ids)
  for i = 1, #ids, 500 do
    local some = {}
    for j = i, math.min(i + 499, #ids) do some[#some + 1] = ids[j] end
    call('ZREM', prefix .. 'calls', unpack(some))
    call('HDEL', prefix .. 'call', unpack(some))
  end
end

function ops.keepcalls(calls, most)
  local order, bodies = typed(prefix .. 'calls', 'zset'), typed(prefix .. 'call', 'hash')
  for _, one in ipairs(calls) do
    call('ZADD', order, one[2], one[1])
    call('HSET', bodies, one[1], pack(one))
  end
  forget_calls(call('ZRANGEBYSCORE', order, '-inf', string.format('(%.0f', now - CALLS), 'LIMIT', 0, 5000))
  local excess = call('ZCARD', order) - most
  if excess > 0 then forget_calls(call('ZRANGE', order, 0, math.min(excess, 5000) - 1)) end
  call('PEXPIRE', order, ttl(CALLS))
  call('PEXPIRE', bodies, ttl(CALLS))
  return {'done'}
end

-- the newest calls before one, whose place is (at, id), of equal times the greater id is the newer; and where to go on
function ops.findcalls(id, at, name, most)
  local order, bodies = typed(prefix .. 'calls', 'zset'), typed(prefix .. 'call', 'hash')
  local ids, found, after = {id}, {}, false
  if id == '' then
    ids = {}
    local top = string.format('%.0f', at)
    for _, one in ipairs(call('ZRANGE', order, top, top, 'BYSCORE', 'REV')) do
      if one < name and #ids < most then ids[#ids + 1] = one end
    end
    local from = string.format('%.0f', now - CALLS)
    local older = call('ZRANGE', order, '(' .. top, from, 'BYSCORE', 'REV', 'LIMIT', 0, most - #ids)
    for _, one in ipairs(older) do ids[#ids + 1] = one end
    if #ids == most then after = {call('ZSCORE', order, ids[most]), ids[most]} end
  end
  for _, one in ipairs(ids) do
    local raw = call('HGET', bodies, one)
    local kept = raw and field_of(bodies, one, raw, is_kept_call)
    if kept then found[#found + 1] = kept end
  end
  return {'calls', found, after}
end

function ops.ping() return {'pong', now} end

local answers = {}
for i, op in ipairs(unpack_one(ARGV[3])) do
  local ok, answer = pcall(ops[op[1]], unpack(op, 2))
  if not ok then
    answer = {'failed', type(answer) == 'table' and answer.err or tostring(answer)}
  end
  answers[i] = answer
end
return pack({began, answers, damaged})
