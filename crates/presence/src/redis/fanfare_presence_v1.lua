#!lua name=fanfare_presence_v1

-- Who is on which channel: rows, how many connections each user has, leases of nodes, and what they left behind.
--
-- All keys of a call are in one slot. Those of a channel carry its hash tag, `{tenant:channel}`:
--   rt:presence:{acme:crew:1}          hash: connection -> row, `INCARNATION LF USER LF REST`; USER is a JSON string, or
--                                      `~CONNECTION` of an anonymous client; REST is read by nodes alone
--   rt:presence:users:{acme:crew:1}    hash: USER -> how many connections it has here
--   rt:presence:meta:{acme:crew:1}     hash: epoch, version; it outlives the rows by an hour
--   rt:presence:change:{acme:crew:1}   a pub/sub channel, no key: `EPOCH VERSION LF`, then for each row that was written
--                                      `+CONNECTION LENGTH LF ROW`, for each that was removed `-CONNECTION LENGTH LF USER`, without
--                                      the spaces; the length is in bytes
-- Those of leases carry `{leases}`:
--   rt:presence:leases:{leases}        sorted set: incarnation -> end of its lease, on the server's clock, in milliseconds
--   rt:presence:leases:dead:{leases}   sorted set: incarnation that lost its lease -> until when it is remembered, and UNREAPED
--                                      longer where nobody has removed yet what it had
--   rt:presence:leases:due:{leases}    sorted set: the same -> when it is to be reaped
-- And rt:presence:node:INCARNATION     set: on which channels it may have rows, `tenant:channel`
--
-- A node replaces the library where its own revision is greater. What callers rely on stays as it is: a change
-- of arguments or replies is `fanfare_presence_v1` no more.
local REVISION = 3

-- How long the numbering of a channel is remembered when nobody is there any more, in milliseconds.
local REMEMBERED = 3600 * 1000

-- How much longer the dead are remembered whom nobody has reaped, in milliseconds.
local UNREAPED = 1000 * 3600 * 1000

-- The dead that one renewal is told of, at most; those that died last.
local TOLD = 1000

-- The dead that one renewal is given to reap, at most.
local GIVEN = 16

-- Arguments that Lua passes to one command, at most.
local PORTION = 1000

-- With its own format Lua would round large numbers.
local function text(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function wrong(arguments)
  return redis.error_reply('ERR fanfare_presence_v1: the arguments are ' .. arguments)
end

-- Calls a command with any number of arguments behind the key.
local function portioned(command, key, arguments)
  local done = 0
  for first = 1, #arguments, PORTION do
    done = done + redis.call(command, key, unpack(arguments, first, math.min(first + PORTION - 1, #arguments)))
  end
  return done
end

local function standing(meta)
  local found = redis.call('HMGET', meta, 'epoch', 'version')
  return found[1] or '', tonumber(found[2] or 0)
end

local function user_of(row)
  return string.match(row, '^[^\n]*\n([^\n]*)\n')
end

-- Whether a row is of a later incarnation of the same process: those differ in their last four digits alone.
local function is_later(row, incarnation)
  local other = string.match(row, '^[^\n]*')
  return #other == #incarnation and string.sub(other, 1, -5) == string.sub(incarnation, 1, -5) and other > incarnation
end

-- Writes how many connections users have now, counts the change, and tells of it. `epoch` is for a channel that has none.
local function finish(keys, channel, epoch, changes, before, after)
  local users, meta = keys[2], keys[3]
  if before == 0 then
    -- What counts nobody is left over of rows that were lost.
    redis.call('UNLINK', users)
  end
  local left = {}
  for user, difference in pairs(changes.users) do
    if difference ~= 0 and redis.call('HINCRBY', users, user, difference) <= 0 then
      left[#left + 1] = user
    end
  end
  portioned('HDEL', users, left)
  local known, version = standing(meta)
  version = version + 1
  if known == '' then
    redis.call('HSET', meta, 'epoch', epoch, 'version', text(version))
  else
    epoch = known
    redis.call('HSET', meta, 'version', text(version))
  end
  if after == 0 then
    redis.call('PEXPIRE', meta, REMEMBERED)
  elseif before == 0 then
    redis.call('PERSIST', meta)
  end
  redis.call('PUBLISH', channel, epoch .. ' ' .. text(version) .. '\n' .. table.concat(changes.told))
  return epoch, version
end

local function count(changes, user, difference)
  if user then
    changes.users[user] = (changes.users[user] or 0) + difference
  end
end

local function tell_removed(changes, connection, row)
  local user = user_of(row) or ''
  count(changes, user, -1)
  changes.told[#changes.told + 1] = '-' .. connection .. #user .. '\n' .. user
end

-- KEYS: rows, users, meta. ARGV: change channel, incarnation, a random epoch, how many rows are written, for each of them connection,
-- user and rest, then connections whose rows are removed where they are of the incarnation.
-- What changes nothing counts as no change and is not told. A row of a later incarnation of the same process is left as it is.
-- Returns epoch, version, 1 where somebody is there and nobody was, 1 where nobody is there and somebody was.
local function write(keys, args)
  local rows = keys[1]
  local channel, incarnation, epoch, puts = args[1], args[2], args[3], tonumber(args[4])
  if not (keys[3] and puts and #args >= 4 + 3 * puts) then
    return wrong('rows, users, meta; channel, incarnation, epoch, count, connection user rest ..., connection ...')
  end
  local names = {}
  for index = 1, puts do
    names[index] = args[2 + 3 * index]
  end
  for index = 5 + 3 * puts, #args do
    names[#names + 1] = args[index]
  end
  local before = redis.call('HLEN', rows)
  local current = {}
  if before > 0 and #names > 0 then
    local found = redis.call('HMGET', rows, unpack(names))
    for index, name in ipairs(names) do
      current[name] = found[index]
    end
  end
  local after, written, removed = before, {}, {}
  local changes = { users = {}, told = {} }
  for index = 1, puts do
    local connection, user = names[index], args[3 + 3 * index]
    local row, old = incarnation .. '\n' .. user .. '\n' .. args[4 + 3 * index], current[connection]
    if row ~= old and not (old and is_later(old, incarnation)) then
      if old then
        count(changes, user_of(old), -1)
      else
        after = after + 1
      end
      count(changes, user, 1)
      written[#written + 1], written[#written + 2] = connection, row
      current[connection] = row
      changes.told[#changes.told + 1] = '+' .. connection .. #row .. '\n' .. row
    end
  end
  local own = incarnation .. '\n'
  for index = puts + 1, #names do
    local connection = names[index]
    local old = current[connection]
    if old and string.sub(old, 1, #own) == own then
      after = after - 1
      removed[#removed + 1] = connection
      current[connection] = nil
      tell_removed(changes, connection, old)
    end
  end
  if #changes.told == 0 then
    local known, version = standing(keys[3])
    return { known, version, 0, 0 }
  end
  portioned('HSET', rows, written)
  portioned('HDEL', rows, removed)
  local known, version = finish(keys, channel, epoch, changes, before, after)
  return { known, version, (before == 0 and after > 0) and 1 or 0, (before > 0 and after == 0) and 1 or 0 }
end

-- KEYS: rows, users, meta, and where leases are in the same slot, leases. ARGV: change channel, incarnation that is dead, a random epoch,
-- cursor, about how many rows to look at. An incarnation that holds a lease is refused, where that can be seen.
-- Returns the next cursor, '0' at the end; 1 where nobody is there any more; and connection and row of those that were removed.
local function reap(keys, args)
  local rows, leases = keys[1], keys[4]
  local channel, dead, epoch, cursor, portion = args[1], args[2], args[3], args[4], tonumber(args[5])
  if not (keys[3] and cursor and portion) then
    return wrong('rows, users, meta, leases; channel, incarnation, epoch, cursor, count')
  end
  local lease = leases and redis.call('ZSCORE', leases, dead)
  if lease and tonumber(lease) > now() then
    return redis.error_reply('LIVE ' .. dead .. ' holds a lease')
  end
  local before = redis.call('HLEN', rows)
  local found = redis.call('HSCAN', rows, cursor, 'COUNT', portion)
  local own, gone, removed = dead .. '\n', {}, {}
  local changes = { users = {}, told = {} }
  for index = 1, #found[2], 2 do
    local connection, row = found[2][index], found[2][index + 1]
    -- A scan may give a row twice.
    if string.sub(row, 1, #own) == own and not removed[connection] then
      removed[connection] = true
      removed[#removed + 1], removed[#removed + 2] = connection, row
      gone[#gone + 1] = connection
      tell_removed(changes, connection, row)
    end
  end
  if #gone == 0 then
    return { found[1], 0, {} }
  end
  portioned('HDEL', rows, gone)
  finish(keys, channel, epoch, changes, before, before - #gone)
  return { found[1], before == #gone and 1 or 0, removed }
end

-- KEYS: rows, meta. ARGV: cursor, about how many rows. Returns epoch, version, the next cursor, and connections and rows.
local function read(keys, args)
  if not (keys[2] and args[1] and tonumber(args[2])) then
    return wrong('rows, meta; cursor, count')
  end
  local epoch, version = standing(keys[2])
  local found = redis.call('HSCAN', keys[1], args[1], 'COUNT', args[2])
  return { epoch, version, found[1], found[2] }
end

-- KEYS: rows, users, meta. Returns epoch, version, how many users and how many connections.
local function stand(keys)
  if not keys[3] then
    return wrong('rows, users, meta')
  end
  local epoch, version = standing(keys[3])
  return { epoch, version, redis.call('HLEN', keys[2]), redis.call('HLEN', keys[1]) }
end

local function bury(keys, incarnation, time, remembered)
  redis.call('ZADD', keys[2], 'NX', text(time + remembered + UNREAPED), incarnation)
  redis.call('ZADD', keys[3], 'NX', text(time), incarnation)
end

-- Notes those whose lease has ended. Says whether `own` holds one (nothing where it has none), and who else does.
local function held_and_others(keys, own, time, remembered)
  local leases = keys[1]
  local found = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
  local has, others, ended = nil, {}, {}
  for index = 1, #found, 2 do
    local incarnation, left = found[index], tonumber(found[index + 1]) - time
    if left <= 0 then
      ended[#ended + 1] = incarnation
    elseif incarnation ~= own then
      others[#others + 1], others[#others + 2] = incarnation, left
    end
    if incarnation == own then
      has = left > 0
    end
  end
  for _, incarnation in ipairs(ended) do
    bury(keys, incarnation, time, remembered)
  end
  portioned('ZREM', leases, ended)
  return has, others
end

-- Those that died within the time for which they are remembered.
local function dead_now(keys, time)
  local dead, due = keys[2], keys[3]
  local found = redis.call('ZRANGE', dead, 0, TOLD - 1, 'REV', 'WITHSCORES')
  local told, has_old = {}, #found == 2 * TOLD
  for index = 1, #found, 2 do
    if tonumber(found[index + 1]) > time then
      told[#told + 1] = found[index]
    else
      has_old = true
    end
  end
  if has_old then
    local old = redis.call('ZRANGE', dead, '-inf', text(time), 'BYSCORE', 'LIMIT', 0, PORTION)
    portioned('ZREM', dead, old)
    portioned('ZREM', due, old)
  end
  return told
end

-- KEYS: leases, dead, due. ARGV: incarnation, for how long (ms), '1' where its lease begins, '1' where it may be given dead ones to reap,
-- for how long nobody else is given those (ms), for how long the dead are remembered (ms).
-- Returns 1 where the lease is held now; the others that hold one, each followed by how long (ms); the dead; those to reap.
local function renew(keys, args)
  local own, lease, begin, reaps = args[1], tonumber(args[2]), args[3] == '1', args[4] == '1'
  local claim, remembered = tonumber(args[5]), tonumber(args[6])
  if not (keys[3] and lease and claim and remembered) then
    return wrong('leases, dead, due; incarnation, lease, begin, reaps, claim, remembered')
  end
  local time = now()
  local held, others = held_and_others(keys, own, time, remembered)
  if held == nil and begin then
    -- One that was dead once stays so: it may be reaped at this moment.
    held = (not redis.call('ZSCORE', keys[2], own)) or nil
  end
  if held then
    redis.call('ZADD', keys[1], text(time + lease), own)
  elseif held == nil then
    -- What it writes from now on is nobody's, even where the server has lost all that it knew of it.
    bury(keys, own, time, remembered)
    held = false
  end
  local dead, given = dead_now(keys, time), {}
  if held and reaps and #dead > 0 then
    given = redis.call('ZRANGE', keys[3], '-inf', text(time), 'BYSCORE', 'LIMIT', 0, GIVEN)
    for _, incarnation in ipairs(given) do
      redis.call('ZADD', keys[3], text(time + claim), incarnation)
    end
  end
  return { held and 1 or 0, others, dead, given }
end

-- KEYS: leases, dead, due. ARGV: incarnation, and in how long its lease is to end (ms), at the latest; '' where nothing is to be left of it.
local function resign(keys, args)
  local own, after = args[1], args[2]
  if not (keys[3] and after) then
    return wrong('leases, dead, due; incarnation, after')
  end
  if after == '' then
    for _, key in ipairs(keys) do
      redis.call('ZREM', key, own)
    end
  else
    redis.call('ZADD', keys[1], 'XX', 'LT', text(now() + tonumber(after)), own)
  end
  return 1
end

-- KEYS: leases, dead, due. ARGV: incarnation, in how long it is to be reaped again at the soonest (ms), for how long the dead are remembered (ms).
local function reaped(keys, args)
  local incarnation, again, remembered = args[1], tonumber(args[2]), tonumber(args[3])
  if not (keys[3] and again and remembered) then
    return wrong('leases, dead, due; incarnation, again, remembered')
  end
  local time = now()
  local until_then = tonumber(redis.call('ZSCORE', keys[2], incarnation) or 0)
  if until_then > time + remembered then
    until_then = until_then - UNREAPED
    redis.call('ZADD', keys[2], 'XX', text(until_then), incarnation)
  end
  -- The longer it has been dead the less often, whoever looks.
  local age = time - (until_then - remembered)
  redis.call('ZADD', keys[3], 'XX', text(time + math.max(again, age)), incarnation)
  return 1
end

-- KEYS: leases. ARGV: incarnation. Returns 1 where it holds a lease.
local function lease(keys, args)
  if not (keys[1] and args[1]) then
    return wrong('leases; incarnation')
  end
  local ends = redis.call('ZSCORE', keys[1], args[1])
  return (ends and tonumber(ends) > now()) and 1 or 0
end

-- KEYS: an incarnation's set. ARGV: channels on which it may have rows from now on.
local function note(keys, args)
  return portioned('SADD', keys[1], args)
end

-- KEYS: an incarnation's set. ARGV: channels on which it has none any more; none for all.
local function unnote(keys, args)
  if #args == 0 then
    return redis.call('UNLINK', keys[1])
  end
  return portioned('SREM', keys[1], args)
end

-- KEYS: the set of one that is dead. ARGV: for how long it is kept from now on (ms).
local function keep_notes(keys, args)
  return redis.call('PEXPIRE', keys[1], args[1])
end

-- KEYS: an incarnation's set. ARGV: cursor, about how many. Returns the next cursor and channels.
local function noted(keys, args)
  return redis.call('SSCAN', keys[1], args[1], 'COUNT', args[2])
end

-- Returns the revision, and which of the commands that the functions use the caller may not use, whatever the key.
local function check()
  local used = {
    'hdel', 'hincrby', 'hlen', 'hmget', 'hscan', 'hset', 'persist', 'pexpire', 'publish', 'sadd', 'srem', 'sscan', 'time',
    'unlink', 'zadd', 'zrange', 'zrem', 'zscore',
  }
  local missing = {}
  for _, command in ipairs(used) do
    if not redis.acl_check_cmd(command) then
      missing[#missing + 1] = command
    end
  end
  return { REVISION, missing }
end

local function register(name, callback, flags)
  redis.register_function { function_name = 'fanfare_presence_v1_' .. name, callback = callback, flags = flags }
end

-- What frees memory, or keeps leases, goes on where the server has no more memory to give.
register('write', write, {})
register('note', note, {})
register('reap', reap, { 'allow-oom' })
register('renew', renew, { 'allow-oom' })
register('resign', resign, { 'allow-oom' })
register('reaped', reaped, { 'allow-oom' })
register('unnote', unnote, { 'allow-oom' })
register('keep_notes', keep_notes, { 'allow-oom' })
register('read', read, { 'no-writes' })
register('stand', stand, { 'no-writes' })
register('lease', lease, { 'no-writes' })
register('noted', noted, { 'no-writes' })
register('check', check, { 'no-writes' })
