#!lua name=fanfare_v1

-- History of channels: a stream of publications, what is known of its numbering, and live delivery, all in one step.
--
-- All keys of a call belong to one channel and carry its hash tag, `{tenant:channel}`, so that a cluster has them on one node:
--   rt:hist:{acme:project:x}      stream; the id of an entry is OFFSET-TIME, its field `b` the body as it was published
--   rt:meta:{acme:project:x}      hash, which outlives the stream:
--                                   epoch   which numbering this is
--                                   last    offset of the newest publication, 0 before the first
--                                   base    offset after which the epoch began; older entries belong to another epoch
--                                   replid  the server's replication id when the epoch was last confirmed
--                                   loose   1: what was published in this epoch is not proof against a restart
--                                   head    a time not after that of the oldest entry
--   rt:live:{acme:project:x}      the pub/sub channel of nodes; no key is ever stored under this name
--   rt:id:{acme:project:x}:ID     `OFFSET EPOCH` of the publication with this id
--
-- A node replaces the library where its own revision is greater. What callers rely on stays as it is: a change
-- of arguments or replies is `fanfare_v1` no more.
local REVISION = 3

-- How long a numbering is remembered after the last that was published, beside twice the retention, and where nothing
-- ever was, after anybody asked for it. In milliseconds.
local REMEMBERED = 7 * 24 * 3600 * 1000
local REMEMBERED_UNUSED = 3600 * 1000

-- Entries that are read at once, at most: their bodies are in the server's memory a second time.
local CHUNK = 64

local NO_REPLID = '0000000000000000000000000000000000000000'

-- Beyond 2^53 Lua would skip numbers, and with its own format it would round long before.
local function text(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), time
end

local function offset_and_time(entry)
  local offset, time = string.match(entry[1], '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(time)
end

local function new_epoch(meta, replid)
  local time = redis.call('TIME')
  -- Random by the replication id, which no other server and no other start has; new by the time.
  return string.sub(redis.sha1hex(table.concat({ meta, replid, time[1], time[2] }, ' ')), 1, 16)
end

-- What INFO said last, and what was read in it: on a server without replicas it is the same for long.
local known_info, known_server

local function server()
  local info = redis.call('INFO', 'replication')
  if info ~= known_info then
    known_info = info
    known_server = {
      replid = string.match(info, 'master_replid:(%x+)'),
      replid2 = string.match(info, 'master_replid2:(%x+)'),
      attached = tonumber(string.match(info, 'connected_slaves:(%d+)')) or 0,
      online = select(2, string.gsub(info, 'state=online', '')),
    }
  end
  return known_server
end

-- Reads where the channel stands. Begins a new epoch where acknowledged publications may have been lost: the server's
-- replication id changes when a replica takes over, and with every start. The epoch goes on only after the start of a
-- server that loses nothing: the caller says that it is (`durable` is '1'), no other server has handed it its data
-- (there is no second replication id), and it was so all the time (not `loose`).
--
-- In a cluster a channel's slot may have moved here from another master, with all its keys: then nothing is lost. A caller who can
-- ask the other masters says 'ask': it gets the error UNPROVEN with the replication id that the channel had last, and calls again with
-- 'from ID' where a master has that id now, and has done nothing but go on since.
local function open(hist, meta, durable)
  local at = server()
  local replid = at.replid
  local fields = redis.call('HMGET', meta, 'epoch', 'last', 'base', 'replid', 'loose', 'head')
  local state = {
    epoch = fields[1],
    last = tonumber(fields[2] or 0),
    base = tonumber(fields[3] or 0),
    loose = fields[5] == '1',
    head = fields[6] and tonumber(fields[6]) or 0,
    attached = at.attached,
    online = at.online,
  }
  if not state.epoch then
    -- Without its numbering a stream means nothing.
    redis.call('UNLINK', hist)
    state.epoch, state.last, state.base, state.loose = new_epoch(meta, replid), 0, 0, false
    redis.call('HSET', meta, 'epoch', state.epoch, 'last', '0', 'base', '0', 'replid', replid)
  elseif fields[4] ~= replid then
    if durable == '1' and not state.loose and at.attached == 0 and at.replid2 == NO_REPLID then
      redis.call('HSET', meta, 'replid', replid)
    elseif durable == 'from ' .. (fields[4] or '') and at.replid2 ~= fields[4] then
      redis.call('HSET', meta, 'replid', replid)
    elseif durable == 'ask' and fields[4] and at.replid2 ~= fields[4] then
      return nil, redis.error_reply('UNPROVEN ' .. fields[4])
    else
      state.epoch, state.base, state.loose = new_epoch(meta, replid), state.last, false
      redis.call('HSET', meta, 'epoch', state.epoch, 'base', text(state.base), 'replid', replid)
      redis.call('HDEL', meta, 'loose')
    end
  end
  return state
end

-- Written now and then only, so that a look at an idle channel is no write.
local function remember(meta, state, ttl)
  local wanted = state.last == 0 and REMEMBERED_UNUSED or REMEMBERED + 2 * ttl
  if redis.call('PTTL', meta) < 0.9 * wanted then
    redis.call('PEXPIRE', meta, text(wanted))
  end
end

local function oldest(hist)
  return redis.call('XRANGE', hist, '-', '+', 'COUNT', 1)[1]
end

-- Takes out what is older than `ttl`. The offsets of a stream have no gaps, so the place is found by halving.
local function trim_by_age(hist, meta, state, time, ttl)
  if time - state.head < ttl then
    return
  end
  local entry = oldest(hist)
  if not entry then
    return
  end
  local low, since = offset_and_time(entry)
  if time - since >= ttl then
    low = low + 1
    local high = state.last + 1
    while low < high do
      local middle = math.floor((low + high) / 2)
      local found = redis.call('XRANGE', hist, text(middle), text(middle), 'COUNT', 1)[1]
      local at = 0
      if found then
        at = select(2, offset_and_time(found))
      end
      if time - at >= ttl then
        low = middle + 1
      else
        high, since = middle, at
      end
    end
    if low > state.last then
      redis.call('UNLINK', hist)
      return
    end
    redis.call('XTRIM', hist, 'MINID', '=', text(low))
  end
  state.head = since
  redis.call('HSET', meta, 'head', text(since))
end

-- The oldest offset of the epoch that is retained; the next one to come where there is none.
local function first_retained(hist, state)
  local entry = oldest(hist)
  if not entry then
    return state.last + 1
  end
  return math.max((offset_and_time(entry)), state.base + 1)
end

-- KEYS: stream, hash, live channel, and where the publication has an id the key of that id.
-- ARGV: body, how many to retain, how long to retain them (ms), how long to remember the id (ms),
--       '1' where the server loses nothing when it starts again, '0' where it may, '' where that is not known; in a cluster
--       'ask' and 'from ID', see above,
--       '1' for a sharded publish, as clusters need it.
-- Returns offset, epoch, 1 for an id that was published before (where that stands) or 0, and how many replicas there are.
local function publish(keys, args)
  local hist, meta, live, id = keys[1], keys[2], keys[3], keys[4]
  local body, size, ttl, window = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  if not (live and body and size and ttl and window and size >= 1 and ttl >= 1 and window >= 1) then
    return redis.error_reply('ERR fanfare_v1_publish: 3 or 4 keys, then body, size, ttl and window, all at least 1')
  end
  local state, unproven = open(hist, meta, args[5])
  if not state then
    return unproven
  end
  if id then
    local offset, epoch = string.match(redis.call('GET', id) or '', '^(%d+) (.+)$')
    if offset then
      -- A write, so that whoever waits for replicas waits for the first one too.
      redis.call('PEXPIRE', meta, text(REMEMBERED + 2 * ttl))
      return { tonumber(offset), epoch, 1, state.online }
    end
  end
  local time = now()
  local before = state.last
  state.last = before + 1
  local offset = text(state.last)
  redis.call('XADD', hist, 'MAXLEN', '=', text(size), offset .. '-' .. text(time), 'b', body)
  local promised = args[5] == '1' or (args[5] or '') == ''
  if state.loose or (promised and state.attached == 0) then
    redis.call('HSET', meta, 'last', offset)
  else
    redis.call('HSET', meta, 'last', offset, 'loose', '1')
  end
  if id then
    redis.call('PSETEX', id, text(window), offset .. ' ' .. state.epoch)
  end
  trim_by_age(hist, meta, state, time, ttl)
  redis.call('PEXPIRE', hist, text(ttl))
  remember(meta, state, ttl)
  -- Of what lies before the epoch nobody can say what was lost.
  local previous = (before == state.base and before > 0) and '-' or text(before)
  local message = table.concat({ state.epoch, offset, previous, text(time) }, ' ') .. '\n' .. body
  redis.call(args[6] == '1' and 'SPUBLISH' or 'PUBLISH', live, message)
  return { state.last, state.epoch, 0, state.online }
end

-- Reads in chunks until there are enough entries or bytes; one entry is read however large it is.
--
-- An offset may stand there twice, and then the later entry counts: a server that is killed while it writes a transaction
-- to its append-only file leaves a part of it there, and carries that out when it loads the file the time after next.
local function read(command, hist, from, to, step, count, bytes)
  local entries, taken, used = {}, 0, 0
  while taken < count and (taken == 0 or used < bytes) and (to - from) * step >= 0 do
    -- So many that they are likely to fit.
    local fitting = taken == 0 and 4 or math.ceil((bytes - used) * taken / math.max(used, 1))
    local chunk = math.min(count - taken, CHUNK, math.max(fitting, 1))
    local found = redis.call(command, hist, text(from), text(to), 'COUNT', chunk)
    for _, entry in ipairs(found) do
      local body, offset = entry[2][2], (offset_and_time(entry))
      local again = taken > 0 and from == offset + step
      if again and step > 0 then
        used = used - #entries[taken][2] + #body
        entries[taken] = { entry[1], body }
      elseif not again then
        if taken > 0 and used + #body > bytes then
          return entries
        end
        taken, used = taken + 1, used + #body
        entries[taken] = { entry[1], body }
        from = offset + step
      end
    end
    if step > 0 and taken > 0 then
      -- The last one may have been written again, too.
      local last = entries[taken]
      for _, entry in ipairs(redis.call('XRANGE', hist, '(' .. last[1], text(from - step))) do
        used = used - #entries[taken][2] + #entry[2][2]
        entries[taken] = { entry[1], entry[2][2] }
      end
    end
    if #found < chunk then
      break
    end
  end
  return entries
end

-- KEYS: stream, hash. ARGV: 'after' or 'before', an offset ('' with 'before': from the newest), how many entries,
-- about how many bytes, how long publications are retained (ms), and whether the server is durable, as for publish.
-- Returns epoch, offset of the newest, oldest retained offset, and the entries as id and body, in the order of the read.
local function history(keys, args)
  local hist, meta = keys[1], keys[2]
  local direction, offset = args[1], tonumber(args[2])
  local count, bytes, ttl = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  local known = direction == 'before' or (direction == 'after' and offset)
  if not (meta and known and count and bytes and ttl and count >= 1 and ttl >= 1) then
    return redis.error_reply('ERR fanfare_v1_history: 2 keys, then after or before, offset, count, bytes and ttl')
  end
  local state, unproven = open(hist, meta, args[6])
  if not state then
    return unproven
  end
  trim_by_age(hist, meta, state, now(), ttl)
  remember(meta, state, ttl)
  local first = first_retained(hist, state)
  local entries
  if direction == 'after' then
    entries = read('XRANGE', hist, math.max(offset + 1, first), state.last, 1, count, bytes)
  else
    local newest = offset and math.min(offset - 1, state.last) or state.last
    entries = read('XREVRANGE', hist, newest, first, -1, count, bytes)
  end
  return { state.epoch, state.last, first, entries }
end

-- KEYS: stream, hash. ARGV: how long publications are retained (ms), and whether the server is durable.
-- Returns epoch, offset of the newest, and oldest retained offset.
local function position(keys, args)
  local hist, meta, ttl = keys[1], keys[2], tonumber(args[1])
  if not (meta and ttl and ttl >= 1) then
    return redis.error_reply('ERR fanfare_v1_position: 2 keys, then ttl')
  end
  local state, unproven = open(hist, meta, args[2])
  if not state then
    return unproven
  end
  trim_by_age(hist, meta, state, now(), ttl)
  remember(meta, state, ttl)
  return { state.epoch, state.last, first_retained(hist, state) }
end

-- ARGV: '1' where publishes are sharded.
-- Returns the revision, and which of the commands that the functions use the caller may not use, whatever the key.
local function check(_, args)
  local used = {
    'get', 'hdel', 'hmget', 'hset', 'info', 'pexpire', 'psetex', 'pttl', 'time', 'unlink', 'xadd', 'xrange', 'xrevrange',
    'xtrim', args[1] == '1' and 'spublish' or 'publish',
  }
  local missing = {}
  for _, command in ipairs(used) do
    if not redis.acl_check_cmd(command) then
      missing[#missing + 1] = command
    end
  end
  return { REVISION, missing }
end

redis.register_function('fanfare_v1_publish', publish)
redis.register_function('fanfare_v1_history', history)
redis.register_function('fanfare_v1_position', position)
redis.register_function { function_name = 'fanfare_v1_check', callback = check, flags = { 'no-writes' } }
